"""Stopping is not dying: in a notebook an interrupted `fit` returns after a whole step, the cell goes on, and
the next `fit` goes on from there; users' mistakes are one line there."""

import re
import signal
import sys

import lightning as L
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from datamodules import MixedCorpusData, PromptData, Source
from modules import CausalLM, PPOModule
from tests.checkpoints import QUIET, byte_tokenizer, saved_model
from tests.kernels import Kernel

SETUP = """
import logging, lightning as L, torch, strategies
from datamodules import MixedCorpusData, Source
from modules import CausalLM

class Told(L.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        print(f"step {{trainer.global_step}} loss {{float(outputs['loss']):.6f}};", flush=True)
    def on_validation_batch_end(self, trainer, pl_module, *args):
        print("validated;", flush=True)

def parts(**options):
    L.seed_everything(0, verbose=False)
    source = Source({train!r}, 1.0, {val!r})
    data = MixedCorpusData({{"a": source}}, {tokenizer!r}, sequence_length=32, global_batch_size=8)
    options = {{"max_steps": 10**6, "limit_val_batches": 0, "callbacks": [Told()], **options}}
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, **options)
    return CausalLM(config={config!r}, warmup_steps=2), data, trainer
"""

STEP = re.compile(r"step (\d+) loss ([\d.]+);")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory, tiny_files, tiny_tokenizer, tiny_config):
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    files = {"train": str(tiny_files / "a.train.jsonl"), "val": str(tiny_files / "a.val.jsonl")}
    _, error = kernel.run(SETUP.format(**files, tokenizer=tiny_tokenizer, config=tiny_config))
    assert not error
    yield kernel
    kernel.close()


def test_interrupting_the_kernel_ends_fit_and_the_cell_goes_on(kernel):
    cell = """
model, data, trainer = parts()
before = model.state_dict()
trainer.fit(model, data)
reached = trainer.global_step
print("the cell went on at", reached, trainer.interrupted)
trainer.fit_loop.epoch_loop.max_steps = reached + 2
trainer.fit(model, data)
print("ended at", trainer.global_step)
"""
    printed, error = kernel.run(cell, interrupt_at="step 3 ")
    assert not error
    told, _, rest = printed.partition("the cell went on at ")
    reached = int(rest.split()[0])
    steps = [int(step) for step, _ in STEP.findall(told)]
    assert steps == list(range(1, reached + 1))  # what it was at came to its end
    assert rest.split()[1] == "True"
    assert f"step {reached + 1} loss" in rest
    assert f"step {reached} loss" not in rest
    assert f"ended at {reached + 2}" in rest


def test_an_interrupt_outside_of_steps_ends_fit_at_once_too(kernel):
    cell = """
model, data, trainer = parts(limit_val_batches=1.0, num_sanity_val_steps=10**6)
data.eval_batch_size = 1
trainer.fit(model, data)
print("the cell went on at", trainer.global_step)
"""
    printed, error = kernel.run(cell, interrupt_at="validated;")
    assert not error
    assert "the cell went on at 0" in printed
    assert "step 1 " not in printed


def test_several_processes_in_a_notebook_are_refused_in_one_line_and_one_is_not(kernel):
    for strategy in ("ddp", "fsdp", "tensor_parallel", "deepspeed"):
        _, lines = kernel.run(f"parts(strategy=strategies.{strategy}(), devices=2)")
        (line,) = lines
        assert "starts 2 processes that run the same program, and a notebook is none" in line
        assert "or give devices=1 here" in line
    fit = "model, data, trainer = parts(max_steps=3, {})\ntrainer.fit(model, data)"
    printed, error = kernel.run(fit.format("strategy=strategies.ddp(), devices=1"))
    assert not error
    alone, error = kernel.run(fit.format(""))
    assert STEP.findall(printed) == STEP.findall(alone) != []


def test_a_cell_run_twice_does_the_same_twice(kernel):
    cell = """
model, data, trainer = parts(max_steps=3, limit_val_batches=1)
trainer.fit(model, data)
print(len(trainer.callbacks), "callbacks", len(logging.getLogger("lightning.pytorch").handlers))
"""
    (first, error), (again, _) = kernel.run(cell), kernel.run(cell)
    assert not error
    assert STEP.findall(first) == STEP.findall(again) != []
    assert re.findall(".* callbacks \\d+", first) == re.findall(".* callbacks \\d+", again)


class InterruptsAt(L.Callback):
    """Sends SIGINT in the middle of a step, before some optimizer step; writes down rows and losses."""

    def __init__(self, step=None, twice=False):
        self.step, self.twice, self.rows, self.losses = step, twice, [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if self.step == trainer.global_step:
            self.step = None
            for _ in range(1 + self.twice):
                signal.raise_signal(signal.SIGINT)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rows.append(batch["rows"].tolist())
        self.losses.append(float(outputs["loss"]) if outputs else float(pl_module.kl_coef))


@pytest.fixture
def made(tmp_path, rows, tiny_files, tiny_tokenizer, tiny_config):
    """A stage, its data and a trainer, PPO's from networks that were never trained."""
    byte_tokenizer(tmp_path / "actor", ["<pad>", "</s>"], pad_token="<pad>", eos_token="</s>")
    size = len(byte_tokenizer(tmp_path / "reward", ["<pad>", "</s>"], pad_token="<pad>", eos_token="</s>"))
    saved_model(tmp_path / "actor", vocabulary=size)
    saved_model(
        tmp_path / "reward", vocabulary=size, auto_class=AutoModelForSequenceClassification, num_labels=1
    )

    def make(name, callback, steps):
        L.seed_everything(0, verbose=False)
        trainer = L.Trainer(**{**QUIET, "max_steps": steps, "callbacks": [callback]})
        if name == "ppo":
            data = PromptData(
                str(tiny_files / "prompts.train.jsonl"), str(tmp_path / "actor"), global_batch_size=16
            )
            options = {"max_new_tokens": 6, "epochs": 1, "minibatches": 2, "kl_target": 0.5, "kl_horizon": 64}
            return PPOModule(str(tmp_path / "actor"), str(tmp_path / "reward"), **options), data, trainer
        source = Source(str(tiny_files / "a.train.jsonl"), 1.0)
        data = MixedCorpusData(
            {"a": source}, tiny_tokenizer, sequence_length=32, global_batch_size=8, micro_batch_size=4
        )
        return CausalLM(config=dict(tiny_config, attention_dropout=0.1), warmup_steps=2), data, trainer

    return make


@pytest.mark.parametrize(("name", "at"), [("pretrain", 3), ("ppo", 2)])
def test_an_interrupt_waits_for_the_end_of_the_step_and_the_next_fit_is_as_if_there_had_been_none(
    made, monkeypatch, name, at
):
    """In the middle of a step of two micro-batches; of a PPO iteration, before its first of two updates."""
    whole = InterruptsAt()
    stage, data, trainer = made(name, whole, 6)
    trainer.fit(stage, datamodule=data)
    expected = {key: value.clone() for key, value in stage.state_dict().items()}
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    watch = InterruptsAt(at)
    stage, data, trainer = made(name, watch, 6)
    trainer.fit(stage, datamodule=data)
    assert trainer.interrupted
    assert trainer.global_step == {"pretrain": 4, "ppo": 4}[name]
    trainer.fit(stage, datamodule=data)
    assert trainer.global_step == 6
    assert (watch.rows, watch.losses) == (whole.rows, whole.losses)
    assert all(torch.equal(value, expected[key]) for key, value in stage.state_dict().items())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_does_not_wait_and_a_script_is_still_ended(made, monkeypatch):
    stage, data, trainer = made("pretrain", InterruptsAt(2), 6)
    with pytest.raises(SystemExit):  # Lightning's answer, where nobody is there to go on
        trainer.fit(stage, datamodule=data)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which leaves it ignored
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    stage, data, trainer = made("pretrain", InterruptsAt(2, twice=True), 6)
    trainer.fit(stage, datamodule=data)
    assert trainer.global_step == 2
    trainer.fit(stage, datamodule=data)
    assert trainer.global_step == 6


def test_a_validation_that_is_interrupted_gives_no_result_to_go_on_with(made, monkeypatch, tiny_files):
    class Stops(L.Callback):
        def on_validation_batch_end(self, *args):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    stage, data, trainer = made("pretrain", Stops(), 2)
    data.sources["a"] = Source(str(tiny_files / "a.train.jsonl"), 1.0, str(tiny_files / "a.val.jsonl"))
    with pytest.raises(KeyboardInterrupt):
        trainer.validate(stage, datamodule=data)


def test_files_and_fields_that_change_between_two_fits_are_read_anew(made, rows, tmp_path):
    file = rows(tmp_path / "rows.jsonl", [{"text": "the film is good"} for _ in range(40)])
    stage, data, trainer = made("pretrain", InterruptsAt(), 3)
    data.sources = {"a": Source(file, 1.0)}
    trainer.fit(stage, datamodule=data)
    before = len(data.splits["train"])
    rows(tmp_path / "rows.jsonl", [{"text": "the film is good"} for _ in range(400)])
    _, _, trainer = made("pretrain", InterruptsAt(), 3)
    trainer.fit(stage, datamodule=data)
    assert len(data.splits["train"]) == pytest.approx(10 * before, abs=10)  # but for a block's rest
