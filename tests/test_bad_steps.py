"""A step whose loss or gradients are not finite, on one rank even, is skipped by all ranks together and told;
too many in a row end the run, and what was saved before stays."""

import json
import logging
import math

import lightning as L
import pytest
import torch

from experiments.cli.program import main
from modules.bad_steps import BadSteps, spoiled
from modules.errors import UserError
from tests.ranks import assert_weights, curve, run_ranks, weights, zero

COMMON = [
    "--trainer.log_every_n_steps=1",
    "--trainer.limit_val_batches=0",
    "--trainer.enable_progress_bar=false",
]
SFT = ["--data.init_args.global_batch_size=8", "--data.init_args.micro_batch_size=2"]
PPO = [
    "--data.init_args.global_batch_size=8",
    "--model.init_args.epochs=1",
    "--model.init_args.minibatches=2",
]


class Poison(L.Callback):
    """Spoils some steps (PPO: iterations) of the last rank: their loss is NaN, or infinite with finite
    gradients, or a gradient is NaN.

    Args:
        steps: the steps, from 0.
        kind: `nan`, `inf` or `gradient`.
    """

    def __init__(self, steps: list[int], kind: str = "nan"):
        self.steps, self.kind, self.on = steps, kind, False

    def on_train_start(self, trainer, pl_module):
        last = trainer.global_rank == trainer.world_size - 1
        if self.kind == "gradient" and last:
            parameter = next(p for p in pl_module.parameters() if p.requires_grad)
            parameter.register_hook(lambda gradient: gradient * math.nan if self.on else gradient)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        last = trainer.global_rank == trainer.world_size - 1
        self.on = last and batch_idx // trainer.accumulate_grad_batches in self.steps
        if self.on and self.kind == "nan":
            batch["normalizer"] = batch["normalizer"] * math.nan
        if self.on and self.kind == "inf":
            batch["normalizer"] = batch["normalizer"] * 0


def poison(steps, kind="nan"):
    form = {"class_path": f"{__name__}.Poison", "init_args": {"steps": steps, "kind": kind}}
    return [f"--trainer.callbacks+={json.dumps(form)}"]


def test_an_infinite_loss_spoils_its_gradients_and_a_finite_one_keeps_them_to_the_bit():
    weight = torch.tensor(0.3, requires_grad=True)
    spoiled(weight / 3).backward()
    assert weight.grad == torch.tensor(1.0) / 3
    weight.grad = None
    spoiled(weight + math.inf).backward()
    assert torch.isnan(weight.grad)


def test_bad_steps_in_a_row_are_counted_anew_after_a_good_one():
    steps = BadSteps(limit=2)
    for bad in (True, False, True, False):
        steps.end_step(bad, 1)
    steps.end_step(True, 2)
    steps.note(torch.tensor(math.nan), [4, 7, -1])
    with pytest.raises(
        UserError, match=r"^step 3: its loss is not finite \(among rows 4, 7\), as of 2 steps"
    ):
        steps.end_step(True, 3)


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
def test_a_spoiled_step_changes_nothing_and_the_run_goes_on(tiny_stages, caplog, kind):
    """Of the only step the weights stay those of the start; the second step is as good as any."""
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
    run = tiny_stages.out / f"bad_{kind}"
    line = [*tiny_stages.stage("sft", run=run.name), *COMMON, *SFT]
    assert main([*line, "--trainer.max_steps=1", *poison([0], kind)]) == 0
    assert "step 1 is skipped: its " in caplog.text
    start = tiny_stages.out / "pretrain"
    assert_weights(weights(run), weights(start), 0)
    if kind != "nan":  # a run goes on alike whatever the reason
        return
    line = [*line, "--trainer.max_steps=3", "--ckpt_path=last"]
    assert main(line) == 0
    assert all(map(math.isfinite, [curve(run)[1], curve(run)[2]]))
    assert any(not torch.equal(value, weights(start)[name]) for name, value in weights(run).items())


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_too_many_in_a_row_end_the_run_in_a_line_and_what_was_saved_stays(tiny_stages, capfd, stage):
    run = tiny_stages.out / f"{stage}_bad"
    more = {"sft": SFT, "ppo": PPO}[stage]
    line = [*tiny_stages.stage(stage, run=run.name), *COMMON, *more, "--trainer.max_steps=2"]
    assert main(line) == 0
    saved = (run / "checkpoints" / "last.ckpt").read_bytes()
    capfd.readouterr()
    line = [*line, "--trainer.max_steps=12", "--ckpt_path=last", *poison(list(range(12)), "gradient")]
    assert main(line) == 2
    (told,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("trivium: ")]
    assert told.startswith("trivium: step 5: its gradients are not finite, as of 3 steps in a row")
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == saved


@pytest.mark.slow
def test_all_ranks_skip_a_step_that_is_spoiled_on_one(tiny_stages, tmp_path):
    """Under DDP, FSDP2, ZeRO-2 and ZeRO-3 the same three steps as of one process, the second of them
    skipped; and PPO's under DDP."""
    spoilt = [*COMMON, *SFT, "--trainer.max_steps=3", *poison([1])]
    assert main([*tiny_stages.stage("sft", run="bad_alone"), *spoilt]) == 0
    runs = {
        "ddp": ["--trainer.devices=2", "--trainer.strategy=strategies.ddp"],
        "fsdp": ["--trainer.devices=2", "--trainer.strategy=strategies.fsdp"],
        "zero2": zero(2),
        "zero3": zero(3),
    }
    two = ["--trainer.accelerator=cpu"]
    lines = [[*tiny_stages.stage("sft", run=name), *spoilt, *two, *options] for name, options in runs.items()]
    ppo = [*COMMON, *PPO, "--trainer.max_steps=4", *poison([1], "gradient"), *two, *runs["ddp"]]
    lines.append([*tiny_stages.stage("ppo", run="ppo_bad_ddp"), *ppo])
    run_ranks(tmp_path, lines)
    alone = tiny_stages.out / "bad_alone"
    assert not math.isfinite(curve(alone)[1])
    for name in runs:
        run = tiny_stages.out / name
        assert curve(run)[2] == pytest.approx(curve(alone)[2], rel=1e-5)
        assert_weights(weights(run), weights(alone), 1e-6)  # sums in another order
    assert all(torch.isfinite(value).all() for value in weights(tiny_stages.out / "ppo_bad_ddp").values())
