"""The progress bar of a fit, and when its numbers are logged."""

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from experiments.callbacks.upstream import logs_now


class ProgressBar(RichProgressBar):
    """Lightning's, which would count to epoch −2 where steps end the run."""

    def _get_train_description(self, current_epoch: int) -> str:  # it has no public hook for the text
        epochs = self.trainer.max_epochs or -1
        return f"Epoch {current_epoch}" + (f"/{epochs - 1}" if epochs > 0 else "")


def is_logged(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether Lightning writes what is logged at this batch. It counts batches that end an optimizer step,
    over all epochs; `global_step` grows by many a batch in PPO."""
    ends_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return ends_step and logs_now(trainer)
