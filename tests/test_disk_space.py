"""Room on the disk for checkpoints and the export is counted as the callbacks will need it, before the first
step."""

import re
import subprocess
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import SGD, AdamW

from experiments.callbacks.disk_space import bytes_of, kept_checkpoints, planned, state_bytes
from experiments.cli.program import main
from experiments.plan.config import read_run
from strategies import deepspeed
from strategies.checkpoints.checkpoint_size import checkpoint_bytes, saved_of
from tests.checkpoints import QUIET

COMMON = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
RECEIPTS = 400_000  # bytes that each of these tiny runs writes beside tensors, generously


class Tied(L.LightningModule):
    """2 × 3 numbers that two names share, 3 that are not trained, and a buffer of 5 bytes."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.one, self.frozen = nn.Linear(2, 3, bias=False, dtype=dtype), nn.Parameter(torch.zeros(3))
        self.two = nn.Linear(2, 3, bias=False)
        self.two.weight = self.one.weight
        self.frozen.requires_grad_(False)
        self.register_buffer("mask", torch.zeros(5, dtype=torch.int8))


def kept(callback, states=8, **limits):
    options = {**QUIET, "enable_checkpointing": True, **limits}
    trainer = L.Trainer(callbacks=callback, **options)
    return [(each.number, each.each) for each in kept_checkpoints(trainer, saved_of(Tied()), states)]


@pytest.mark.parametrize(
    ("options", "limits", "number"),
    [
        ({"save_top_k": 1, "save_last": True}, {"max_steps": 10}, 2),
        ({"save_top_k": 1}, {"max_steps": 10}, 1),
        ({"save_top_k": 1, "save_last": "link"}, {"max_steps": 10}, 1),
        ({"save_top_k": 3, "monitor": "val/loss", "save_last": True}, {"max_steps": 10}, 4),
        ({"save_top_k": -1, "every_n_train_steps": 2}, {"max_steps": 10}, 5),
        ({"save_top_k": 3, "monitor": "val/loss", "every_n_train_steps": 5}, {"max_steps": 10}, 2),
        ({"save_top_k": -1, "every_n_epochs": 2, "save_last": True}, {"max_epochs": 6}, 4),
        ({"save_top_k": 0, "save_last": True}, {"max_steps": 10}, 1),
    ],
)
def test_checkpoints_are_counted_as_their_callback_keeps_them(tmp_path, options, limits, number):
    """Each takes 6 × 4 + 3 × 4 + 5 bytes of weights, and 6 × 8 of two moments of what is trained."""
    callback = ModelCheckpoint(dirpath=tmp_path, **options)
    assert kept(callback, **limits) == [(number, 41 + 48)]


def test_what_keeps_nothing_needs_nothing_and_weights_alone_are_counted_as_such(tmp_path):
    assert kept(ModelCheckpoint(dirpath=tmp_path, save_top_k=0), max_steps=5) == []
    assert kept(ModelCheckpoint(dirpath=tmp_path, save_weights_only=True), max_steps=5) == [(1, 41)]


@pytest.mark.parametrize(
    ("optimizer", "dtype", "expected"),
    [
        (AdamW, torch.float32, 8),
        (AdamW, torch.bfloat16, 4),
        (SGD, torch.float32, 0),
        (lambda groups: SGD(groups, momentum=0.9), torch.float32, 4),
        (lambda groups: AdamW(groups, amsgrad=True), torch.float32, 12),
    ],
)
def test_what_an_optimizer_keeps_for_a_number_is_found_by_a_step_of_it(optimizer, dtype, expected):
    assert state_bytes(SimpleNamespace(make_optimizer=optimizer), dtype) == expected


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo"])
@pytest.mark.parametrize("strategy", ["ddp", "deepspeed"])
def test_the_configuration_alone_tells_what_checkpoint_and_export_take(
    tiny_stages, stage, strategy, tmp_path
):
    """Against the files of a finished run, and against what DeepSpeed's stages keep: the weights, and of what
    is trained 4 bytes of a master copy and two moments."""
    options = [*tiny_stages.stage(stage)[1:], f"--trainer.strategy=strategies.{strategy}"]
    plan = read_run([], options, 1)
    saved = planned(plan)
    networks = {network.name: network.sizes.parameters for network in plan.networks}
    trained = sum(networks[network.name] for network in plan.networks if network.trained)
    assert saved == (4 * sum(networks.values()), trained, 4)
    if strategy == "deepspeed":
        for number, weights in ((2, saved.weights), (3, saved.weights - 4 * trained)):
            made = deepspeed(stage=number)
            assert checkpoint_bytes(made, saved, 8) == weights + 12 * trained
        return
    checkpoint = tiny_stages.out / stage / "checkpoints/last.ckpt"
    counted = checkpoint_bytes(None, saved, 8)
    assert counted <= checkpoint.stat().st_size <= counted + RECEIPTS
    exports = sum(bytes_of(file) for file in (tiny_stages.out / stage / "export").rglob("model.safetensors"))
    assert 4 * trained <= exports <= 4 * trained + RECEIPTS


def test_a_small_disk_is_refused_in_a_line_and_one_of_the_size_that_it_names_is_enough(
    tiny_stages, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))
    run = tiny_stages.out / "small_disk"
    run.mkdir()
    line = [*tiny_stages.stage("sft", run=run.name), *COMMON]
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", run], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("nothing may be mounted here")
    try:
        assert main(line) == 2
        (told,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("trivium: ")]
        needed, free = map(int, re.findall(r"\((\d+) bytes", told))
        assert told.startswith(f"trivium: run: {run}/checkpoints needs ")
        assert told.endswith("or keep fewer checkpoints (save_top_k, save_last)")
        assert free <= 600 * 1024 < needed
        assert list(run.iterdir()) == []
        assert not [
            path for path in (tmp_path / "cache").rglob("*") if path.is_file()
        ]  # nothing was tokenised
        room = needed + RECEIPTS
        subprocess.run(["mount", "-o", f"remount,size={room}", run], check=True)
        assert main(line) == 0
        # those that are there are replaced: their room counts
        assert main([*line, "--trainer.max_steps=3", "--ckpt_path=newest"]) == 0
        assert main([*line, "--overwrite=true"]) == 0  # and where they are to go
    finally:
        subprocess.run(["umount", run], check=True)
