"""The GPU check runs on a CPU in a toy's size, and a part that fails leaves the others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmarks.gpu_check import PARTS, main, run_part
from experiments.benchmarks.gpu_report import FAILED, MET, MISSED, Report, read_rows

ROOT = Path(__file__).resolve().parent.parent


def check(out: Path, *options: str) -> tuple[subprocess.CompletedProcess, list[dict]]:
    """Runs the check with toys; what it printed and its rows."""
    environment = {**os.environ, "OUT": str(out), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, "-m", "experiments.benchmarks.gpu_check", "--tiny", *options]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    return done, json.loads((out / "gpu_check.json").read_text())["rows"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_part_measures_something_on_a_cpu_and_meets_its_bars(tmp_path):
    done, rows = check(tmp_path, "--seconds", "800")
    assert done.returncode == 0, done.stdout[-4000:]
    named = {part: [row["name"] for row in rows if row["part"] == part] for part in PARTS}
    assert all(len(names) > 1 for names in named.values()), named
    assert all(name in done.stdout for name in PARTS)
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
