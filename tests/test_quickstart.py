"""The README's first command, scaled down: four real stages on real data, a report, and going on from
there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
# few rows, steps and items of the card: what the data holds and each task measures is for their own tests
TRIVIUM = """
import sys
from pathlib import Path
from experiments.cli.program import main
from experiments.quickstart import abilities, data, pace
shorter = {"pretrain": (21, 24), "sft": (5, 6), "reward": (5, 6), "ppo": (16, 24)}
pace.BUDGETS = tuple(
    each._replace(first=first, fewest=fewest)
    for each, (first, fewest) in zip(pace.BUDGETS, shorter.values(), strict=True)
)
from experiments.quickstart import collect, run, stages
abilities.LIMIT = 4
data.CODE_BYTES, data.WORD_PROBLEMS, data.SUMS = 600_000, 800, 1_200
data.VALIDATION_BYTES, data.PREFERENCE_PASSES = 15_000, 1
data.TRAIN_ROWS = {name: rows // 4 for name, rows in data.TRAIN_ROWS.items()}
data.VALIDATION_ROWS = {name: 16 for name in data.VALIDATION_ROWS}
stages.CONFIGS = collect.CONFIGS = Path("configs")
sys.exit(main(sys.argv[1:]))
"""
SMALLER = {
    "pretrain": {"sequence_length": 128},
    "sft": {"global_batch_size": 8},
    "reward": {"global_batch_size": 4},
    "ppo": {"global_batch_size": 32, "eval_batch_size": 32},
}


def write_smaller_configs(folder: Path) -> None:
    """The quickstart's own, of a network that is a tenth, with shorter replies and smaller batches."""
    shipped = ROOT / "experiments/configs"
    shutil.copytree(shipped / "trainer", folder / "trainer")
    for stage, data in SMALLER.items():
        document = yaml.safe_load((shipped / f"{stage}.yaml").read_text())
        options = document["model"]["init_args"]
        document["data"]["init_args"] |= data
        if stage == "pretrain":
            options["config"] |= {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2}
            options["warmup_steps"] = 20
        elif stage == "ppo":
            options |= {"rollout_batch_size": 32, "micro_batch_size": 8}
        else:
            options["warmup_steps"] = 4
        if "max_new_tokens" in options:
            options["max_new_tokens"] = 16
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(document))


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """Runs `trivium quickstart` with options in a folder of its own."""
    folder = tmp_path_factory.mktemp("quickstart")
    write_smaller_configs(folder / "configs")

    def run(*options: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        line = [sys.executable, "-c", TRIVIUM, "quickstart", *options]
        return subprocess.run(
            line, capture_output=True, text=True, cwd=folder, env=environment, timeout=2700, check=False
        )

    return run, folder / "runs" / "quickstart"


@pytest.mark.slow
def test_the_quickstart_runs_reports_and_does_not_run_a_finished_stage_again(quickstart, warm_python):
    run, folder = quickstart
    done = run("--minutes", "0.1")  # over before the data is there: the fewest steps
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
    assert "--minutes" in done.stdout.split("its bars want")[1]  # that is too short: it says what would do

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
