"""The strategy is a line of the command and does not change the training: two processes, however work and
weights are spread, give the losses and the weights of one."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.cli import main

ROOT = Path(__file__).resolve().parent.parent
STRATEGIES = ["ddp", "fsdp", "tensor_parallel"]
STEPS = 20
# fp32 sums in another order differ by about 1e-7 of their size, and 20 steps of AdamW carry that on. Its eps
# is large enough that no update hangs on the sign of a gradient that is only rounding.
LOSS, WEIGHT = 1e-4, 1e-4
OPTIMIZER = {
    "class_path": "torch.optim.AdamW",
    "init_args": {"lr": 3e-3, "eps": 1e-3, "weight_decay": 0.1, "fused": True},
}
UNTIED = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
EVERY_STEP = ["--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0"]


def common(stage: str, start: str, steps: int = STEPS) -> list[str]:
    """Uneven rows, weight decay, and a clip below the gradients' norm; SFT begins at `start`."""
    line = [*EVERY_STEP, f"--trainer.max_steps={steps}", "--data.init_args.global_batch_size=8"]
    line += [f"--model.init_args.optimizer={json.dumps(OPTIMIZER)}", "--trainer.gradient_clip_val=0.3"]
    line += ["--model.init_args.min_lr_ratio=1"]
    if stage == "pretrain":  # from scratch, the embedding and the head apart; the others start from tied ones
        line.append(f"--model.init_args.config={json.dumps(UNTIED)}")
    if stage == "sft":
        line.append(f"--model.init_args.pretrained={start}")
    return line


@pytest.fixture(scope="module")
def start(tiny_stages):
    """A network that has hardly been trained, so that SFT's loss has far to fall."""
    line = [*tiny_stages.stage("pretrain", run="start"), "--trainer.max_steps=2"]
    assert main([*line, "--trainer.limit_val_batches=0"]) == 0
    return tiny_stages.export("start")


def curve(run: Path, metric: str = "train/loss") -> list[float]:
    values: dict[int, float] = {}
    for file in sorted(run.glob("metrics/version_*/metrics.csv")):
        with file.open() as lines:
            values |= {
                int(row["step"]): float(row[metric]) for row in csv.DictReader(lines) if row.get(metric)
            }
    return [values[step] for step in sorted(values)]


def weights(run: Path, file: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(run / "export" / file)


def assert_same_weights(run: Path, other: Path) -> None:
    found, expected = weights(run), weights(other)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=WEIGHT, rtol=0)


def two_processes(arguments: list[str], strategy: str) -> None:
    line = [sys.executable, "-m", "experiments.cli", *arguments, "--trainer.accelerator=cpu"]
    line += ["--trainer.devices=2", f"--trainer.strategy=strategies.{strategy}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def alone(tiny_stages, start):
    """One process, each stage once: 8 rows at once."""

    def run(stage: str) -> Path:
        folder = tiny_stages.out / f"{stage}_alone"
        if not folder.exists():
            micro = ["--data.init_args.micro_batch_size=8"]
            assert main([*tiny_stages.stage(stage, run=folder.name), *common(stage, start), *micro]) == 0
        return folder

    return run


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_give_the_losses_and_weights_of_one(tiny_stages, alone, start, stage, strategy):
    one, two = alone(stage), tiny_stages.out / f"{stage}_{strategy}"
    micro = ["--data.init_args.micro_batch_size=2"]  # two ranks × two micro-batches of 2 rows
    two_processes([*tiny_stages.stage(stage, run=two.name), *common(stage, start), *micro], strategy)
    losses = curve(one)
    assert len(losses) == STEPS
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert curve(two) == pytest.approx(losses, rel=LOSS)
    norms = curve(one, "train/grad_norm")
    assert max(norms) > 0.3  # the clip bites
    assert curve(two, "train/grad_norm") == pytest.approx(norms, rel=1e-3)
    assert_same_weights(two, one)
    facts = [json.loads((run / "export/provenance.json").read_text()) for run in (one, two)]
    assert facts[0]["tokens"] == facts[1]["tokens"] > 0
    if stage == "reward":
        assert facts[0]["offset"] == pytest.approx(facts[1]["offset"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ppo_in_two_processes_samples_and_learns_as_in_one(tiny_stages, strategy):
    """Its samples are a function of seed, iteration and prompt: the same as long as rounding flips none."""
    arguments = [*EVERY_STEP, "--trainer.max_steps=16", "--data.init_args.global_batch_size=16"]
    one, two = tiny_stages.out / "ppo_alone", tiny_stages.out / f"ppo_{strategy}"
    if not one.exists():
        assert main([*tiny_stages.stage("ppo", run=one.name), *arguments]) == 0
    two_processes([*tiny_stages.stage("ppo", run=two.name), *arguments], strategy)
    for name in (
        "score",
        "response_length",
        "policy_loss",
        "value_loss",
        "grad_norm_actor",
        "grad_norm_critic",
    ):
        found, expected = curve(two, f"ppo/{name}"), curve(one, f"ppo/{name}")
        assert len(expected) == 2
        # batches of other sizes round differently: fp32
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5), name
    for file in ("model.safetensors", "critic/model.safetensors"):
        for name, value in weights(two, file).items():
            torch.testing.assert_close(value, weights(one, file)[name], atol=WEIGHT, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("one", "fsdp"),
        ("fsdp", "one"),
        ("ddp", "fsdp"),
        ("one", "tensor_parallel"),
        ("tensor_parallel", "fsdp"),
    ],
)
def test_a_run_goes_on_under_another_strategy(tiny_stages, alone, start, first, then):
    """Weights, optimizer states and position in the data cross from whole networks to cut ones, and back."""
    run = tiny_stages.out / f"{first}_then_{then}"
    for strategy, steps in ((first, STEPS // 2), (then, STEPS)):
        line = [*tiny_stages.stage("sft", run=run.name), *common("sft", start, steps)]
        line += ["--data.init_args.micro_batch_size=4"]
        line += ["--ckpt_path=last"] if strategy == then else []
        if strategy == "one":
            assert main(line) == 0
        else:
            two_processes(line, strategy)
    assert curve(run) == pytest.approx(curve(alone("sft")), rel=LOSS)
    assert_same_weights(run, alone("sft"))


@pytest.mark.slow
def test_predictions_of_a_cut_network_are_those_of_a_whole_one(tiny_stages):
    start = [
        f"--model.init_args.pretrained={tiny_stages.export('sft')}",
        "--model.init_args.max_new_tokens=8",
    ]
    one, two = tiny_stages.out / "predict_one", tiny_stages.out / "predict_fsdp"
    assert main([*tiny_stages.stage("sft", "predict", one.name), *start]) == 0
    two_processes([*tiny_stages.stage("sft", "predict", two.name), *start], "fsdp")
    found, expected = ((run / "predictions.jsonl").read_text() for run in (two, one))
    assert found == expected
    assert len(expected.splitlines()) == 12
