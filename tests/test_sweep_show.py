"""How a sweep goes, while it goes: how far its runs are, and how long all of them will take."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from experiments.cli.program import main
from experiments.sweep.metrics import LENGTH, history
from experiments.sweep.show import Display
from experiments.sweep.spec import spec_of
from experiments.sweep.study import Configuration, Run

EACH = [
    "--trainer.log_every_n_steps=1",
    "--trainer.limit_val_batches=0",
    "--trainer.enable_progress_bar=false",
]
PPO = ["--trainer.max_steps=8", "--model.init_args.epochs=1", "--model.init_args.minibatches=2"]
SFT = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=6", "--data.init_args.global_batch_size=8"]


@pytest.mark.parametrize(
    ("stage", "options", "steps", "metric"),
    [
        ("sft", [*SFT, "--data.init_args.micro_batch_size=4"], 2 * 6 // 2, "train/loss"),
        ("ppo", PPO, 8 // 2, "ppo/score"),  # iterations of two updates
    ],
)
def test_a_run_tells_how_many_steps_it_will_log(
    tiny_stages, monkeypatch, tmp_path, stage, options, steps, metric
):
    monkeypatch.setenv("TRIVIUM_SWEEP_RUN", str(tmp_path))
    assert main([*tiny_stages.stage(stage), "--run", str(tmp_path), *EACH, *options]) == 0
    assert (tmp_path / LENGTH).read_text() == f"{steps}\n"
    assert history(tmp_path, metric).steps == list(range(steps))


@pytest.fixture
def display():
    """Of a sweep of eight runs, two at a time; in a terminal that is a text."""
    parameters = {"lr": {"values": [1, 2, 3, 4]}}
    document = {"program": "x", "method": "grid", "metric": {"name": "loss"}, "parameters": parameters}
    display = Display(spec_of({**document, "seeds": 2}, "a.yaml", "a"), workers=2, as_json=False)
    display.console = Console(file=io.StringIO(), width=120, force_terminal=False)
    return display


def active(folder, name="0000-seed0"):
    """A run that has not logged anything yet."""
    run = Run(name, 0, 0, state="running")
    return SimpleNamespace(
        run=run, folder=folder, seconds=0.0, history=SimpleNamespace(last_step=0, values=[])
    )


def test_the_time_for_all_is_told_once_the_first_run_has_shown_its_rate(display, tmp_path):
    """It reads its data for 10 s, which is no rate, then takes 3 s a step: 10 + 10 · 3 s a run, and 4 times
    that for 8 runs, 2 at a time."""
    run = active(tmp_path)
    configuration = Configuration(0, {}, {"lr": 1}, (run.run,))
    for seconds, step in ((5, 0), (13, 1), (16, 2)):
        assert display.console.file.getvalue() == ""
        if step:
            (tmp_path / LENGTH).write_text("10\n")
        run.seconds, run.history.last_step = float(seconds), step
        display.progress([configuration], [run])
    told = display.console.file.getvalue()
    assert told == "plan: 8 runs of about 40 seconds, 2 at once: about 2.67 minutes in all\n"
    drawn = Console(file=io.StringIO(), width=120)
    drawn.print(display._drawn([configuration], [run.run], [run], 40.0, 8))
    text = drawn.file.getvalue()
    assert "20%" in text
    assert "0/8 about 2.53 minutes left" in text  # (8 · 40 s − 16 s) / 2
