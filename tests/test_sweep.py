"""The W&B sweep: the commands that an agent would start run, and each sets what it sweeps."""

import itertools
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from experiments.cli.program import main

ROOT = Path(__file__).resolve().parent.parent
SWEEP = yaml.safe_load((ROOT / "experiments/configs/sweeps/learning_rate.yaml").read_text())
KEYS = list(SWEEP["parameters"])
GRID = [
    dict(zip(KEYS, values, strict=True))
    for values in itertools.product(*(SWEEP["parameters"][key]["values"] for key in KEYS))
]


def expanded(combination: dict) -> list[str]:
    """The command template with W&B's documented macros filled in as the agent does."""
    macros = {
        "${env}": ["/usr/bin/env"],
        "${program}": [SWEEP["program"]],
        "${args}": [f"--{key}={value}" for key, value in combination.items()],
    }
    return [part for item in SWEEP["command"] for part in macros.get(item, [item])]


@pytest.fixture
def as_an_agent(tmp_path, monkeypatch):
    """Starts an expanded command as an agent does, in any folder, with a `trivium` on the path that writes
    its arguments down; gives them."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "trivium"
    program.write_text("#!/bin/sh\nfor argument; do printf '%s\\n' \"$argument\"; done\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)

    def start(combination: dict, run_id: str) -> list[str]:
        environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "WANDB_RUN_ID": run_id}
        command = expanded(combination)
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, check=True
        ).stdout.splitlines()

    return start


def test_the_sweep_minimises_a_metric_that_runs_log(tiny_stages):
    assert SWEEP["method"] == "grid"
    assert SWEEP["metric"] == {"name": "val/loss", "goal": "minimize"}
    logged = next((tiny_stages.out / "pretrain").glob("metrics/version_0/metrics.csv")).read_text()
    assert "val/loss" in logged.splitlines()[0].split(",")
    assert len(GRID) == 8
    assert all(isinstance(value, int | float) for combination in GRID for value in combination.values())


@pytest.mark.parametrize("combination", [GRID[0], GRID[-1]], ids=str)
def test_an_expanded_command_trains_with_what_it_sweeps(tiny_stages, as_an_agent, tmp_path, combination):
    arguments = as_an_agent(combination, "a1b2c3")
    assert arguments[:3] == ["fit", "--config", "pretrain"]
    small = [item for item in tiny_stages.stage("pretrain")[5:] if "warmup_steps" not in item]
    assert main([*arguments, *small, "--trainer.max_steps=55", "--trainer.limit_val_batches=1"]) == 0
    run = tmp_path / "runs" / "sweeps" / "a1b2c3"
    config = yaml.safe_load((run / "config.yaml").read_text())
    optimizer = config["model"]["init_args"]["optimizer"]
    assert optimizer["init_args"]["lr"] == combination["model.init_args.optimizer.init_args.lr"]
    assert optimizer["init_args"]["betas"] == [0.9, 0.95]  # what is not swept stays the stage's
    assert config["model"]["init_args"]["warmup_steps"] == combination["model.init_args.warmup_steps"]
    assert json.loads((run / "export" / "provenance.json").read_text())["steps"] == 55
