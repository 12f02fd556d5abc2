"""A trainer that fits again goes on where it stood under every strategy, bit for bit; DeepSpeed's engine is a
new one then, and the old one's memory is free."""

import gc
import json
import weakref
from pathlib import Path

import lightning as L
import pytest
import torch

import strategies
from modules.errors import UserError
from tests.checkpoints import QUIET
from tests.conftest import Commands
from tests.ranks import run_code
from tests.test_continuation import STAGES, Losses

BATCHES, FIRST = 6, 4  # optimizer steps in all; those of a first fit
BF16 = {"precision": "bf16-mixed"}
ZERO = [
    ("pretrain", {"stage": 1, "persistent_elements": 0}, {}, "interrupted"),
    ("pretrain", {"stage": 2, "offload": "optimizer"}, BF16, "ended"),
    ("pretrain", {"stage": 3, "persistent_elements": 0}, BF16, "ended"),
    ("sft", {"stage": 1}, BF16, "interrupted"),
    ("sft", {"stage": 2}, {}, "validated"),
    ("sft", {"stage": 3}, {}, "interrupted"),
    ("sft", {"stage": 3, "offload": "parameters", "persistent_elements": 0}, {}, "validated"),
    ("sft", {"stage": 2}, BF16, "not begun"),
    ("ppo", {"stage": 2}, {}, "interrupted"),
    ("ppo", {"stage": 3, "persistent_elements": 0}, {}, "interrupted"),
]
"""stage, DeepSpeed's options, the Trainer's, and how the first fit ends. Pretraining has dropout, and is
interrupted after a step; SFT in the middle of one"""


def make(name, strategy, made, **options):
    make_stage, updates = STAGES[name]
    L.seed_everything(0, verbose=False)
    stage, data = make_stage(*made)
    stage.min_lr_ratio = 1.0  # a fit that is to end earlier has the same rates
    if name != "ppo":
        data.micro_batch_size, options = 2, {"gradient_clip_val": 0.5, **options}
    watch = Losses()
    trainer = L.Trainer(
        **QUIET, devices=2, strategy=strategy, max_steps=BATCHES * updates, callbacks=[watch], **options
    )
    return stage, data, trainer, watch


def weights(stage):
    return stage.sharding.full_state_dict(stage.network)


def first_fit(name, stage, data, trainer, watch, end):
    """Leaves a trainer as it is after a fit that ends in this way; what is trained again is taken off."""
    if end == "not begun":
        stage.on_train_start = interrupt
    elif end == "interrupted":
        watch.stop_after = {"ppo": 2, "pretrain": 4}.get(name, 5)
    else:
        trainer.fit_loop.epoch_loop.max_steps = FIRST
        trainer.fit(stage, datamodule=data)
        trainer.fit_loop.epoch_loop.max_steps = BATCHES
        if end == "validated":
            trainer.validate(stage, datamodule=data, verbose=False)
        return
    with pytest.raises(SystemExit):  # Lightning's own answer to Ctrl-C
        trainer.fit(stage, datamodule=data)
    vars(stage).pop("on_train_start", None)
    whole = len(watch.rows) - len(watch.rows) % trainer.accumulate_grad_batches
    del watch.rows[whole:], watch.losses[whole:], watch.rates[whole:]


def interrupt():
    raise KeyboardInterrupt


def fits_again(name, strategy, made, end, **options):
    stage, data, trainer, whole = make(name, strategy(), made, **options)
    trainer.fit(stage, datamodule=data)
    expected = weights(stage)
    stage, data, trainer, watch = make(name, strategy(), made, **options)
    first_fit(name, stage, data, trainer, watch, end)
    engine = getattr(trainer.strategy, "trains", None)
    before = [] if engine is None else [weakref.ref(engine), weakref.ref(engine.optimizer)]
    del engine
    trainer.fit(stage, datamodule=data)
    assert len(whole.losses) == BATCHES * trainer.accumulate_grad_batches
    assert watch.rows == whole.rows
    assert watch.losses == whole.losses
    assert watch.rates == whole.rates
    found = weights(stage)
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    gc.collect()
    assert [reference() for reference in before] == [None] * len(before)


def another_network_is_refused(made):
    stage, data, trainer, _ = make("sft", strategies.deepspeed(stage=2), made)
    trainer.fit_loop.epoch_loop.max_steps = FIRST
    trainer.fit(stage, datamodule=data)
    trainer.fit_loop.epoch_loop.max_steps = BATCHES
    other, *_ = make("sft", "auto", made)
    with pytest.raises(UserError, match="trainer: it has trained before, another network"):
        trainer.fit(other, datamodule=data)


def on_a_rank(arguments):
    torch.set_num_threads(1)
    files, tokenizer, config, out, kind = json.loads(arguments)
    made = Path(files), tokenizer, config, Commands(Path(files), tokenizer, Path(out))
    if kind == "zero":
        for name, zero, options, end in ZERO:
            fits_again(name, lambda zero=zero: strategies.deepspeed(**zero), made, end, **options)
        another_network_is_refused(made)
        return
    for strategy in (strategies.ddp, strategies.fsdp, strategies.tensor_parallel, lambda: "ddp"):
        fits_again("pretrain", strategy, made, "interrupted")
    fits_again("pretrain", lambda: "ddp", made, "validated")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero", "others"])
def test_a_trainer_that_fits_again_goes_on_bit_for_bit(
    kind, tiny_files, tiny_tokenizer, tiny_config, tiny_stages, tmp_path
):
    made = [str(tiny_files), tiny_tokenizer, tiny_config, str(tiny_stages.out), kind]
    code = "import sys; from tests.test_fit_again_ranks import on_a_rank; on_a_rank(sys.argv[1])"
    run_code(tmp_path, code, 2, json.dumps(made))
