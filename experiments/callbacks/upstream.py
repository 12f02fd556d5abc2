"""What Lightning does not offer to callbacks: its private names, and what each of them stands in for."""

import re
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, model_checkpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer import call


def data_of(trainer: L.Trainer) -> Any:
    """The run's data module, an attribute that Lightning sets but does not declare."""
    return trainer.datamodule  # type: ignore[attr-defined]


def logs_now(trainer: L.Trainer) -> bool:
    """Whether Lightning writes what is logged now: its own count of steps is not public."""
    return trainer._logger_connector.should_update_logs


def without_anonymous(logger: WandbLogger) -> WandbLogger:
    """The logger without the setting of the same name that Lightning passes on even where nobody gave it, and
    of which W&B warns."""
    logger._wandb_init.pop("anonymous", None)
    return logger


def steps_behind(trainer: L.Trainer) -> int:
    """Optimizer steps (PPO: iterations) that are behind a fit, by which metrics are counted; `global_step`
    grows by many in an iteration."""
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return total.processed // trainer.accumulate_grad_batches


def count_steps_anew(trainer: L.Trainer) -> None:
    """Metrics are logged at Lightning's count of steps, to which it adds one too many where a run goes on
    from a checkpoint at which it had validated."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = steps_behind(trainer)


def log_now(trainer: L.Trainer, metrics: dict[str, Any]) -> None:
    """Writes metrics to the run's loggers at this step, whatever `log_every_n_steps` is: `log` has no such
    option, and a logger's own method would need Lightning's count of steps, which is not public."""
    trainer._logger_connector.log_metrics(metrics)


def write_step_metrics(trainer: L.Trainer, stage: L.LightningModule, *arguments: Any) -> None:
    """Writes the metrics of the step that ends now: Lightning lets the stage log them, and writes them, only
    after all callbacks, so that a run which is killed while one of them saves would go on without them.

    Args:
        arguments: of the hook `on_train_batch_end`, which the stage is not called with again.
    """
    connector: Any = trainer._logger_connector
    call._call_lightning_module_hook(trainer, "on_train_batch_end", *arguments)
    connector.update_train_step_metrics()
    # once each: what stands on the object hides what its class has
    vars(stage)["on_train_batch_end"] = lambda *_: vars(stage).pop("on_train_batch_end")
    written = "update_train_step_metrics"
    vars(connector)[written] = lambda: vars(connector).pop(written)


def stand_before_validation(trainer: L.Trainer) -> bool:
    """Lets the loops of a fit that validates, and ends now, stand where they did before: a checkpoint then
    says that the step is done and the validation is not. Answers no within accumulated gradients, of which
    there is no checkpoint."""
    loop: Any = trainer.fit_loop.epoch_loop
    if loop.batch_progress.total.processed % trainer.accumulate_grad_batches:
        return False
    for counts in (loop.batch_progress.total, loop.batch_progress.current):
        counts.completed = counts.processed - 1
    validated = loop.val_loop.batch_progress
    for name, number in vars(validated.current).items():
        setattr(validated.total, name, getattr(validated.total, name) - number)
        setattr(validated.current, name, 0)
    return True


class CheckpointOnDemand(ModelCheckpoint):
    """Lightning's, which has no call to save now, and tells nobody what it has saved or when it would."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        # Lightning's `last-v1.ckpt` of a folder that was moved would leave the older one as `last.ckpt`
        self._enable_version_counter = False

    def save(self, trainer: L.Trainer) -> None:
        """Saves now, as at the end of a run; all ranks must ask, between two optimizer steps."""
        candidates = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)

    def _save_last_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Any]) -> None:
        super()._save_last_checkpoint(trainer, monitor_candidates)
        self.remove_others(trainer)

    def remove_others(self, trainer: L.Trainer) -> None:
        """Removes what this callback would have removed if the run had not been cut off: where it keeps one
        checkpoint, named by its step alone, all others that are named so. In a folder that a user's own
        callback writes to as well they may be that one's."""
        kept = Path(self.best_model_path)
        alone = self.monitor is None and self.save_top_k == 1 and self.filename == "{step}"
        folders = [str(getattr(each, "dirpath", None)) for each in trainer.checkpoint_callbacks]
        alone &= [Path(folder).resolve() for folder in folders].count(kept.parent.resolve()) == 1
        if not (alone and trainer.is_global_zero and kept.name and kept.exists()):
            return
        for path in kept.parent.glob("step=*.ckpt"):
            if re.fullmatch(r"step=\d+(-v\d+)?\.ckpt", path.name) and path.name != kept.name:
                trainer.strategy.checkpoint_io.remove_checkpoint(path)

    def is_due(self) -> bool:
        """Whether the time between two checkpoints has passed; the answer yes begins it anew."""
        if self._train_time_interval is None:
            return False
        now = model_checkpoint.time.monotonic()
        due = now - (self._last_time_checked or now) >= self._train_time_interval.total_seconds()
        if due:
            self._last_time_checked = now
        return due

    @property
    def saved_step(self) -> int:
        """The step that was saved last in this run."""
        return self._last_global_step_saved

    def is_saved(self, trainer: L.Trainer) -> bool:
        """Whether the present step has been saved, or is not to be."""
        return self.saved_step == trainer.global_step or self._should_skip_saving_checkpoint(trainer)


def run_due_validation(trainer: L.Trainer) -> None:
    """Validates now if the run goes on from a step after which it was to be validated, and had been saved
    before that: Lightning takes such a validation for done. For `on_train_start` and, where no step is
    left, `on_fit_end`."""
    loop = trainer.fit_loop.epoch_loop
    loop.update_restart_stage()  # which the loop does when it begins, if it does
    fetcher: Any = trainer.fit_loop._data_fetcher
    if loop.restarting and loop.restarted_on_train_batch_end and loop._should_check_val_fx(fetcher):
        first = trainer._logger_connector._first_loop_iter
        loop.val_loop.restarting = False  # none of its batches has been seen
        trainer.validating = True
        loop.val_loop.run()
        trainer.training = True
        trainer._logger_connector._first_loop_iter = first


def planned_saves(callback: ModelCheckpoint, trainer: L.Trainer) -> int:
    """How often a callback saves in a run, as far as its steps or epochs tell, and at least once; none of
    these settings is public."""
    steps, epochs = callback._every_n_train_steps, callback._every_n_epochs
    if steps and trainer.max_steps > 0:
        return max(1, trainer.max_steps // steps)
    if epochs and (trainer.max_epochs or 0) > 0 and trainer.max_steps <= 0:
        return max(1, int(trainer.max_epochs or 0) // epochs)
    return max(1, callback.save_top_k)
