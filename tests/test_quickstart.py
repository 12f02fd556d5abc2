"""The README's first command, scaled down: four real stages on real data, a report, and going on from
there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# the card's items are few here: what each task measures is for its own tests
TRIVIUM = """
import sys
from experiments.cli.program import main
from experiments.quickstart import abilities
abilities.LIMIT = 4
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """Runs `trivium quickstart` with options in a folder of its own."""
    folder = tmp_path_factory.mktemp("quickstart")

    def run(*options: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        line = [sys.executable, "-c", TRIVIUM, "quickstart", *options]
        return subprocess.run(
            line, capture_output=True, text=True, cwd=folder, env=environment, timeout=900, check=False
        )

    return run, folder / "runs" / "quickstart"


@pytest.mark.slow
def test_the_quickstart_runs_reports_and_does_not_run_a_finished_stage_again(quickstart):
    run, folder = quickstart
    done = run("--minutes", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((folder / "report.json").read_text())
    assert list(report["stages"]) == ["pretrain", "sft", "reward", "ppo"]
    for stage in report["stages"].values():
        assert stage["seconds"] > 0
        assert stage["tokens"] > 0
        assert (folder / stage["export"] / "model.safetensors").is_file()
    for source in report["mixture"].values():
        blocks = report["stages"]["pretrain"]["steps"] * 8
        assert source["realised"] == pytest.approx(source["weight"], abs=1 / blocks)
    assert set(report["judge"]) == {"before", "after", "stderr", "kl"}
    assert {"torch", "lightning", "transformers"} <= set(report["versions"])
    improvement = report["stages"]["pretrain"]["metrics"]
    assert all(improvement[f"val/loss/{name}"] < 8.0 for name in report["mixture"])  # ln 4096 = 8.3
    tasks = ["sentiment", "choices", "maths", "instructions", "in-context"]
    assert [row["task"] for row in report["abilities"]] == tasks
    assert {tuple(row["estimates"]) for row in report["abilities"]} == {("pretrained", "tuned", "after PPO")}
    assert "<html" in (folder / "report.html").read_text()
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")

    chosen = json.loads((folder / "quickstart.json").read_text())["steps"]
    assert chosen == {name: stage["steps"] for name, stage in report["stages"].items()}
    assert report["repeat"].endswith("--steps " + ",".join(map(str, chosen.values())))
    assert (
        "--minutes" in done.stdout.split("its bars want")[1]
    )  # a minute is too short: it says what would do

    weights = {
        name: (folder / name / "export/model.safetensors").stat().st_mtime for name in report["stages"]
    }
    refused = run()
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    assert run("--resume").returncode == 0
    assert weights == {
        name: (folder / name / "export/model.safetensors").stat().st_mtime for name in report["stages"]
    }
