"""The training does not depend on micro-batches or processes, and goes on where it stopped."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.cli import main

ROOT = Path(__file__).resolve().parent.parent
STEPS = ["--trainer.max_steps=6", "--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0"]
BATCH = "--data.init_args.global_batch_size=8"
# Adam divides by the root of the squared gradient: where a gradient is nearly 0 its rounding decides the
# step, so weights are compared at 1e-3 of the 12e-3 they may move (6 steps of 2e-3); losses at fp32 rounding
# over 6 steps.
WEIGHTS, LOSSES = 1e-3 * 12e-3, 2e-5


def losses(run: Path, metric: str = "train/loss") -> list[float]:
    values: dict[int, float] = {}
    for file in sorted(run.glob("metrics/version_*/metrics.csv")):
        with file.open() as lines:
            values |= {int(row["step"]): float(row[metric]) for row in csv.DictReader(lines) if row[metric]}
    return [values[step] for step in sorted(values)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "export" / "model.safetensors")


def same(run: Path, other: Path) -> None:
    assert losses(run) == pytest.approx(losses(other), rel=LOSSES)
    found, expected = weights(run), weights(other)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=WEIGHTS, rtol=0)


def in_two_processes(arguments: list[str]) -> None:
    line = [sys.executable, "-m", "experiments.cli", *arguments, "--trainer.accelerator=cpu"]
    line += ["--trainer.devices=2", "--trainer.strategy=strategies.ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def whole(tiny_stages):
    """SFT on uneven rows, eight at once."""
    assert (
        main([*tiny_stages.stage("sft", run="whole"), *STEPS, BATCH, "--data.init_args.micro_batch_size=8"])
        == 0
    )
    return tiny_stages.out / "whole"


@pytest.mark.parametrize("micro", [1, 4])
def test_micro_batches_of_uneven_rows_equal_the_whole_batch(tiny_stages, whole, micro):
    run = tiny_stages.out / f"micro_{micro}"
    arguments = [*STEPS, BATCH, f"--data.init_args.micro_batch_size={micro}"]
    assert main([*tiny_stages.stage("sft", run=run.name), *arguments]) == 0
    same(run, whole)


@pytest.mark.slow
def test_two_processes_equal_one(tiny_stages, whole):
    run = tiny_stages.out / "two"
    in_two_processes(
        [*tiny_stages.stage("sft", run="two"), *STEPS, BATCH, "--data.init_args.micro_batch_size=2"]
    )
    same(run, whole)


@pytest.mark.slow
def test_ppo_in_two_processes_samples_and_learns_as_in_one(tiny_stages):
    arguments = [
        "--trainer.max_steps=8",
        "--trainer.limit_val_batches=0",
        "--data.init_args.global_batch_size=16",
    ]
    in_two_processes([*tiny_stages.stage("ppo", run="ppo_two"), *arguments])
    assert main([*tiny_stages.stage("ppo", run="ppo_one"), *arguments]) == 0
    one, two = tiny_stages.out / "ppo_one", tiny_stages.out / "ppo_two"
    for metric in (
        "ppo/score",
        "ppo/response_length",
        "ppo/policy_loss",
        "ppo/value_loss",
        "ppo/grad_norm_critic",
    ):
        # batches of other sizes round differently: fp32
        assert losses(two, metric) == pytest.approx(losses(one, metric), rel=1e-3, abs=1e-5), metric


@pytest.mark.parametrize(("stage", "stop", "end"), [("sft", 3, 6), ("ppo", 8, 16)])
def test_a_stopped_run_goes_on_bit_for_bit(tiny_stages, stage, stop, end):
    """With a constant learning rate, so that the shorter first part has the whole run's schedule."""
    batch = {
        "sft": [BATCH, "--data.init_args.micro_batch_size=4"],
        "ppo": ["--data.init_args.global_batch_size=16"],
    }
    arguments = ["--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0", *batch[stage]]
    arguments += [f"--trainer.max_steps={end}", "--model.init_args.min_lr_ratio=1"]
    full, parts = tiny_stages.out / f"{stage}_full", tiny_stages.out / f"{stage}_parts"
    assert main([*tiny_stages.stage(stage, run=full.name), *arguments]) == 0
    half = [*arguments[:-2], f"--trainer.max_steps={stop}", arguments[-1]]
    assert main([*tiny_stages.stage(stage, run=parts.name), *half]) == 0
    assert main([*tiny_stages.stage(stage, run=parts.name), *arguments, "--ckpt_path=last"]) == 0
    metric = {"sft": "train/loss", "ppo": "ppo/score"}[stage]
    assert losses(parts, metric) == losses(full, metric)
    for name, value in weights(parts).items():
        assert torch.equal(value, weights(full)[name]), name
