"""The validation that was due when a run was cut off."""

import lightning as L
from lightning.pytorch.callbacks import Callback

from experiments.callbacks.upstream import run_due_validation


class DueValidation(Callback):
    """Validates before the first step where a run goes on from a checkpoint that was saved right before a
    validation, so that the curve has no hole."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.asked = False

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.asked:  # no step was left
            run_due_validation(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.asked = True
        run_due_validation(trainer)
