"""Lightning's callbacks that average weights lose nothing, with any stage: what they export is the average by
hand, a run goes on bit for bit from its own weights, and what could be no average is refused."""

import json
import os
import signal
from typing import ClassVar

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging

from datamodules import InstructionData
from experiments.callbacks.disk_space import kept_checkpoints, state_bytes
from experiments.cli.program import main
from modules import SFTModule
from modules.averaging import averaging_of
from modules.errors import UserError
from strategies.checkpoints.checkpoint_size import saved_of
from tests.ranks import assert_weights, curve, run_ranks, weights

OURS = "lightning.pytorch.callbacks."
DECAY = 0.5
EMA = {"class_path": f"{OURS}EMAWeightAveraging", "init_args": {"decay": DECAY}}
MEAN = {"class_path": f"{OURS}WeightAveraging"}
BY_EPOCH = {
    "class_path": f"{OURS}StochasticWeightAveraging",
    # with "cos" Lightning begins where the annealing ends
    "init_args": {
        **{"swa_lrs": 1e-3, "swa_epoch_start": 2},
        **{"annealing_epochs": 4, "annealing_strategy": "linear"},
    },
}
SEEN = {"class_path": f"{__name__}.Seen"}
STEPS = 6
COMMON = ["--trainer.log_every_n_steps=1", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=2"]
COMMON += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
LEARNING = ["--data.init_args.global_batch_size=8", "--data.init_args.micro_batch_size=8"]
LEARNING += ["--model.init_args.min_lr_ratio=1"]  # so that a run's length changes no rate before its end
PPO = ["--model.init_args.epochs=1", "--model.init_args.minibatches=2"]


class Seen(L.Callback):
    """Copies the weights that an average is made of: after each step (PPO: iteration), or where an epoch
    begins; sends SIGTERM after a step."""

    after: ClassVar[list] = []
    before_epochs: ClassVar[list] = []
    strikes = 0

    def on_train_epoch_start(self, trainer, pl_module):
        Seen.before_epochs.append(copies(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        Seen.after.append(copies(pl_module))
        if trainer.global_step == Seen.strikes:
            os.kill(os.getpid(), signal.SIGTERM)


def copies(stage):
    network = stage.get_submodule(stage.exports()[0].module)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture
def fit(tiny_stages):
    """Fits a stage under a name with callbacks; gives the run's folder."""
    Seen.after, Seen.before_epochs, Seen.strikes = [], [], 0

    def run(stage, name, callbacks, *more, steps=STEPS):
        steps = [] if steps is None else [f"--trainer.max_steps={steps * (2 if stage == 'ppo' else 1)}"]
        line = [*tiny_stages.stage(stage, run=f"averaging_{stage}_{name}"), *COMMON, *steps]
        line += [
            *(PPO if stage == "ppo" else LEARNING),
            f"--trainer.callbacks={json.dumps(callbacks)}",
            *more,
        ]
        assert main(line) == 0
        return tiny_stages.out / f"averaging_{stage}_{name}"

    return run


def assert_same_run(run, whole):
    own, expected = weights(run), weights(whole)
    assert own.keys() == expected.keys()
    assert all(own[name].equal(tensor) for name, tensor in expected.items())
    for metric in ("train/loss", "val/loss", "val/score", "ppo/score"):
        assert curve(run, metric) == curve(whole, metric)


@pytest.mark.parametrize(
    ("stage", "average"), [("pretrain", MEAN), ("sft", EMA), ("reward", EMA), ("ppo", EMA)]
)
def test_every_stage_exports_the_average_and_goes_on_from_its_weights(
    fit, tiny_stages, tmp_path, stage, average
):
    whole = fit(stage, "whole", [average, SEEN])
    expected = Seen.after[0]
    for number, seen in enumerate(Seen.after[1:], start=2):
        share = 1 / number if average is MEAN else 1 - DECAY
        expected = {name: tensor + share * (seen[name] - tensor) for name, tensor in expected.items()}
    exported = weights(whole)
    for name, tensor in exported.items():  # two roundings of fp32 a step
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    assert any(not tensor.equal(Seen.after[-1][name]) for name, tensor in exported.items())
    # one that had ended, taken further
    parts = fit(stage, "parts", [average], steps=STEPS - 2)
    assert_same_run(fit(stage, "parts", [average], "--ckpt_path=newest"), whole)
    # the last checkpoint is measured, and becomes the export, as the run itself did
    last = str(parts / "checkpoints/last.ckpt")
    assert main(["export", last, str(tmp_path / "export")]) == 0
    again = weights(tmp_path)
    assert all(again[name].equal(tensor) for name, tensor in exported.items())
    record = {"class_path": "tests.ranks.Record", "init_args": {"path": str(tmp_path / "found.json")}}
    line = [*tiny_stages.stage(stage, "validate", f"averaging_{stage}_parts"), f"--ckpt_path={last}"]
    line += ["--trainer.limit_val_batches=2", f"--trainer.callbacks={json.dumps([average, record])}"]
    assert main(line) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    metric = "val/score" if stage == "ppo" else "val/loss"
    assert found[metric] == list(curve(whole, metric).values())[-1]
    assert main([*tiny_stages.stage(stage, "predict", parts.name), f"--ckpt_path={last}"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "average"), [("sft", EMA), ("ppo", MEAN)])
def test_two_ranks_export_the_average_of_one_process_and_go_on(fit, tiny_stages, tmp_path, stage, average):
    micro = [] if stage == "ppo" else ["--data.init_args.micro_batch_size=4"]
    one = fit(stage, "one", [average], *micro)
    run = tiny_stages.stage(stage, run=f"averaging_{stage}_two")
    line = [*run, *COMMON, *(PPO if stage == "ppo" else LEARNING), *micro]
    line += [f"--trainer.callbacks={json.dumps([average])}", "--trainer.accelerator=cpu"]
    line += ["--trainer.devices=2", "--trainer.strategy=strategies.ddp"]
    steps = STEPS * (2 if stage == "ppo" else 1)
    parts = [
        [*line, f"--trainer.max_steps={steps - 2}"],
        [*line, f"--trainer.max_steps={steps}", "--ckpt_path=newest"],
    ]
    run_ranks(tmp_path / "ranks", parts)
    # fp32: gradients are summed in another order, and Adam's first steps make that of the size of a step
    assert_weights(weights(tiny_stages.out / f"averaging_{stage}_two"), weights(one), atol=1e-5)


def test_an_average_that_never_began_loses_nothing_and_may_be_left_behind(fit, tmp_path, caplog):
    plain = fit("sft", "plain", [])
    late = {**EMA, "init_args": {"update_starting_at_step": 1000}}
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        run = fit("sft", "late", [late])
    assert "EMAWeightAveraging: nothing was averaged: the weights are as trained" in caplog.text
    assert_same_run(run, plain)
    fit("sft", "left", [EMA], steps=STEPS - 2)
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        run = fit("sft", "left", [], "--ckpt_path=newest")
    assert "its averages are left behind" in caplog.text
    own, expected = weights(run), weights(plain)
    assert all(own[name].equal(tensor) for name, tensor in expected.items())
    assert curve(run) == curve(plain)


def test_a_run_without_a_step_left_exports_the_average(fit, capsys):
    run = fit("sft", "ended", [EMA])
    before = weights(run)
    (run / "export/model.safetensors").unlink()  # as one that was killed while it exported
    capsys.readouterr()
    fit("sft", "ended", [EMA], "--ckpt_path=newest")
    assert f"SFTModule: no step was left after the {STEPS} before\n" in capsys.readouterr().out
    assert all(before[name].equal(tensor) for name, tensor in weights(run).items())


def test_an_average_of_epochs_is_exported_and_goes_on_amid_an_epoch(fit):
    epochs = ["--trainer.max_epochs=4", "--trainer.limit_train_batches=2"]
    whole = fit("sft", "epochs", [BY_EPOCH, SEEN], *epochs, steps=None)
    averaged = Seen.before_epochs[1:]  # the second on
    for name, tensor in weights(whole).items():
        mean = torch.stack([seen[name] for seen in averaged]).mean(0)
        torch.testing.assert_close(tensor, mean, rtol=1e-5, atol=1e-6)
    saved = yaml.safe_load((whole / "config.yaml").read_text())
    assert saved["trainer"]["callbacks"][0]["init_args"]["device"] == "cpu"
    Seen.strikes = 5
    with pytest.raises(SystemExit):
        fit("sft", "epochs_struck", [BY_EPOCH, SEEN], *epochs, steps=None)
    Seen.strikes = 0
    run = fit("sft", "epochs_struck", [BY_EPOCH], *epochs, "--ckpt_path=newest", steps=None)
    assert_same_run(run, whole)
    # taken further without it, at the rate of the configuration, which is constant
    before = list(curve(whole, "train/learning_rate").values())
    assert before[-1] < before[0]
    fit("sft", "epochs", [], *epochs, "--trainer.max_epochs=5", "--ckpt_path=newest", steps=None)
    assert list(curve(whole, "train/learning_rate").values()) == [*before, before[0], before[0]]


class Counted(L.Callback):
    """What lies in memory once an average is there, and what a checkpoint is counted with."""

    held: ClassVar[list[int]] = []
    checkpoint = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        (average,) = averaging_of(trainer)
        networks = (pl_module, average._average_model)
        Counted.held = [
            sum(p.untyped_storage().nbytes() for p in network.parameters()) for network in networks
        ]
        Counted.checkpoint = next(
            kept_checkpoints(trainer, saved_of(pl_module), state_bytes(pl_module, torch.float32))
        ).each


@pytest.mark.parametrize(
    ("stage", "average", "more"),
    [
        ("sft", BY_EPOCH, ["--trainer.max_epochs=4", "--trainer.limit_train_batches=2"]),
        ("ppo", EMA, ["--trainer.max_steps=4"]),
    ],
)
def test_plan_and_disk_count_the_copies_that_are_there(fit, tiny_stages, capsys, stage, average, more):
    counted = {"class_path": f"{__name__}.Counted"}
    run = fit(stage, "counted", [average, counted], *more, steps=None)
    weights, copies = Counted.held
    assert copies == weights > 0  # of all networks, of PPO four
    size = (run / "checkpoints/last.ckpt").stat().st_size
    # what is not tensors is less than the copy, which would be missed
    assert Counted.checkpoint <= size < Counted.checkpoint + copies
    capsys.readouterr()
    line = [*tiny_stages.stage(stage, run="averaging_planned")[1:], *more, "--trainer.accelerator=cpu"]
    given = [f"--trainer.callbacks={json.dumps(callbacks)}" for callbacks in ([], [average])]
    plain, planned = (planned_on(["plan", *line, each, "--json"], capsys) for each in given)
    assert plain["bytes_per_rank"]["ddp"]["weights"] == weights
    # rotary frequencies are copied too
    assert planned["bytes_per_rank"]["ddp"]["weights"] == pytest.approx(weights + copies, rel=0.001)
    assert planned["bytes_per_rank"]["ddp"]["growth"] == plain["bytes_per_rank"]["ddp"]["growth"]
    assert {*planned["bytes_per_rank"]} == {"ddp"}  # the only strategy that can have one
    (note,) = {*planned["notes"]} - {*plain["notes"]}
    assert note.endswith("WeightAveraging keeps a copy of all networks, which counts as weights")


def planned_on(line, capsys):
    assert main(line) == 0
    return json.loads(capsys.readouterr().out)


REFUSED = [
    ("sft", [EMA, MEAN], [], "EMAWeightAveraging, WeightAveraging: each of them exchanges the weights"),
    ("sft", [EMA], ["--trainer.strategy=strategies.fsdp"], "EMAWeightAveraging: Lightning averages whole"),
    ("sft", [BY_EPOCH], ["--trainer.max_steps=4"], "StochasticWeightAveraging counts epochs, and this run"),
    ("sft", [BY_EPOCH], ["--trainer.max_epochs=1"], "StochasticWeightAveraging: swa_epoch_start is 2, which"),
    ("ppo", [BY_EPOCH], [], "StochasticWeightAveraging changes learning rates by epochs"),
    (
        "ppo",
        [{**EMA, "init_args": {"update_every_n_steps": 2}}],
        [],
        "EMAWeightAveraging: update_every_n_steps is 2, but this stage is averaged where an iteration of 8",
    ),
]


@pytest.mark.parametrize(("stage", "callbacks", "more", "line"), REFUSED)
def test_what_would_be_no_average_is_refused_before_anything_is_read(refused, stage, callbacks, more, line):
    (told,) = refused(stage, f"--trainer.callbacks={json.dumps(callbacks)}", *more)
    assert told.startswith(f"trivium: trainer.callbacks: {line}")


def test_a_second_fit_in_a_notebook_is_refused_since_it_would_begin_the_average_anew(tiny_stages, tiny_files):
    stage = SFTModule(tiny_stages.export("pretrain"), warmup_steps=0)
    train = str(tiny_files / "instructions.train.jsonl")
    data = InstructionData(
        train=train, tokenizer=tiny_stages.export("pretrain"), global_batch_size=4, micro_batch_size=4
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_steps=2, accelerator="cpu", callbacks=[EMAWeightAveraging(decay=DECAY)], **quiet)
    trainer.fit(stage, datamodule=data)
    trainer.fit_loop.epoch_loop.max_steps = 4
    with pytest.raises(UserError, match="begins its average anew in each fit"):
        trainer.fit(stage, datamodule=data)
