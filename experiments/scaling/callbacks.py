"""What a run of a family does beside training: it writes its loss, and shows how far the family is."""

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from experiments.atomic import write_text


class FinalLoss(Callback):
    """Writes the validation loss after the last step into a file, in nats a token."""

    def __init__(self, file: str):
        self.file = Path(file)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == trainer.max_steps and trainer.is_global_zero:
            write_text(self.file, json.dumps({"loss": float(trainer.callback_metrics["val/loss"])}) + "\n")


class FamilyBar(ProgressBar):
    """One bar for all runs of a family, by FLOPs, with the time that is left at the present speed; it takes
    the place of the run's own.

    Args:
        label: what is trained now.
        done: FLOPs of the family before this run's first step.
        total: FLOPs of the family.
        step: FLOPs of an optimizer step.
        first: the step that this run begins after.
    """

    def __init__(self, label: str, done: float, total: float, step: float, first: int):
        super().__init__()
        # what the run prints goes to its log; a bar goes to the terminal, where there is one
        console = Console(file=sys.__stderr__)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
        left = (TimeRemainingColumn(), TextColumn("left"))
        self.bar = Progress(*columns, *left, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task(label, total=total, completed=int(done))
        self.done, self.step, self.first = done, step, first

    def disable(self) -> None:
        self.bar.disable = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._move(trainer)
        self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self._move(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.bar.stop()

    def _move(self, trainer: L.Trainer) -> None:
        self.bar.update(self.task, completed=self.done + self.step * (trainer.global_step - self.first))
