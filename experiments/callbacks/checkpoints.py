"""Checkpoints by time and at the end, between optimizer steps."""

import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, model_checkpoint


class StepCheckpoint(ModelCheckpoint):
    """Checkpoints by time and at the end, only between optimizer steps: never in the middle of accumulated
    gradients. Lightning itself ignores the time under manual optimisation, which is PPO's."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if pl_module.automatic_optimization:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        elif self._train_time_interval is not None:
            now = model_checkpoint.time.monotonic()
            if now - (self._last_time_checked or now) >= self._train_time_interval.total_seconds():
                self._last_time_checked = now
                self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self._last_global_step_saved != trainer.global_step and not self._should_skip_saving_checkpoint(
            trainer
        ):
            self.save(trainer)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """Where a folder of DeepSpeed is in the place of a file, Lightning would write the file into it."""
        target = Path(filepath)
        if not target.is_dir():
            super()._save_checkpoint(trainer, filepath)
            return
        part, old = (target.with_name(target.name + suffix) for suffix in (".part", ".old"))
        super()._save_checkpoint(trainer, str(part))
        self._last_checkpoint_saved = filepath
        if trainer.is_global_zero:
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            part.rename(target)
            shutil.rmtree(old)
        trainer.strategy.barrier()

    def save(self, trainer: L.Trainer) -> None:
        """Saves now, as at the end of a run; all ranks must ask, between two optimizer steps."""
        candidates = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)
