"""Stopping is not dying: in a notebook an interrupted `trainer.fit` returns, and the cell goes on."""

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities import rank_zero_info

LIGHTNING = call._call_and_handle_interrupt
"""Since 2.4 (its pull request 19976) Lightning answers Ctrl-C with `sys.exit(1)`, after its last hook.
That is right for a script; a notebook's cell ends with it, which users asked under it not to do."""


def is_interactive() -> bool:
    """Whether there is somebody to go on after an interrupt: a notebook, or Python's own prompt."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)


class InterruptibleModule(L.LightningModule):
    """A module that, in a notebook, is interrupted between two optimizer steps (PPO: iterations).

    Its weights are then those of whole steps, and the same trainer's next `fit` goes on from there. Outside
    of steps, while data is read or validated, and at a second interrupt, it stops at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.in_step = False
        self.interrupted = False
        if is_interactive():
            # there is no public place for it
            call._call_and_handle_interrupt = call_and_go_on  # type: ignore[assignment]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.stop_if_interrupted()
        self.in_step = True

    def on_validation_start(self) -> None:
        self.stop_if_interrupted()
        self.in_step = False

    def stop_if_interrupted(self) -> None:
        """Stops where a whole step has been taken, and its metrics are written."""
        if self.interrupted:
            raise KeyboardInterrupt

    def interrupt(self, signum: int, frame: Any) -> None:
        """What SIGINT does while it is fitted in a notebook."""
        if self.interrupted or not self.in_step:
            raise KeyboardInterrupt
        self.interrupted = True
        rank_zero_info("Interrupted: stopping after this step; interrupt again to stop in the middle of it.")


def call_and_go_on(trainer: L.Trainer, function: Callable, *args: Any, **kwargs: Any) -> Any:
    """As Lightning's, for each of its entry points, but that an interrupt ends the call and not the session:
    `fit` returns, the others, whose results would be missing, raise KeyboardInterrupt."""
    module: Any = trainer.lightning_module
    hears_signals = is_interactive() and threading.current_thread() is threading.main_thread()
    if not (hears_signals and isinstance(module, InterruptibleModule)):
        return LIGHTNING(trainer, function, *args, **kwargs)
    before = signal.getsignal(signal.SIGINT)
    module.in_step = module.interrupted = False
    signal.signal(signal.SIGINT, module.interrupt)
    try:
        return LIGHTNING(trainer, function, *args, **kwargs)
    except SystemExit as end:
        interrupt = end.__context__
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        if trainer.state.fn != "fit":
            raise interrupt from None
        rank_zero_info(f"Stopped at step {trainer.global_step}: `fit` of the same trainer goes on from here.")
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning has left it ignored
        module.in_step = module.interrupted = False
