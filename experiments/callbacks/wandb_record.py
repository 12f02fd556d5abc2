"""What W&B is told of a run beside its curves: the configuration, the plan, the receipt, a row of each
source, what a stage that samples has answered in each validation and, where that is asked for, which
directories it began with and which one it made."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger

from experiments.callbacks.upstream import data_of

REPLIES = 16
"""of each validation are shown"""
COLUMNS = ("source", "rows", "kept", "truncated", "dropped", "tokens", "trained")


class WandbRecord(Callback):
    """Writes to the run's W&B loggers, if it has any.

    Args:
        run: the run's folder.
        config: gives the resolved configuration, nested as in the YAML, when the fit begins.
        artifacts: name parents and export as artifacts: references to where they lie, nothing is sent.
    """

    def __init__(self, run: str, config: Callable[[], Mapping[str, Any]], artifacts: bool):
        self.run, self.config, self.artifacts = Path(run), config, artifacts
        self.replies: list[dict[str, Any]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for run in _runs(trainer):
            run.config.update(dict(self.config()), allow_val_change=True)
            _tables(run, data_of(trainer).receipts)
            if self.artifacts:
                for name, path, _ in pl_module.parent_checkpoints():  # type: ignore[operator]
                    if path and Path(path).is_dir():
                        _use(run, name, Path(path))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.replies = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        if outputs is not None and "replies" in outputs:
            self.replies += outputs["replies"][: REPLIES - len(self.replies)]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for run in _runs(trainer) if self.replies and not trainer.sanity_checking else []:
            run.log({"val/replies": _table(self.replies), "trainer/global_step": trainer.global_step})

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for run in _runs(trainer) if self.artifacts else []:
            run.log_artifact(_artifact(self.run / "export"))


def _runs(trainer: L.Trainer) -> list[Any]:
    """The W&B runs that this process writes."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def _tables(run: Any, receipts: list[Any]) -> None:
    import wandb

    numbers = [
        [r.source, r.rows, r.kept, r.truncated, sum(r.dropped.values()), r.tokens, r.trained]
        for r in receipts
    ]
    samples = [[r.source, *_texts(r.sample)] for r in receipts]
    tables = {
        "data/receipt": wandb.Table(columns=list(COLUMNS), data=numbers),
        "data/samples": wandb.Table(columns=["source", "row", "trained"], data=samples),
    }
    run.log(tables)


def _table(rows: list[dict[str, Any]]) -> Any:
    import wandb

    return wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])


def _texts(sample: list[tuple[str, bool]]) -> tuple[str, str]:
    """A row's text, and what of it is trained."""
    return "".join(text for text, _ in sample), "".join(text for text, trained in sample if trained)


def _artifact(directory: Path) -> Any:
    """A model where it lies, by a name that the run which made it and those that begin with it share."""
    import wandb

    place = directory.resolve()
    name = "-".join(place.parts[-3:])
    artifact = wandb.Artifact("".join(c if c.isalnum() or c in "-_." else "_" for c in name), type="model")
    artifact.add_reference(place.as_uri(), checksum=False)
    return artifact


def _use(run: Any, argument: str, directory: Path) -> None:
    """Names a parent. W&B knows no lineage without a server: there only the configuration tells its place."""
    if not run.offline:
        run.use_artifact(_artifact(directory), use_as=argument)
