"""The curves of a run that goes on: each step once, in the CSV files, and one run in W&B."""

import csv
import json
import shutil

import pytest

from experiments.callbacks.loggers import keep_steps, wandb_id
from experiments.cli.program import main

OPTIONS = ["--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"]
SFT = ["--data.init_args.global_batch_size=8", "--data.init_args.micro_batch_size=4"]
# a validation after every second step, so also where a checkpoint is
SFT += ["--trainer.val_check_interval=4", "--trainer.check_val_every_n_epoch=null"]
PPO = [
    "--data.init_args.global_batch_size=8",
    "--model.init_args.epochs=1",
    "--model.init_args.minibatches=2",
]
PPO += ["--trainer.val_check_interval=2", "--trainer.check_val_every_n_epoch=null"]


def rows(run, metric):
    """(step, value) of every row that has a metric, file after file."""
    found = []
    for file in sorted(run.glob("metrics/version_*/metrics.csv")):
        with file.open() as lines:
            found += [(int(row["step"]), row[metric]) for row in csv.DictReader(lines) if row.get(metric)]
    return found


@pytest.mark.parametrize(
    ("stage", "options", "updates", "metrics"),
    [("sft", SFT, 1, ("train/loss", "val/loss")), ("ppo", PPO, 2, ("ppo/score", "val/score"))],
)
def test_each_step_is_in_the_metrics_once_whatever_a_cut_off_run_had_logged(
    tiny_stages, monkeypatch, stage, options, updates, metrics
):
    """Trained to step 4 and on to 6; then from the checkpoint of step 4 once more, as after a power cut."""
    whole, run = tiny_stages.out / f"{stage}_curve", tiny_stages.out / f"{stage}_cut"
    line = [*tiny_stages.stage(stage, run=run.name), *OPTIONS, *options, "--model.init_args.min_lr_ratio=1"]
    steps = [f"--trainer.max_steps={n * updates}" for n in (4, 6)]
    assert main([*line, steps[1], "--run", str(whole)]) == 0
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main([*line, steps[0]]) == 0
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "of_step_4.ckpt")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main([*line, steps[1], "--ckpt_path=last"]) == 0
    shutil.copy(run / "of_step_4.ckpt", run / "checkpoints" / "last.ckpt")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main([*line, steps[1], "--ckpt_path=last"]) == 0
    for metric in metrics:
        assert rows(run, metric) == rows(whole, metric)
    assert [step for step, _ in rows(run, metrics[0])] == list(range(6))
    ids = {folder.name.rpartition("-")[2] for folder in run.glob("wandb/offline-run-*")}
    assert len(list(run.glob("wandb/offline-run-*"))) == 2
    assert ids == {wandb_id(run)}


def test_a_row_that_was_cut_off_is_left_out_and_a_whole_file_is_not_touched(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,train/loss\n0,1.5\n1,1.25\n2,1.1\n3")
    keep_steps(file, 2)
    assert file.read_text() == "step,train/loss\n0,1.5\n1,1.25\n"
    before = file.stat().st_mtime_ns
    keep_steps(file, 2)
    assert file.stat().st_mtime_ns == before
    file.write_text("")
    keep_steps(file, 2)
    assert file.read_text() == ""


def test_the_last_run_of_wandb_is_found_by_its_folder(tmp_path):
    assert wandb_id(tmp_path) is None
    names = ("offline-run-20260101_000000-b1b1", "run-20260102_000000-a-2", "latest-run", "debug.log")
    for name in names:
        (tmp_path / "wandb" / name).mkdir(parents=True)
    (tmp_path / "wandb" / "settings").write_text(json.dumps({}))
    assert wandb_id(tmp_path) == "a-2"
