"""What a person wants to know of a run: how large its networks are, before it begins, and what came of it."""

import shlex
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelSummary
from lightning.pytorch.loggers import WandbLogger

from experiments.plan.units import duration


class Parameters(ModelSummary):
    """Lightning's table of layers as a line: the networks' parameters, and how many of them are trained."""

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        *sizes: Any,
        **options: Any,
    ) -> None:
        trained = "all" if trainable_parameters == total_parameters else f"{trainable_parameters:,}"
        print(f"networks: {total_parameters:,} parameters, {trained} of them trained")


class Summary(Callback):
    """Prints what a fit that has ended was, what it reached, where its results lie, and what comes next.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: str):
        self.run = Path(run)
        self.since: float | None = None  # seconds of the clock; None where no step was left
        self.steps = self.tokens = 0  # before this fit
        self.measured: list[tuple[int, float]] = []  # the stage's goal, by optimizer steps
        self.lines: list[str] = []  # of a fit that has ended

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.since, self.measured, self.lines = time.perf_counter(), [], []
        self.steps = trainer.global_step
        self.tokens = pl_module.total_tokens()  # type: ignore[operator]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        goal: Any = pl_module.goal
        if goal is not None and goal.metric in trainer.callback_metrics and not trainer.sanity_checking:
            self.measured.append((trainer.global_step, float(trainer.callback_metrics[goal.metric])))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        total = pl_module.total_tokens()  # type: ignore[operator]
        if trainer.is_global_zero:
            ended = f"no step was left after the {trainer.global_step} before"
            if self.since is not None:
                ended = self.done(trainer, total - self.tokens, time.perf_counter() - self.since)
            self.lines = self.summary(trainer, pl_module, ended)
        self.since = None

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prints when the progress bar is no more."""
        print(*self.lines, sep="\n", end="\n" if self.lines else "", flush=True)
        self.lines = []

    def done(self, trainer: L.Trainer, tokens: int, seconds: float) -> str:
        """How much was trained."""
        steps = trainer.global_step - self.steps
        after = f" after the {self.steps} before" if self.steps else ""
        rate = f", {tokens / seconds:,.0f} a second" if steps else ""
        return f"{steps} optimizer steps{after} in {duration(seconds)}, {tokens:,} tokens{rate}"

    def summary(self, trainer: L.Trainer, stage: Any, ended: str) -> list[str]:
        """What was trained, what it reached, where that lies, and what comes next."""
        lines = [f"{type(stage).__name__}: {ended}"]
        if self.measured:
            lines.append(self.reached(stage))
        lines.append(f"export: {self.run / 'export'}")
        for logger in trainer.loggers:
            lines += _place(logger)
        export = shlex.quote(str(self.run / "export"))
        return [*lines, *(f"next: {command.format(export=export)}" for command in stage.next_commands)]

    def reached(self, stage: Any) -> str:
        """The goal when it was last measured, and at its best."""
        choose = max if stage.goal.more_is_better else min
        step, best = choose(self.measured, key=lambda measure: measure[1])
        last = self.measured[-1][1]
        better = "" if best == last else f", {best:.4g} at its best, after step {step}"
        return f"{stage.goal.metric}: {last:.4g}{better}"


def _place(logger: Any) -> list[str]:
    """Where a logger has written, and how what W&B keeps here is sent."""
    if not isinstance(logger, WandbLogger):
        return [f"metrics: {logger.log_dir}"] if logger.log_dir else []
    run = logger.experiment
    if run.offline:
        return [f"W&B: wandb sync {shlex.quote(str(Path(run.dir).parent))}"]
    return [f"W&B: {run.url}"] if run.url else []
