"""Checkpoints by time and at the end, between optimizer steps; and where a SLURM job nears its time limit."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from experiments.atomic import put_in_place
from experiments.callbacks.upstream import CheckpointOnDemand, write_step_metrics
from strategies.checkpoints.intact import checkpoints, step_of


class StepCheckpoint(CheckpointOnDemand):
    """Checkpoints by time and at the end, only between optimizer steps: never in the middle of accumulated
    gradients. Lightning itself ignores the time under manual optimisation, which is PPO's."""

    _step: tuple[L.LightningModule, Any, Any, int] | None = None
    """of the step that ends now and whose metrics have not been written: the stage, and what its hook gets"""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Puts checkpoints of later steps aside where a run goes on from an earlier one: they are no longer
        its newest."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero and trainer.ckpt_path is not None and self.dirpath is not None:
            for path in list(checkpoints(Path(self.dirpath))):
                if step_of(path) > trainer.global_step:
                    aside = path.with_name(f"{path.name}.superseded")
                    rank_zero_info(f"{path} is of a later step than this run goes on from: now {aside.name}")
                    put_in_place(path, aside)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._step = (pl_module, outputs, batch, batch_idx)
        if pl_module.automatic_optimization:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        elif self.is_due():
            self.save(trainer)
        self._step = None

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """Lightning has no hook before it saves."""
        if self._step is not None:
            write_step_metrics(trainer, *self._step)
            self._step = None  # a step is saved under two names
        super()._save_checkpoint(trainer, filepath)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.is_saved(trainer):
            self.save(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.remove_others(trainer)


class LastIsNewest(Callback):
    """Lets any callback of Lightning's that keeps a `last.ckpt` write over it: in a folder that was moved, or
    written by another one, it would write `last-v1.ckpt` and leave an older one under that name."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for each in trainer.checkpoint_callbacks:
            if isinstance(each, ModelCheckpoint) and each.save_last and each.dirpath is not None:
                each.last_model_path = each.format_checkpoint_name({}, each.CHECKPOINT_NAME_LAST)


class Requeue(Callback):
    """On SIGUSR1, which SLURM sends before a job's time limit, to any rank: all save together after the next
    optimizer step (PPO: iteration), and rank 0 queues the job again before the one after. Lightning's own
    handler saves wherever each rank happens to be, amid other collectives.

    The ranks ask each other after every step: Lightning's logged steps may be hours apart.
    """

    def __init__(self, run: str):
        self.checkpoint = f"{run}/checkpoints/last.ckpt"  # the job goes on with `--ckpt_path newest`
        self.active = SLURMEnvironment.detect()
        self.asked = self.saved = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.active and stage == "fit":
            signal.signal(signal.SIGUSR1, self._ask)  # Lightning leaves a signal alone that has a handler

    def _ask(self, signum: int, frame: Any) -> None:
        self.asked = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.active or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            self.active = False
            checkpoints = [each for each in trainer.checkpoint_callbacks if isinstance(each, StepCheckpoint)]
            if checkpoints:
                checkpoints[0].save(trainer)
            else:
                trainer.save_checkpoint(self.checkpoint)
            self.saved = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self.saved:
            return
        self.saved = False
        rank_zero_info(f"Saved {self.checkpoint} at step {trainer.global_step}; the job is queued again.")
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()  # the step's own metrics, logged since; SLURM ends the job at any moment now
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
