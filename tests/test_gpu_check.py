"""The GPU check runs on a CPU in a toy's size, and a part that fails leaves the others."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.benchmarks import gpu_check
from experiments.benchmarks.gpu_check import PARTS, main, run_part
from experiments.benchmarks.gpu_report import FAILED, MET, MISSED, Report, read_rows
from tests.ranks import fork_code

ROOT = Path(__file__).resolve().parent.parent
CHILD = "import sys; from experiments.benchmarks.gpu_check import main; sys.exit(main())"


class Forked:
    """A part's process as `Popen` would start it, which is forked from one that has imported everything."""

    def __init__(self, line, cwd, env, stdout, stderr, start_new_session):
        log = Path(stdout.name)
        self.process = fork_code(env, CHILD, line[3:], log, log.with_suffix(".errors"))
        self.pid = self.process.pid

    def wait(self, seconds=None):
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("a part", seconds)
        return self.process.exitcode


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_every_part_measures_something_on_a_cpu_and_meets_its_bars(tmp_path, monkeypatch, capsys):
    fork = SimpleNamespace(Popen=Forked, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(gpu_check, "subprocess", fork)  # of that module alone
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--tiny", "--seconds", "2400"])
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, printed = main(), capsys.readouterr().out
    assert code == 0, printed[-4000:]
    rows = json.loads((tmp_path / "gpu_check.json").read_text())["rows"]
    named = {part: [row["name"] for row in rows if row["part"] == part] for part in PARTS}
    assert all(len(names) > 1 for names in named.values()), named
    assert all(name in printed for name in PARTS)
    for stage in ("pretrain", "sft", "reward", "ppo"):
        for precision in ("32-true", "bf16-mixed"):
            assert any(name.startswith(f"{stage} {precision}") for name in named["stages"])
    assert not {row["verdict"] for row in rows} & {MISSED, FAILED}
    spent = {row["name"]: row["number"] for row in rows if row["part"] == "ppo" and row["number"]}
    assert all(spent[f"PPO, {work}"] > 0 for work in ("sampling", "scoring", "update", "other"))


def test_a_part_that_fails_leaves_the_others_and_the_check_ends_with_one(tmp_path, monkeypatch):
    monkeypatch.setitem(PARTS, "absent", PARTS["attention"])  # the part's own process knows none of that name
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--tiny", "--parts", "absent,attention"])
    monkeypatch.setenv("OUT", str(tmp_path))
    assert main() == 1
    rows = json.loads((tmp_path / "gpu_check.json").read_text())["rows"]
    assert [row["verdict"] for row in rows if row["part"] == "absent"] == [FAILED]
    assert "there is no absent" in rows[0]["value"]
    assert {row["verdict"] for row in rows if row["part"] == "attention"} == {MET, ""}


def test_a_part_that_hangs_is_stopped_and_says_so(tmp_path):
    (row,) = run_part("stages", True, tmp_path, 5.5)  # it has not imported torch by then
    assert row.verdict == FAILED
    assert row.value == "stopped at its limit of 6 s"


def test_what_fails_within_a_part_becomes_a_row(tmp_path):
    report = Report(tmp_path / "rows.jsonl", "part", tiny=True)
    with report.guarded("first"):
        raise RuntimeError("out of luck\nand a trace")
    report.at_most("second", 2e-4, 1e-4)
    report.at_most("third", float("nan"), 1e-4)
    report.at_most("fourth", 1e-5, 1e-4)
    rows = read_rows(report.file)
    assert [row.verdict for row in rows] == [FAILED, MISSED, MISSED, MET]
    assert rows[0].value == "RuntimeError: out of luck"


def test_an_unknown_part_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.gpu_check", "--parts", "sped"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is no sped" in done.stderr
