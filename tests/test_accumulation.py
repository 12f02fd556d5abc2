"""Exact normalisation: how a global batch is cut changes neither the loss of a step nor the weights after it.

Plain SGD here, so that the comparison is one of gradients: Adam would blow up the rounding of gradients near
0.
"""

import csv
import json
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from transformers import AutoModelForSequenceClassification

from datamodules import InstructionData, PreferenceData
from experiments.cli.program import main
from modules import SFTModule

ROOT = Path(__file__).resolve().parent.parent
STEPS, LR = 5, 0.3
# fp32: a sum of 8 rows' gradients in another order differs by a few ulp (6e-8) of its largest term, a loss
# near 6 likewise; over 5 steps of lr 0.3 on gradients of norm ≤ 1 that is below 1e-6 in a weight. A mean of
# means would be off by more than 1e-2 on these rows (2 to 15 words), as
# `test_the_rows_are_uneven_enough_to_tell` shows.
LOSS, WEIGHT = 2e-6, 1e-6


def in_a_notebook(tiny_stages, folder, micro, **options):
    """What a user writes in a cell: a module, data, a Trainer with defaults; gives losses and weights."""
    data = InstructionData(
        train=str(tiny_stages.files / "instructions.train.jsonl"),
        tokenizer=tiny_stages.tokenizer,
        max_length=64,
        global_batch_size=8,
        micro_batch_size=micro,
    )
    model = SFTModule(
        tiny_stages.export("pretrain"),
        optimizer=partial(torch.optim.SGD, lr=LR),
        warmup_steps=0,
        min_lr_ratio=1.0,
    )
    trainer = L.Trainer(
        max_steps=STEPS,
        logger=CSVLogger(folder, name="", version=""),
        log_every_n_steps=1,
        accelerator="cpu",
        **options,
    )
    trainer.fit(model, data)
    assert trainer.global_step == STEPS
    return curve(Path(folder) / "metrics.csv"), dict(model.network.model.state_dict())


def curve(file, metric="train/loss"):
    with file.open() as lines:
        return {int(row["step"]): float(row[metric]) for row in csv.DictReader(lines) if row.get(metric)}


def assert_same(found, expected):
    (losses, weights), (other_losses, other_weights) = found, expected
    assert list(losses) == list(other_losses)
    assert losses == pytest.approx(other_losses, rel=LOSS)
    for name, value in weights.items():
        torch.testing.assert_close(
            value, other_weights[name], atol=WEIGHT, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture(scope="module")
def whole(tiny_stages, tmp_path_factory):
    return in_a_notebook(tiny_stages, tmp_path_factory.mktemp("whole"), 8)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_a_notebooks_trainer_with_defaults_accumulates_exactly(tiny_stages, whole, tmp_path, micro):
    found = in_a_notebook(tiny_stages, tmp_path, micro)
    assert_same(found, whole)
    assert len(found[0]) == STEPS


def test_the_rows_are_uneven_enough_to_tell(tiny_stages):
    """A mean over micro-batches of means over tokens weighs rows of unequal length wrongly."""
    data = InstructionData(
        str(tiny_stages.files / "instructions.train.jsonl"),
        tiny_stages.tokenizer,
        global_batch_size=8,
        micro_batch_size=1,
    )
    data.setup()
    plan = data.sampler()
    shares = data.splits["train"].weights[plan.rows(0)] / plan.normalizer(0)
    assert abs(shares - 1 / 8).max() > 0.05


def test_a_gradient_norm_clip_sees_the_whole_steps_gradient(tiny_stages, tmp_path):
    """Clipping hard (0.05) makes the norm decide every update: a norm per micro-batch would change the
    weights."""
    one = in_a_notebook(tiny_stages, tmp_path / "one", 8, gradient_clip_val=0.05)
    many = in_a_notebook(tiny_stages, tmp_path / "many", 2, gradient_clip_val=0.05)
    assert_same(many, one)


def test_accumulation_asked_for_as_it_is_derived_is_accepted(tiny_stages, whole, tmp_path):
    assert_same(in_a_notebook(tiny_stages, tmp_path, 4, accumulate_grad_batches=2), whole)


def test_contradicting_accumulation_is_refused_in_a_notebook_too(tiny_stages, tmp_path):
    with pytest.raises(ValueError, match=r"accumulate_grad_batches is 3, but .* makes it 2: leave it out"):
        in_a_notebook(tiny_stages, tmp_path, 4, accumulate_grad_batches=3)


def test_an_epoch_cut_in_the_middle_of_a_step_is_refused(tiny_stages, tmp_path):
    """Lightning steps at an epoch's last batch whatever has accumulated: half a step over the whole
    normalizer."""
    with pytest.raises(ValueError, match="limit_train_batches"):
        in_a_notebook(tiny_stages, tmp_path, 4, limit_train_batches=3)


def test_the_reward_offset_is_the_mean_score_of_training_replies_each_counted_once(tiny_stages):
    """PPO subtracts it; rows that fill up the last batch must not count (96 prompts in batches of 40)."""
    run = tiny_stages.out / "offset"
    common = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--data.init_args.eval_batch_size=40"]
    assert main([*tiny_stages.stage("reward", run=run.name), *common]) == 0
    offset = json.loads((run / "export/provenance.json").read_text())["offset"]
    model = AutoModelForSequenceClassification.from_pretrained(run / "export").eval()
    data = PreferenceData(str(tiny_stages.files / "preferences.train.jsonl"), str(run / "export"))
    data.setup()
    scores = []
    with torch.no_grad():
        for row in range(len(data.splits["train"])):
            scores += [
                model(torch.tensor([list(reply)])).logits.item()
                for reply in data.splits["train"][row]["replies"]
            ]
    assert offset == pytest.approx(sum(scores) / len(scores), abs=1e-5)
