"""The runs that are killed, and what became of them as a table."""

from collections import defaultdict

import pytest

from tests.faults.runs import STAGES, STRATEGIES, Outcome, Runs

OUTCOMES: dict[tuple[str, str], list[Outcome]] = defaultdict(list)


def pytest_addoption(parser):
    parser.addoption("--every-moment", action="store_true", help="all 192 kills instead of a few")


@pytest.fixture(scope="session")
def runs(stage_lines, tmp_path_factory):
    """Makes runs, undisturbed or killed."""
    folder = tmp_path_factory.mktemp("faults")
    return Runs(folder, stage_lines(folder / "runs"))


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--every-moment", default=False):
        left_out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def outcomes():
    """What became of the killed runs, by stage and strategy."""
    return OUTCOMES


def pytest_terminal_summary(terminalreporter):
    if not OUTCOMES:
        return
    terminalreporter.write_line(f"\n{'stage':<10}{'strategy':<10}{'kills':>6}{'lost':>6}{'bitwise':>9}")
    for stage in STAGES:
        for strategy in STRATEGIES:
            if found := OUTCOMES.get((stage, strategy)):
                lost, same = sum(each.lost > 0 for each in found), sum(not each.problems for each in found)
                terminalreporter.write_line(
                    f"{stage:<10}{strategy:<10}{len(found):>6}{lost:>6}{f'{same}/{len(found)}':>9}"
                )
