"""On SIGTERM, which a cluster, a container or a shutdown sends before SIGKILL: the run saves and ends."""

import signal
import threading
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from experiments.callbacks.checkpoints import StepCheckpoint
from experiments.callbacks.upstream import stand_before_validation

TERMINATED = 128 + signal.SIGTERM  # the exit code that a shell gives for it


class Termination(Callback):
    """On SIGTERM to any rank: all ranks save together after the optimizer step (PPO: iteration) that is under
    way, or after the batch of a validation, which begins again when the run goes on, and end with exit code
    143. A second SIGTERM ends a rank at once.

    Lightning's own handler waits for the other ranks wherever each happens to be, amid other collectives, and
    saves nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self.told = ""  # what has been saved, once it has

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the place of Lightning's handler, which is there by now; at the end Lightning puts back what
        was there before."""
        self.asked, self.told = False, ""
        if threading.current_thread() is threading.main_thread():  # a sweep's agent runs it in another
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, signum: int, frame: Any) -> None:
        self.asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if self._asked_of_any(trainer):
            self._save(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Validation changes no weights, but for callbacks that exchange them for averages: these end it."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        averages = any(isinstance(callback, WeightAveraging) for callback in callbacks)
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or averages:
            return
        if self._asked_of_any(trainer) and stand_before_validation(trainer):
            self._save(trainer)
            self._end(trainer)

    def _asked_of_any(self, trainer: L.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self.asked, all=False)

    def _save(self, trainer: L.Trainer) -> None:
        self.told = "nothing was saved, as enable_checkpointing is false"
        for checkpoint in trainer.checkpoint_callbacks[:1]:
            if isinstance(checkpoint, StepCheckpoint):
                if checkpoint.saved_step != trainer.global_step:
                    checkpoint.save(trainer)
                self.told = "a checkpoint was saved: go on with `--ckpt_path newest`"

    def _end(self, trainer: L.Trainer) -> None:
        """Ends the run once the metrics of the step that was saved are written, which is after its end."""
        if self.told:
            rank_zero_info(f"Ended by SIGTERM at step {trainer.global_step}; {self.told}.")
            raise SystemExit(TERMINATED)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._end(trainer)
