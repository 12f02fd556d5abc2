"""Exact normalisation: how a global batch is cut changes neither the loss of a step nor the weights after it.

Plain SGD here, so that the comparison is one of gradients: Adam would blow up the rounding of gradients near
0.
"""

import csv
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from datamodules import InstructionData, PreferenceData
from experiments.cli import main
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
    plan = data.plan()
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


# --- two processes, as a user starts them


def in_two_processes(arguments):
    line = [sys.executable, "-m", "experiments.cli", *arguments, "--trainer.accelerator=cpu"]
    line += ["--trainer.devices=2", "--trainer.strategy=strategies.ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


SGD = '--model.init_args.optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}'


def logged(run, metric="train/loss"):
    return curve(run / "metrics/version_0/metrics.csv", metric)


def exported(run):
    return load_file(run / "export" / "model.safetensors")


@pytest.mark.slow
def test_sft_in_two_processes_equals_one(tiny_stages):
    """Two ranks × two micro-batches of 2 rows against one of 8; and as many tokens counted."""
    common = [f"--trainer.max_steps={STEPS}", "--trainer.log_every_n_steps=1", SGD]
    common += ["--data.init_args.global_batch_size=8", "--trainer.limit_val_batches=0"]
    one, two = tiny_stages.out / "sft_one", tiny_stages.out / "sft_two"
    small, large = "--data.init_args.micro_batch_size=2", "--data.init_args.micro_batch_size=8"
    assert main([*tiny_stages.stage("sft", run=one.name), *common, large]) == 0
    in_two_processes([*tiny_stages.stage("sft", run=two.name), *common, small])
    assert_same((logged(two), exported(two)), (logged(one), exported(one)))
    tokens = [json.loads((run / "export/provenance.json").read_text())["tokens"] for run in (one, two)]
    assert tokens[0] == tokens[1] > 0


@pytest.mark.slow
def test_ppo_in_two_processes_samples_and_learns_as_in_one(tiny_stages):
    common = ["--trainer.max_steps=8", "--trainer.limit_val_batches=0"]
    common += ["--data.init_args.global_batch_size=16"]
    one, two = tiny_stages.out / "ppo_one", tiny_stages.out / "ppo_two"
    in_two_processes([*tiny_stages.stage("ppo", run=two.name), *common])
    assert main([*tiny_stages.stage("ppo", run=one.name), *common]) == 0
    for name in ("score", "response_length", "policy_loss", "value_loss", "grad_norm_critic"):
        metric = f"ppo/{name}"
        # batches of other sizes round differently: fp32
        assert logged(two, metric) == pytest.approx(logged(one, metric), rel=1e-3, abs=1e-5), metric


@pytest.mark.slow
def test_a_reward_model_trained_by_two_processes_that_accumulate_equals_one_by_one_process(tiny_stages):
    """Two ranks × two micro-batches of 2 prompts against one of 8; the learning rate is lower than above."""
    common = [
        f"--trainer.max_steps={STEPS}",
        "--trainer.log_every_n_steps=1",
        SGD,
    ]
    common += ["--data.init_args.global_batch_size=8", "--trainer.val_check_interval=1.0"]
    one, two = tiny_stages.out / "sgd_one", tiny_stages.out / "sgd_two"
    small, large = "--data.init_args.micro_batch_size=2", "--data.init_args.micro_batch_size=8"
    assert main([*tiny_stages.stage("reward", run=one.name), *common, large]) == 0
    in_two_processes([*tiny_stages.stage("reward", run=two.name), *common, small])
    assert len(logged(one)) == STEPS
    assert_same((logged(two), exported(two)), (logged(one), exported(one)))
    for metric in ("val/loss", "reward/accuracy", "reward/margin", "reward/calibration_error"):
        assert logged(two, metric) == pytest.approx(logged(one, metric), rel=1e-5), metric
    offsets = [json.loads((run / "export/provenance.json").read_text())["offset"] for run in (two, one)]
    assert offsets[0] == pytest.approx(offsets[1], abs=1e-5)


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
