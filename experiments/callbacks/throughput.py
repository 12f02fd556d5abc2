"""Tokens a second."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from experiments.callbacks.progress import is_logged


class Throughput(Callback):
    """Logs `train/tokens_per_second`: tokens that are not padding, over all ranks, since the last log."""

    def __init__(self) -> None:
        self.tokens = 0
        self.since = self.paused = 0.0  # seconds of the clock

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.tokens, self.since = pl_module.total_tokens(), time.perf_counter()  # type: ignore[operator]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_logged(trainer, batch_idx):
            tokens, now = pl_module.total_tokens(), time.perf_counter()  # type: ignore[operator]
            rate = (tokens - self.tokens) / (now - self.since)
            pl_module.log("train/tokens_per_second", rate, prog_bar=True)
            self.tokens, self.since = tokens, now

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.since += time.perf_counter() - self.paused
