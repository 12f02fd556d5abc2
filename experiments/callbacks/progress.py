"""How a fit goes: its bar, when its numbers are logged, tokens a second, and what a mixture has given."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.corpus import MixedCorpusData
from experiments.callbacks.upstream import data_of, logs_now


class ProgressBar(RichProgressBar):
    """Lightning's, which would count to epoch −2 where steps end the run."""

    @property
    def total_train_batches(self) -> int | float:
        """Micro-batches of this epoch, of which the bar counts those before a resumption too; Lightning takes
        the optimizer steps that are left for them."""
        trainer, batches = self.trainer, self.trainer.num_training_batches
        if trainer.max_steps <= 0 or trainer.max_epochs != -1:
            return batches
        updates = trainer.lightning_module.updates_per_batch
        whole = -(-trainer.max_steps // int(updates)) * trainer.accumulate_grad_batches  # type: ignore[arg-type]
        return min(batches, whole - int(min(batches, whole)) * trainer.current_epoch)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # a logger's count of its runs, or W&B's id: the folder names it
        return metrics  # type: ignore[return-value]

    def _get_train_description(self, current_epoch: int) -> str:  # it has no public hook for the text
        epochs = self.trainer.max_epochs or -1
        return f"Epoch {current_epoch}" + (f"/{epochs - 1}" if epochs > 0 else "")


def is_logged(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether Lightning writes what is logged at this batch. It counts batches that end an optimizer step,
    over all epochs; `global_step` grows by many a batch in PPO."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and logs_now(trainer)


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


class Mixture(Callback):
    """Logs the realised share, tokens and epochs of every source of a mixture, and warns once where a source
    begins its second epoch."""

    def __init__(self) -> None:
        self.repeated: set[str] = set()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        data = data_of(trainer)
        if not (isinstance(data, MixedCorpusData) and is_logged(trainer, batch_idx)):
            return
        for name, given in data.mixture(trainer.global_step).items():
            pl_module.log(f"data/share/{name}", given["realised"])
            pl_module.log(f"data/tokens/{name}", float(given["tokens"]))
            pl_module.log(f"data/epochs/{name}", given["epochs"])
            if given["epochs"] > 1 and name not in self.repeated:
                self.repeated.add(name)
                rank_zero_warn(
                    f"data.sources.{name} is in its second epoch: all its text has been seen once at step "
                    f"{trainer.global_step}; set max_epochs to refuse such a run before it begins"
                )
