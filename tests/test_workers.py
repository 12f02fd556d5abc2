"""Processes that prepare batches: what is sent to one gives the same there, however it was started."""

import pickle

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback

from datamodules.sampling.mixture_schedule import CHUNK, MixtureSchedule
from experiments.cli.parser import parse_data


def sent(thing):
    """As a process gets it that is spawned, not forked."""
    return pickle.loads(pickle.dumps(thing))


def test_a_schedule_that_was_sent_draws_the_same():
    schedule = MixtureSchedule([0.5, 0.3, 0.2], {5000: [0.1, 0.1, 0.8]})
    blocks = [0, 1, 4999, 5001, 3 * CHUNK + 7]
    before = [schedule[block] for block in blocks]
    assert [sent(schedule)[block] for block in blocks] == before
    assert sent(schedule).drawn(9000).tolist() == schedule.drawn(9000).tolist()


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo"])
def test_batches_are_the_same_from_a_process_that_was_sent_what_makes_them(tiny_stages, stage):
    data = parse_data(tiny_stages.stage(stage))
    callback = LambdaCallback(on_fit_start=lambda trainer, module: None)  # it cannot be sent
    data.trainer = L.Trainer(
        accelerator="cpu", max_steps=4, logger=False, enable_checkpointing=False, callbacks=[callback]
    )
    data.config_errors(1)
    data.setup("fit")
    batches = data.train_dataloader()
    there = sent(batches)
    for index in (0, 3):
        here, other = batches[index], there[index]
        assert here.keys() == other.keys()
        for name, value in here.items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=0)
