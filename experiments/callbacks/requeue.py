"""A SLURM job that is about to reach its time limit saves a checkpoint and is queued again."""

import os
import signal
import subprocess
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from experiments.callbacks.checkpoints import StepCheckpoint


class Requeue(Callback):
    """On SIGUSR1 to any rank: all save together after the next optimizer step (PPO: iteration), and rank 0
    queues the job again before the one after. Lightning's own handler saves wherever each rank happens to be,
    amid other collectives.

    The ranks ask each other after every step: Lightning's logged steps may be hours apart.

    Args:
        run: the run's folder; the job goes on with `--ckpt_path last`.
    """

    def __init__(self, run: str):
        self.checkpoint = f"{run}/checkpoints/last.ckpt"
        self.active = SLURMEnvironment.detect()
        self.asked = False
        self.saved = False

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
