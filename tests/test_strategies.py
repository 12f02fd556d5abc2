"""The strategy is a line of the command and does not change the training: processes, however work and weights
are spread over them, give the losses and the weights of one.

Each strategy starts its processes once, and they go through all of its runs. DeepSpeed is in its own files.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from experiments.cli.program import main
from tests.ranks import run_ranks

STEPS, ROWS, CLIP = 8, 16, 0.3  # an epoch of SFT and reward is six steps
STAGES = ("pretrain", "sft", "reward")
# fp32 sums in another order differ by about 1e-7 of their size, and 8 steps of AdamW carry that on. Its eps
# is large enough that no update hangs on the sign of a gradient that is only rounding.
LOSS, WEIGHT = 1e-4, 1e-4
# bf16 has 8 bits, a unit roundoff of 2⁻⁹ = 2e-3 for each number that a matrix product reads or gives; a loss
# is a mean over hundreds of tokens, whose roundings cancel, and other parts of a product round otherwise.
BF16_LOSS = 2e-3
OPTIMIZER = {
    "class_path": "torch.optim.AdamW",
    "init_args": {"lr": 1e-2, "eps": 1e-3, "weight_decay": 0.1, "fused": True},
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
RECOMPUTED = ["--model.init_args.activation_checkpointing=true"]
BF16 = ["--trainer.precision=bf16-mixed"]


class Group(NamedTuple):
    """A strategy on a number of processes."""

    ranks: int
    data_ranks: int
    name: str
    options: dict[str, Any]
    accumulate: tuple[int, int, int]
    """micro-batches of a step, of each stage"""


# one micro-batch a step or four: every strategy and every stage runs with both, not every pair of them, as
# what is divided by (`normalizer`) is a batch's own and knows of neither (tests/test_accumulation.py)
GROUPS = {
    "ddp": Group(2, 2, "ddp", {}, (1, 4, 4)),
    "fsdp": Group(2, 2, "fsdp", {}, (4, 1, 1)),
    "tensor_parallel": Group(2, 1, "tensor_parallel", {}, (4, 4, 1)),
    "fsdp_alone": Group(1, 1, "fsdp", {"cpu_offload": True}, (4, 1, 4)),
    "two_dimensional": Group(4, 2, "tensor_parallel", {"tensor_parallel": 2}, (1, 4, 1)),
    "hybrid": Group(4, 4, "fsdp", {"shards": 2, "gather_to_sample": False}, (4, 1, 4)),
}


def cases(group: str) -> list[tuple[str, int]]:
    """(stage, micro-batches of a step) that are run."""
    return list(zip(STAGES, GROUPS[group].accumulate, strict=True))


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


def assert_same_weights(run: Path, other: Path, file: str = "model.safetensors") -> None:
    found, expected = weights(run, file), weights(other, file)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=WEIGHT, rtol=0)


class Lines:
    """Command lines of the runs that are compared: uneven rows, weight decay, and a clip below the norm."""

    def __init__(self, stages):
        self.stages, self.out = stages, stages.out
        line = [*stages.stage("pretrain", run="start"), "--trainer.max_steps=2"]
        assert (
            main([*line, "--trainer.limit_val_batches=0"]) == 0
        )  # hardly trained: SFT's loss has far to fall

    def __call__(self, stage: str, run: str, micro: int = ROWS, steps: int = STEPS) -> list[str]:
        line = [*self.stages.stage(stage, run=run), *EVERY_STEP, f"--trainer.max_steps={steps}"]
        line += [f"--data.init_args.global_batch_size={ROWS}", f"--data.init_args.micro_batch_size={micro}"]
        line += [f"--model.init_args.optimizer={json.dumps(OPTIMIZER)}"]
        line += ["--model.init_args.min_lr_ratio=1", f"--trainer.gradient_clip_val={CLIP}"]
        if stage == "pretrain":  # embedding and head apart; the others start from tied ones
            line.append(f"--model.init_args.config={json.dumps(UNTIED)}")
        if stage == "sft":
            line.append(f"--model.init_args.pretrained={self.stages.export('start')}")
        return line

    def ppo(self, run: str) -> list[str]:
        line = [*self.stages.stage("ppo", run=run), *EVERY_STEP, "--trainer.max_steps=16"]
        return [*line, f"--data.init_args.global_batch_size={ROWS}"]

    def predict(self, run: str) -> list[str]:
        line = self.stages.stage("sft", "predict", run)
        line.append(f"--model.init_args.pretrained={self.stages.export('sft')}")
        return [*line, "--model.init_args.max_new_tokens=8"]


@pytest.fixture(scope="module")
def lines(tiny_stages):
    return Lines(tiny_stages)


@pytest.fixture(scope="module")
def alone(lines):
    """The folder with the runs of one process."""
    for stage in STAGES:
        assert main(lines(stage, f"{stage}_alone")) == 0
    assert main([*lines("sft", "bf16_alone"), *BF16]) == 0
    assert main(lines("sft", "half_alone", steps=STEPS // 2)) == 0
    assert main(lines.ppo("ppo_alone")) == 0
    assert main(lines.predict("predict_alone")) == 0
    return lines.out


@pytest.fixture(scope="module", params=GROUPS)
def group(request, lines, alone):
    """The name of a strategy whose runs are in the folder too."""
    name, chosen = request.param, GROUPS[request.param]
    strategy = {"class_path": f"strategies.{chosen.name}", "init_args": chosen.options}
    options = ["--trainer.accelerator=cpu", f"--trainer.devices={chosen.ranks}"]
    options += [f"--trainer.strategy={json.dumps(strategy)}"]
    todo = [
        lines(stage, f"{stage}_{name}_{accumulate}", ROWS // chosen.data_ranks // accumulate)
        for stage, accumulate in cases(name)
    ]
    micro = ROWS // chosen.data_ranks
    todo += [[*lines("sft", f"recomputed_{name}", micro), *RECOMPUTED]]
    todo += [[*lines("sft", f"bf16_{name}", micro), *BF16]]
    todo += [lines("sft", f"half_{name}", micro, STEPS // 2)]
    shutil.copytree(alone / "half_alone", alone / f"from_one_{name}", ignore=shutil.ignore_patterns("export"))
    todo += [[*lines("sft", f"from_one_{name}", micro), "--ckpt_path=last"]]
    todo += [lines.ppo(f"ppo_{name}"), lines.predict(f"predict_{name}")]
    run_ranks(alone / name, [[*line, *options] for line in todo], chosen.ranks)
    return name


@pytest.mark.slow
def test_losses_norms_weights_and_tokens_are_those_of_one_process(alone, group):
    for stage, accumulate in cases(group):
        one, other = alone / f"{stage}_alone", alone / f"{stage}_{group}_{accumulate}"
        losses = curve(one)
        assert len(losses) == STEPS
        assert curve(other) == pytest.approx(losses, rel=LOSS), (stage, accumulate)
        norms = curve(one, "train/grad_norm")
        assert curve(other, "train/grad_norm") == pytest.approx(norms, rel=1e-3)
        assert_same_weights(other, one)
        facts = [json.loads((run / "export/provenance.json").read_text()) for run in (one, other)]
        assert facts[0]["tokens"] == facts[1]["tokens"] > 0
        if stage == "reward":
            assert facts[0]["offset"] == pytest.approx(facts[1]["offset"], abs=1e-4)


@pytest.mark.slow
def test_the_runs_that_are_compared_learn_and_their_clip_bites(alone):
    for stage in STAGES:
        losses = curve(alone / f"{stage}_alone")
        assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
        assert max(curve(alone / f"{stage}_alone", "train/grad_norm")) > CLIP


@pytest.mark.slow
def test_recomputed_blocks_change_nothing(alone, group):
    assert curve(alone / f"recomputed_{group}") == pytest.approx(curve(alone / "sft_alone"), rel=LOSS)
    assert_same_weights(alone / f"recomputed_{group}", alone / "sft_alone")


@pytest.mark.slow
def test_bf16_differs_by_no_more_than_its_rounding(alone, group):
    assert curve(alone / f"bf16_{group}") == pytest.approx(curve(alone / "bf16_alone"), rel=BF16_LOSS)


@pytest.mark.slow
def test_ppo_samples_and_learns_as_in_one_process(alone, group):
    """Its samples are a function of seed, iteration and prompt: the same as long as rounding flips none."""
    one, other = alone / "ppo_alone", alone / f"ppo_{group}"
    for name in (
        "score",
        "response_length",
        "policy_loss",
        "value_loss",
        "grad_norm_actor",
        "grad_norm_critic",
    ):
        found, expected = curve(other, f"ppo/{name}"), curve(one, f"ppo/{name}")
        assert len(expected) == 2
        # batches of other sizes round differently: fp32
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5), name
    assert_same_weights(other, one)
    assert_same_weights(other, one, "critic/model.safetensors")


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_under_the_strategy(alone, group):
    """Weights, optimizer states and position in the data cross from a whole network to a cut one."""
    run = alone / f"from_one_{group}"
    assert len(list(run.glob("metrics/version_*"))) == 2
    assert curve(run) == pytest.approx(curve(alone / "sft_alone"), rel=LOSS)
    assert_same_weights(run, alone / "sft_alone")


@pytest.mark.slow
def test_a_run_of_the_strategy_goes_on_in_one_process(alone, lines, group):
    run = alone / f"half_{group}"
    assert len(curve(run)) == STEPS // 2
    assert main([*lines("sft", run.name), "--ckpt_path=last"]) == 0
    assert curve(run) == pytest.approx(curve(alone / "sft_alone"), rel=LOSS)
    assert_same_weights(run, alone / "sft_alone")


@pytest.mark.slow
def test_predictions_are_those_of_one_process(alone, group):
    found, expected = (
        (alone / f"predict_{run}" / "predictions.jsonl").read_text() for run in (group, "alone")
    )
    assert found == expected
    assert len(expected.splitlines()) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"tensor_parallel": 3}, "tensor_parallel 3 × data_parallel 1 = 3 ranks, but the run has 2"),
        ({"data_parallel": 4}, "tensor_parallel 1 × data_parallel 4 = 4 ranks, but the run has 2"),
        ({"shards": 3}, "shards is 3, but 2 ranks share the rows: give a divisor of 2"),
        ({"shards": -1}, "shards is -1: give 1 or more"),
        ({"tensor_parallel": 2, "cpu_offload": True}, "cpu_offload and parameters are FSDP2's"),
    ],
)
def test_a_grid_that_is_not_the_runs_is_refused_before_processes_start(
    tiny_stages, capsys, strategy, message
):
    name = "fsdp" if "shards" in strategy else "tensor_parallel"
    form = json.dumps({"class_path": f"strategies.{name}", "init_args": strategy})
    line = [*tiny_stages.stage("sft", run="grid"), "--trainer.accelerator=cpu", "--trainer.devices=2"]
    assert main([*line, f"--trainer.strategy={form}"]) == 2
    assert f"trainer.strategy: {message}" in capsys.readouterr().err
