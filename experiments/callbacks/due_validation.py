"""The validation that was due when a run was cut off."""

import lightning as L
from lightning.pytorch.callbacks import Callback

from experiments.callbacks.upstream import run_due_validation


class DueValidation(Callback):
    """Validates before the first step where a run goes on from a checkpoint that was saved right before a
    validation, so that the curve has no hole."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        run_due_validation(trainer)
