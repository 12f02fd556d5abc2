"""What Lightning does not offer to callbacks: its private names, and what each of them stands in for."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, model_checkpoint


def data_of(trainer: L.Trainer) -> Any:
    """The run's data module, an attribute that Lightning sets but does not declare."""
    return trainer.datamodule  # type: ignore[attr-defined]


def logs_now(trainer: L.Trainer) -> bool:
    """Whether Lightning writes what is logged now: its own count of steps is not public."""
    return trainer._logger_connector.should_update_logs


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


class CheckpointOnDemand(ModelCheckpoint):
    """Lightning's, which has no call to save now, and tells nobody what it has saved or when it would."""

    def save(self, trainer: L.Trainer) -> None:
        """Saves now, as at the end of a run; all ranks must ask, between two optimizer steps."""
        candidates = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)

    def is_due(self) -> bool:
        """Whether the time between two checkpoints has passed; the answer yes begins it anew."""
        if self._train_time_interval is None:
            return False
        now = model_checkpoint.time.monotonic()
        due = now - (self._last_time_checked or now) >= self._train_time_interval.total_seconds()
        if due:
            self._last_time_checked = now
        return due

    def is_saved(self, trainer: L.Trainer) -> bool:
        """Whether the present step has been saved, or is not to be."""
        saved = self._last_global_step_saved == trainer.global_step
        return saved or self._should_skip_saving_checkpoint(trainer)
