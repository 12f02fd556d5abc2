"""Checkpoints by time and at the end, between optimizer steps."""

from pathlib import Path
from typing import Any

import lightning as L

from experiments.atomic import put_in_place
from experiments.callbacks.upstream import CheckpointOnDemand


class StepCheckpoint(CheckpointOnDemand):
    """Checkpoints by time and at the end, only between optimizer steps: never in the middle of accumulated
    gradients. Lightning itself ignores the time under manual optimisation, which is PPO's."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if pl_module.automatic_optimization:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        elif self.is_due():
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if not self.is_saved(trainer):
            self.save(trainer)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """Lightning has no hook around the writing. Where a folder of DeepSpeed is in the place of a file, it
        would write the file into it."""
        target = Path(filepath)
        if not target.is_dir():
            super()._save_checkpoint(trainer, filepath)
            return
        part = target.with_name(f"{target.name}.part")  # one name on all ranks
        super()._save_checkpoint(trainer, str(part))
        self._last_checkpoint_saved = filepath
        if trainer.is_global_zero:
            put_in_place(part, target)
        trainer.strategy.barrier()
