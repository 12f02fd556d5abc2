"""The page about scaling laws is true: its commands are accepted, its links lead somewhere, figures agree."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from experiments.cli.program import main
from experiments.plan.scaling import FITS, training_flops
from experiments.scaling.program import COMMANDS

DOCS = Path(__file__).resolve().parent.parent / "experiments" / "docs"
PAGE = (DOCS / "scaling.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


class Parsed(BaseException):
    """A command line was accepted."""


@pytest.mark.parametrize("line", LINES)
def test_every_command_of_the_page_is_accepted(line, monkeypatch):
    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(parser, args=None, namespace=None):
        if not parse(parser, args, namespace)[1]:
            raise Parsed
        return parse(parser, args, namespace)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
    program, *argv = shlex.split(line)
    assert program == "trivium"
    with pytest.raises(Parsed):
        main(argv)


def test_the_page_names_every_scaling_command():
    assert {shlex.split(line)[2] for line in LINES if line.startswith("trivium scaling ")} == set(COMMANDS)


def test_every_link_of_the_page_leads_to_a_file():
    targets = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert targets
    assert [target for target in targets if not (DOCS / target).exists()] == []


def test_the_steps_of_the_page_are_those_of_its_budgets():
    """C / 6N tokens, 2 048 of them a step; N is rounded to four digits."""
    rows = re.findall(r"^ d\d+ +([\d.]+) (k|M) .* ([\d,]+) +([\d,]+) +([\d,]+)$", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for count, unit, *steps in rows:
        parameters = float(count) * {"k": 1e3, "M": 1e6}[unit]
        for budget, text in zip((1e13, 3e13, 6e13), steps, strict=True):
            assert training_flops(parameters, int(text.replace(",", "")) * 2048) == pytest.approx(
                budget, rel=2e-3
            )


def test_the_published_constants_of_the_page_are_those_that_plans_use():
    published = dict(re.findall(r"^\| (\S) \| .* \| ([\d.]+)(?: \([\d.]+\))? \|$", PAGE, re.MULTILINE))
    fit = FITS["epoch"]
    for name, value in {"E": fit.E, "α": fit.alpha, "β": fit.beta, "A": fit.A, "B": fit.B}.items():
        assert float(published[name]) == pytest.approx(value, rel=5e-4)
