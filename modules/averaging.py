"""Averages of the weights, as Lightning's callbacks keep them, and what these need so that no run loses its
weights to them. What they hold is private to them: `_average_model` and `_swa_epoch_start`."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.utilities import rank_zero_info

from modules.errors import UserError
from modules.sharding import Sharding

AVERAGING = (WeightAveraging, StochasticWeightAveraging)


def averaging_of(trainer: L.Trainer) -> list[Any]:
    """The callbacks of a run that average its weights."""
    callbacks: Sequence[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, AVERAGING)]


def copied(stage: Any, memo: dict[int, Any]) -> Any:
    """A deep copy of a stage, as an average begins with: networks are copied, the factory of its optimizer is
    not, which may know the whole command line and what has started its processes."""
    memo[id(stage.optimizer)] = stage.optimizer
    kind = stage.__class__
    memo[id(stage)] = copy = kind.__new__(kind)
    copy.__setstate__(deepcopy(stage.__getstate__(), memo))
    return copy


def averaging_errors(trainer: L.Trainer, stage: Any) -> list[str]:
    """Why a stage cannot be fitted with the averaging callbacks of its trainer, a line each; Lightning would
    go on with weights that are no averages, or were never trained."""
    own = averaging_of(trainer)
    names = ", ".join(type(callback).__name__ for callback in own)
    lines = [line for callback in own for line in _callback_errors(callback, trainer, stage)]
    if len(own) > 1:  # each would take the other's average for the run's weights
        lines.append(f"{names}: each of them exchanges the weights for averages: keep one")
    if own and isinstance(trainer.strategy, Sharding):
        lines.append(
            f"{names}: Lightning averages whole networks: leave the callback out, or train in one process or "
            "with strategies.ddp"
        )
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    if own and batches.processed > 0:
        lines.append(
            f"{names} begins its average anew in each fit, and this trainer has trained before: give a new "
            "Trainer, and ckpt_path to go on from a checkpoint"
        )
    return [f"trainer.callbacks: {line}" for line in lines]


def _callback_errors(callback: Callback, trainer: L.Trainer, stage: Any) -> Iterator[str]:
    name = type(callback).__name__
    if isinstance(callback, StochasticWeightAveraging):
        start, epochs = callback._swa_epoch_start, trainer.max_epochs or -1
        if not stage.automatic_optimization:
            yield f"{name} changes learning rates by epochs, this stage by updates: give WeightAveraging"
        elif epochs < 0:
            yield (
                f"{name} counts epochs, and this run has no number of them: give trainer.max_epochs instead "
                "of max_steps, or WeightAveraging"
            )
        elif isinstance(start, int) and start > epochs:
            yield (
                f"{name}: swa_epoch_start is {start}, which is beyond trainer.max_epochs, {epochs}: nothing "
                "would be averaged: give less"
            )
    elif isinstance(callback, EMAWeightAveraging):
        every, updates = callback.update_every_n_steps, stage.updates_per_batch
        if every > 1 and updates > 1:
            yield (
                f"{name}: update_every_n_steps is {every}, but this stage is averaged where an iteration of "
                f"{updates} steps ends: give 1"
            )


def begin_averages(stage: Any) -> None:
    """Readies the averaging callbacks of a fit, whose own `setup` is over.

    Raises:
        UserError: it cannot be fitted with them.
    """
    trainer = stage.trainer
    if errors := averaging_errors(trainer, stage):
        raise UserError("\n".join(errors))
    # first, since Lightning calls them in their order
    others = [callback for callback in trainer.callbacks if not isinstance(callback, KeptWeights)]
    trainer.callbacks[:] = [*([KeptWeights()] if averaging_of(trainer) else []), *others]
    for callback in averaging_of(trainer):
        if isinstance(callback, StochasticWeightAveraging):
            stage.configure_model()  # it has copied a stage without networks, which would be no average
            callback.setup(trainer, stage, "fit")
        else:
            callback._average_model.use_buffers = False  # constants here, which averaging would round


class KeptWeights(Callback):
    """Stands before a callback that averages, and keeps what it would lose: where nothing has been averaged
    yet, Lightning validates, saves and in the end exports the weights that a run began with; its last
    checkpoint has no others than averages, from which a run cannot go on as if it had not ended; and a fit
    that goes on amid an epoch, or has no step left, does without it."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.ended = False
        (callback,) = averaging_of(trainer)
        words = "validations, the export and what is made of checkpoints have averaged weights"
        if isinstance(callback, StochasticWeightAveraging):
            words = (
                "the export has averaged weights; validations and checkpoints have current ones until the "
                "run has ended, then averages, from which it would go on"
            )
        rank_zero_info(f"{type(callback).__name__}: {words}")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loop = trainer.fit_loop
        if loop.restarted_mid_epoch or loop.restarted_on_epoch_end:
            for callback in averaging_of(trainer):
                if isinstance(callback, StochasticWeightAveraging):
                    callback.on_train_epoch_start(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.follow(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.follow(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.ended = True
        (callback,) = averaging_of(trainer)
        if isinstance(callback, StochasticWeightAveraging):
            if trainer.current_epoch - 1 != callback.swa_end:
                rank_zero_info("StochasticWeightAveraging: the run has ended early, with current weights")
            return
        for each in trainer.checkpoint_callbacks:
            each.on_train_end(trainer, pl_module)  # before the average takes the place of the weights
        if not callback._average_model.n_averaged:
            rank_zero_info(f"{type(callback).__name__}: nothing was averaged: the weights are as trained")
        self.follow(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for callback in averaging_of(trainer) if not self.ended else ():  # no step was left
            if isinstance(callback, WeightAveraging):
                self.follow(trainer, pl_module)
                callback.on_train_end(trainer, pl_module)

    @torch.no_grad()
    def follow(self, trainer: L.Trainer, stage: L.LightningModule) -> None:
        """Lets an average that nothing has gone into yet be the current weights."""
        for callback in averaging_of(trainer):
            average = callback._average_model
            if isinstance(callback, WeightAveraging) and average is not None and not average.n_averaged:
                copies = chain(average.module.parameters(), average.module.buffers())
                for copy, current in zip(copies, chain(stage.parameters(), stage.buffers()), strict=True):
                    copy.copy_(current)


def leave_averages_behind(stage: Any, checkpoint: dict[str, Any]) -> None:
    """Lets a run without an averaging callback go on from what its checkpoint has beside the averages: after
    `WeightAveraging` the weights that were trained; after `StochasticWeightAveraging`, which has a
    schedule of its own, the learning rates of the configuration."""
    own = averaging_of(stage.trainer)
    if "current_model_state" in checkpoint and not any(isinstance(each, WeightAveraging) for each in own):
        checkpoint["state_dict"] = checkpoint["current_model_state"]
        rank_zero_info("ckpt_path: trainer.callbacks has no WeightAveraging: its averages are left behind")
    name = StochasticWeightAveraging.__name__
    if not any(key.startswith(name) for key in checkpoint.get("callbacks", ())) or any(
        isinstance(each, StochasticWeightAveraging) for each in own
    ):
        return
    steps = checkpoint["global_step"]
    for place, state in enumerate(schedules := checkpoint.get("lr_schedulers", [])):
        if "lr_lambdas" not in state:  # SWALR's
            groups = len(state["base_lrs"])
            schedules[place] = {"lr_lambdas": [None] * groups, "last_epoch": steps, "_step_count": steps + 1}
            rank_zero_info(f"ckpt_path: trainer.callbacks has no {name}: its learning rates are left behind")
