"""A sweep runs, is killed and goes on; its runs fail, fall behind and are told from noise."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from experiments.cli.program import main
from experiments.cli.user_errors import UserError
from experiments.sweep.run import sweep

PYTHON = sys.executable
TOY = """
import os, sys, time
given = dict(word[2:].split("=", 1) for word in sys.argv[1:])
folder, x, seed = os.environ["TRIVIUM_SWEEP_RUN"], float(given["x"]), int(given.get("seed", 0))
with open(os.path.join(folder, "attempts"), "a") as file:
    file.write("begun\\n")
if x > 0.9:
    sys.exit("toy: x is too large")
while os.path.exists(os.environ.get("TOY_WAITS_FOR", "")):
    time.sleep(0.01)
with open(os.path.join(folder, "metrics.csv"), "w") as file:
    file.write("step,loss\\n")
    for step in range(4):
        file.write(f"{step},{(x - 0.3) ** 2 + 1 / (1 + step) + 0.001 * seed}\\n")
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Writes the YAML of a sweep of a toy program into a folder of its own; gives its file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(TOY)

    def write(**keys) -> Path:
        document = {"name": "toy", "program": "toy.py", "method": "random", "metric": {"name": "loss"}}
        document["parameters"] = {"x": {"min": 0.0, "max": 0.8}}
        document["command"] = [PYTHON, "${program}", "${args}"]  # which begins faster than a warm one
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump({**document, **keys}))
        return tmp_path / "toy.yaml"

    return write


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def attempts(folder: Path) -> list[int]:
    return [len(file.read_text().splitlines()) for file in sorted(folder.glob("runs/*/attempts"))]


def until(condition, process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def start(file: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.cli", "sweep", str(file), "--output", "out", *options]
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_random_sweep_killed_five_times_ends_with_its_24_runs_and_none_repeated(toy, tmp_path, warm_python):
    file, out = toy(run_cap=24), tmp_path / "out"
    for number in range(5):
        process = start(file, "--workers", "2")
        until(lambda number=number: len(list(out.glob("runs/*/metrics.csv"))) > 4 * number + 2, process)
        process.kill()
        process.wait()
    ended = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/metrics.csv")}
    process = start(file, "--json")
    printed, told = process.communicate()
    assert process.returncode == 0, told
    lines = [json.loads(line) for line in printed.splitlines()]
    assert lines == lines_of(out)
    assert [line["run"] for line in lines] == [f"{number:04d}" for number in range(24)]
    assert {line["state"] for line in lines} == {"ended"}
    assert len({line["parameters"]["x"] for line in lines}) == 24
    # a run that was killed, or had ended when nobody was left to write that down, begins once more
    assert sum(count > 1 for count in attempts(out)) <= 2 * 5
    assert len(ended) >= 10
    assert sqlite3.connect(out / "study.db").execute("select count(*) from trials").fetchone() == (24,)


def test_the_configurations_after_a_kill_are_those_that_would_have_come(toy, tmp_path):
    file = toy(run_cap=5)
    whole = sweep(file, tmp_path / "whole", quiet=True)
    toy(run_cap=2)
    sweep(file, tmp_path / "parts", quiet=True)
    toy(run_cap=5)
    parts = sweep(file, tmp_path / "parts", quiet=True)
    assert [run["parameters"] for run in parts.runs()] == [run["parameters"] for run in whole.runs()]
    assert attempts(tmp_path / "parts") == [1] * 5


def test_two_commands_share_a_folder_and_no_run(toy, tmp_path, warm_python):
    file = toy(run_cap=10)
    processes = [start(file) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0], [p.communicate() for p in processes]
    assert attempts(tmp_path / "out") == [1] * 10


def test_ctrl_c_stops_the_runs_and_the_same_command_goes_on(toy, tmp_path, monkeypatch, warm_python):
    gate, out = tmp_path / "gate", tmp_path / "out"
    gate.touch()
    monkeypatch.setenv("TOY_WAITS_FOR", str(gate))
    file = toy(run_cap=3)
    process = start(file)
    until(lambda: list(out.glob("runs/*/attempts")), process)
    process.send_signal(signal.SIGINT)
    printed, told = process.communicate()
    assert process.returncode == 130, told
    assert "the same command goes on in out" in told
    gate.unlink()
    assert [run["state"] for run in sweep(file, out, quiet=True).runs()] == ["ended"] * 3
    assert attempts(out) == [2, 1, 1]


def test_a_task_of_a_slurm_array_stops_before_its_time_is_up_is_queued_again_and_goes_on(
    toy, tmp_path, monkeypatch, warm_python
):
    """SLURM sends SIGTERM to the script alone (`--signal=B:TERM`)."""
    gate, out = tmp_path / "gate", tmp_path / "out"
    gate.touch()
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@" >> queued\n')
    (tmp_path / "scontrol").chmod(0o755)
    root = Path(__file__).resolve().parent.parent
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": sys.executable, "PYTHONPATH": root}
    environment |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "trivium-sweep", "SLURM_NTASKS": "1"}
    for name, value in {**environment, "TOY_WAITS_FOR": gate}.items():
        monkeypatch.setenv(name, str(value))
    line = ["bash", str(root / "experiments/sweep/slurm.sbatch"), str(toy(run_cap=2)), "out", "--json"]
    task = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: list(out.glob("runs/*/attempts")), task)
    task.terminate()
    _, told = task.communicate()
    assert (task.returncode, "the same command goes on in out" in told) == (143, True), told
    assert Path("queued").read_text() == "requeue 7\n"
    gate.unlink()
    again = subprocess.run(line, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert [json.loads(text)["state"] for text in again.stdout.splitlines()] == ["ended"] * 2
    assert attempts(out) == [2, 1]
    assert Path("queued").read_text() == "requeue 7\n"  # once


def test_a_run_that_fails_is_kept_with_its_line_and_the_sweep_goes_on(toy, tmp_path):
    result = sweep(toy(method="grid", parameters={"x": {"values": [0.95, 0.2, 1.0, 0.3]}}), tmp_path / "out")
    assert [run["state"] for run in result.runs()] == ["failed", "ended", "failed", "ended"]
    assert [row.configuration.runs[0].line for row in result.rows[2:]] == ["toy: x is too large"] * 2
    assert result.best.configuration.values == {"x": 0.3}
    assert "toy: x is too large" in str(result)


def test_three_equal_failures_in_a_row_end_the_sweep(toy, tmp_path):
    file = toy(method="grid", parameters={"x": {"values": [1.0, 2.0, 3.0, 0.2]}})
    with pytest.raises(UserError, match="3 runs in a row have failed in the same way: toy: x is too large"):
        sweep(file, tmp_path / "out")
    assert attempts(tmp_path / "out") == [1, 1, 1]
    assert [run["state"] for run in sweep(file, tmp_path / "out").runs()] == ["failed"] * 3 + ["ended"]


def test_a_metric_that_is_never_logged_is_told_with_the_nearest_that_is(toy, tmp_path):
    with pytest.raises(UserError, match="has logged no los: did you mean `loss`"):
        sweep(toy(metric={"name": "los"}, run_cap=3), tmp_path / "out")


def test_another_sweep_in_the_folder_is_refused_by_what_differs(toy, tmp_path):
    sweep(toy(run_cap=1), tmp_path / "out", quiet=True)
    with pytest.raises(UserError, match="holds a sweep with other parameters"):
        sweep(toy(run_cap=1, parameters={"x": {"min": 0.0, "max": 0.5}}), tmp_path / "out")


def test_once_a_run_reaches_the_target_no_other_begins(toy, tmp_path):
    metric = {"name": "loss", "target": 0.26}  # (0.3 − 0.3)² + 1/4 is below it
    parameters = {"x": {"values": [0.8, 0.3, 0.5, 0.6]}}
    result = sweep(toy(method="grid", metric=metric, parameters=parameters), tmp_path / "out", quiet=True)
    assert [run["parameters"]["x"] for run in result.runs()] == [0.8, 0.3]


def test_a_run_that_falls_behind_is_told_to_end(toy, tmp_path):
    waits = "import signal\n" + TOY + "    file.flush()\n    while x > 0.5: time.sleep(0.01)\n"
    file = toy(
        method="grid",
        parameters={"x": {"values": [0.3, 0.8, 0.4]}},
        early_terminate={"type": "hyperband", "min_iter": 2},
    )
    (tmp_path / "toy.py").write_text(waits)
    result = sweep(file, tmp_path / "out", quiet=True)
    assert [run["state"] for run in result.runs()] == ["ended", "stopped", "ended"]
    assert result.runs()[1]["metric"] == pytest.approx(0.25 + 0.25)


def test_seeds_tell_what_differs_from_what_noise_could_be(toy, tmp_path):
    noisy = TOY.replace("0.001 * seed", "(0.01 * (seed % 2) if x < 0.35 else 0.001 * seed)")
    file = toy(method="grid", parameters={"x": {"values": [0.3, 0.31, 0.8]}}, seeds={"seed": [0, 1, 2]})
    (tmp_path / "toy.py").write_text(noisy)
    result = sweep(file, tmp_path / "out", quiet=True)
    assert [row.configuration.values["x"] for row in result.rows] == [0.3, 0.31, 0.8]
    # 0.31 is 1e-4 worse with each seed: no noise once it is paired
    assert [row.is_told_apart for row in result.rows] == [False, True, True]
    assert len(result.runs()) == 9
    assert all(name in result._repr_html_() for name in ("sd over seeds", "best"))


def test_what_noise_could_explain_is_not_told_apart(toy, tmp_path):
    noisy = TOY.replace("0.001 * seed", "[0.01, 0.0, 0.02][(seed + int(x * 100)) % 3]")
    file = toy(method="grid", parameters={"x": {"values": [0.3, 0.31]}}, seeds={"seed": [0, 1, 2]})
    (tmp_path / "toy.py").write_text(noisy)
    result = sweep(file, tmp_path / "out", quiet=True)
    assert not any(row.is_told_apart for row in result.rows)
    assert "not told from the best" in str(result)


def test_the_command_writes_what_it_promises(toy, tmp_path, capsys):
    assert main(["sweep", str(toy(run_cap=6)), "--output", "out", "--workers", "2"]) == 0
    printed = capsys.readouterr()
    assert "plan: 6 runs of about" in printed.err
    assert {"sweep.html", "sweep.png", "best.yaml", "runs.jsonl", "study.db"} <= {
        path.name for path in Path("out").iterdir()
    }
    best = min(lines_of(Path("out")), key=lambda line: line["metric"])
    assert yaml.safe_load(Path("out/best.yaml").read_text()) == best["parameters"]
    page = Path("out/sweep.html").read_text()
    assert "<script" not in page
    assert "://" not in page.replace("http://www.w3.org", "")
    run = Path("out/runs/0000")
    options = yaml.safe_load((run / "parameters.yaml").read_text())
    assert options["x"]["value"] == lines_of(Path("out"))[0]["parameters"]["x"]


def test_the_page_shows_configurations_curves_importances_and_the_metric_by_each_parameter(toy, tmp_path):
    """x alone decides; y is passed over by the program."""
    parameters = {"x": {"values": [0.3, 0.4, 0.6, 0.8]}, "y": {"values": [1, 2]}}
    sweep(toy(method="grid", parameters=parameters), tmp_path / "out", quiet=True)
    page = (tmp_path / "out" / "sweep.html").read_text(encoding="utf-8")
    figures = re.findall(r'<p class="title">(.*?)</p>\n(<svg.*?</svg>)', page, re.DOTALL)
    titles = ["Configurations", "Learning curves", "Which parameter matters", "By x", "By y"]
    assert [title for title, _ in figures] == titles
    told = {title: re.sub(r"\s+", " ", figure) for title, figure in figures}
    assert "x 100%" in told["Which parameter matters"]
    assert all(f"000{run} ends at" in told["Learning curves"] for run in range(8))
    assert "0.3: 0.25" in told["By x"]  # (0.3 − 0.3)² + 1/4
    assert page.count("<tr") == 1 + 8


def test_a_sweep_of_which_every_run_failed_says_so(toy, capsys):
    file = toy(method="grid", parameters={"x": {"values": [0.95, 0.97]}})
    assert main(["sweep", str(file), "--output", "out"]) == 1
    assert "every run has failed; what each one said lies in out/runs" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused(toy, capsys):
    file = toy(run_cap=1)
    assert main(["sweep", str(file), "--output", str(file)]) == 2
    assert (
        capsys.readouterr().err
        == f"trivium: output: {file} cannot be made (File exists): give another --output\n"
    )


def test_what_follows_two_hyphens_is_given_to_each_run(toy, tmp_path, capsys):
    line = ["sweep", str(toy(run_cap=2)), "--output", "out"]
    assert main([*line, "--", "--seed=7"]) == 0
    for place, run in enumerate(lines_of(tmp_path / "out")):
        first = (tmp_path / f"out/runs/000{place}/log.txt").read_text().splitlines()[0]
        assert first.endswith(f"toy.py --x={run['parameters']['x']} --seed=7")
    assert main([*line, "--", "--seed=8"]) == 2
    assert "holds a sweep with other command" in capsys.readouterr().err
    assert main([*line, "--", "--x=0.1"]) == 2
    assert "the sweep gives each run its own x" in capsys.readouterr().err


def test_runs_that_failed_are_kept_until_they_are_asked_to_be_tried_again(toy, tmp_path):
    file = toy(method="grid", parameters={"x": {"values": [0.95, 0.2]}}, seeds={"seed": [0, 1]})
    out, mended = tmp_path / "out", TOY.replace("x > 0.9", "x > 1.9")
    states = [run["state"] for run in sweep(file, out, quiet=True).runs()]
    assert states == ["failed", "waiting", "ended", "ended"]  # the other seed of what fails is not begun
    (tmp_path / "toy.py").write_text(mended)
    assert [run["state"] for run in sweep(file, out, quiet=True).runs()] == states
    result = sweep(file, out, quiet=True, retry=True)
    assert [run["state"] for run in result.runs()] == ["ended"] * 4
    assert attempts(out) == [2, 1, 1, 1]
    assert sorted(row.metric for row in result.rows) == pytest.approx([0.0105 + 0.25, 0.423 + 0.25])
    assert [run["state"] for run in sweep(file, out, quiet=True, retry=True).runs()] == ["ended"] * 4
    assert attempts(out) == [2, 1, 1, 1]
