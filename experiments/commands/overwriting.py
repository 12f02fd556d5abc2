"""`--overwrite`: an earlier run's results stay until the run that replaces them has made its first step."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

RESULTS = ("export", "checkpoints", "metrics")
"""folders of a run"""
KEPT = (*RESULTS, "config.yaml", "receipt.json")


def results_of(run: Path) -> list[str]:
    """The folders with results that a run's folder holds."""
    return [name for name in RESULTS if any(path.is_file() for path in (run / name).rglob("*"))]


def _aside(run: Path) -> Path:
    return run / ".before"


def put_back(run: Path) -> None:
    """Puts back what a run was about to replace that never made a step."""
    _remove(_replaced(run))
    if _aside(run).is_dir():
        for kept in _aside(run).iterdir():
            _remove(run / kept.name)
            kept.rename(run / kept.name)
        _aside(run).rmdir()


def _replaced(run: Path) -> Path:
    """What is being removed: renamed before in one step, so that no half of it can be put back."""
    return run / ".replaced"


class Overwriting(Callback):
    """Removes what was put aside when the first optimizer step is done."""

    def __init__(self, run: Path):
        self.run = run

    @contextmanager
    def kept_until_begun(self) -> Iterator[None]:
        """Puts the folder's results aside; back, where the block ends before the first step."""
        _aside(self.run).mkdir()
        for name in KEPT:
            if (self.run / name).exists():
                (self.run / name).rename(_aside(self.run) / name)
        try:
            yield
        finally:
            put_back(self.run)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.is_global_zero and trainer.global_step > 0 and _aside(self.run).is_dir():
            _aside(self.run).rename(_replaced(self.run))
            _remove(_replaced(self.run))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
