"""What every run does beside training: receipt, throughput, mixture, checkpoints, export, predictions."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    BasePredictionWriter,
    Callback,
    ModelCheckpoint,
    RichProgressBar,
    model_checkpoint,
)
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console

from datamodules.receipt import render


class DataReceipt(Callback):
    """Prints the data receipt before the first step and writes it to `receipt.json`."""

    def __init__(self, run: str):
        self.run = Path(run)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            receipts = trainer.datamodule.receipts  # type: ignore[attr-defined]
            Console().print(render(receipts))
            self.run.mkdir(parents=True, exist_ok=True)
            text = json.dumps([receipt.to_dict() for receipt in receipts], indent=2, ensure_ascii=False)
            (self.run / "receipt.json").write_text(text + "\n")


def _is_logged(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether Lightning writes what is logged at this batch. It counts batches that end an optimizer step,
    over all epochs; `global_step` grows by many a batch in PPO."""
    ends_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return ends_step and trainer._logger_connector.should_update_logs


class Throughput(Callback):
    """Logs `train/tokens_per_second`: tokens that are not padding, over all ranks, since the last log."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.tokens, self.since = pl_module.total_tokens(), time.perf_counter()  # type: ignore[operator]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if _is_logged(trainer, batch_idx):
            tokens, now = pl_module.total_tokens(), time.perf_counter()  # type: ignore[operator]
            rate = (tokens - self.tokens) / (now - self.since)
            pl_module.log("train/tokens_per_second", rate, prog_bar=True)
            self.tokens, self.since = tokens, now

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if hasattr(self, "since"):
            self.since += time.perf_counter() - self.paused


class Mixture(Callback):
    """Logs the realised share, tokens and epochs of every source of a mixture, and warns once where a source
    begins its second epoch."""

    def __init__(self) -> None:
        self.repeated: set[str] = set()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not (hasattr(data, "mixture") and _is_logged(trainer, batch_idx)):
            return
        for name, facts in data.mixture(trainer.global_step).items():
            pl_module.log(f"data/share/{name}", facts["realised"])
            pl_module.log(f"data/tokens/{name}", float(facts["tokens"]))
            pl_module.log(f"data/epochs/{name}", facts["epochs"])
            if facts["epochs"] > 1 and name not in self.repeated:
                self.repeated.add(name)
                rank_zero_warn(
                    f"data.sources.{name} is in its second epoch: all its text has been seen once at step "
                    f"{trainer.global_step}; set max_epochs to refuse such a run before it begins"
                )


class ProgressBar(RichProgressBar):
    """Lightning's, which would count to epoch −2 where steps end the run."""

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self.trainer.max_epochs or -1
        return f"Epoch {current_epoch}" + (f"/{epochs - 1}" if epochs > 0 else "")


class StepCheckpoint(ModelCheckpoint):
    """Checkpoints by time and at the end, only between optimizer steps: never in the middle of accumulated
    gradients. Lightning itself ignores the time under manual optimisation, which is PPO's."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if pl_module.automatic_optimization:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        elif self._train_time_interval is not None:
            now = model_checkpoint.time.monotonic()
            if now - (self._last_time_checked or now) >= self._train_time_interval.total_seconds():
                self._last_time_checked = now
                self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self._last_global_step_saved != trainer.global_step and not self._should_skip_saving_checkpoint(
            trainer
        ):
            self.save(trainer)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """Where a folder of DeepSpeed is in the place of a file, Lightning would write the file into it."""
        target = Path(filepath)
        if not target.is_dir():
            super()._save_checkpoint(trainer, filepath)
            return
        part, old = (target.with_name(target.name + suffix) for suffix in (".part", ".old"))
        super()._save_checkpoint(trainer, str(part))
        self._last_checkpoint_saved = filepath
        if trainer.is_global_zero:
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            part.rename(target)
            shutil.rmtree(old)
        trainer.strategy.barrier()

    def save(self, trainer: L.Trainer) -> None:
        """Saves now, as at the end of a run; all ranks must ask, between two optimizer steps."""
        candidates = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)


class Export(Callback):
    """Writes the stage's result to `export/` when training has ended."""

    def __init__(self, run: str):
        self.run = Path(run)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.export(str(self.run / "export"), facts(trainer, pl_module))  # type: ignore[operator]

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leaves what `trivium export` cannot know from the weights."""
        checkpoint["provenance"] = facts(trainer, pl_module)


def facts(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
    """What a result says of how it came about: steps, tokens, receipt and mixture; every rank must ask."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    found: dict[str, Any] = {
        "steps": trainer.global_step,
        "tokens": pl_module.total_tokens(),  # type: ignore[operator]
        "receipt": [receipt.to_dict() for receipt in data.receipts],
    }
    if hasattr(data, "mixture"):
        found["mixture"] = data.mixture(trainer.global_step)
    return found


class Predictions(BasePredictionWriter):
    """Writes `predictions.jsonl`: one row a line, by row id, complete or not at all."""

    def __init__(self, run: str):
        super().__init__(write_interval="epoch")
        self.file = Path(run) / "predictions.jsonl"

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        rows = [row for batch in predictions for row in batch]
        if trainer.world_size > 1:
            import torch.distributed as dist

            group = pl_module.data_group
            parts: list[Any] = [None] * dist.get_world_size(group)  # type: ignore[arg-type]
            dist.all_gather_object(parts, rows, group)  # type: ignore[arg-type]
            rows = [row for part in parts for row in part]
        if trainer.is_global_zero:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            part = self.file.with_suffix(".part")
            lines = (json.dumps(row, ensure_ascii=False) for row in sorted(rows, key=lambda row: row["row"]))
            part.write_text("\n".join(lines) + "\n")
            os.replace(part, self.file)
            print(f"{len(rows)} predictions: {self.file}")


def default_callbacks(
    run: str, checkpoint_minutes: float, subcommand: str, checkpoints: bool, progress: bool
) -> list[Callback]:
    """The callbacks of a command; a YAML that names one of these kinds replaces it.

    Args:
        run: folder of the run.
        checkpoint_minutes: between checkpoints.
        subcommand: of `trivium`.
        checkpoints: whether a fit writes any.
        progress: whether a fit shows its progress.
    """
    if subcommand != "fit":
        return [Predictions(run)] if subcommand == "predict" else []
    checkpoint = StepCheckpoint(
        dirpath=f"{run}/checkpoints",
        filename="{step}",
        save_last=True,
        train_time_interval=timedelta(minutes=checkpoint_minutes),
    )
    optional = [*([ProgressBar()] if progress else []), *([checkpoint] if checkpoints else [])]
    return [*optional, DataReceipt(run), Throughput(), Mixture(), Export(run)]
