"""What a run leaves beside its checkpoints: the data receipt before the first step, the export when training
has ended, and predictions from all ranks."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter, Callback
from rich.console import Console

from datamodules.corpus import MixedCorpusData
from datamodules.reading.repeats import repeated_files
from datamodules.receipt import render
from experiments.atomic import write_text
from experiments.callbacks.upstream import data_of


def folder_errors(run: Path) -> list[str]:
    """The line that refuses a folder to which nothing could be written, found out by writing; none where it
    is fine. A folder that is not there is not made."""
    there = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".trivium-"):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return [f"run: nothing can be written to {there}: {reason}: give another --run"]
    taken = [run / name for name in ("export", "checkpoints", "metrics") if (run / name).is_file()]
    return [f"run: {path} is a file, in the place of a folder of results: move it away" for path in taken]


class DataReceipt(Callback):
    """Prints the data receipt before the first step and writes it to `receipt.json`."""

    def __init__(self, run: str):
        self.run = Path(run)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            receipts = data_of(trainer).receipts
            Console().print(render(receipts))
            for line in repeated_files(data_of(trainer).named_files()):
                print(line)
            text = json.dumps([receipt.to_dict() for receipt in receipts], indent=2, ensure_ascii=False)
            write_text(self.run / "receipt.json", text + "\n")


class Export(Callback):
    """Writes the stage's result to `export/`, a Hugging Face directory, when training has ended."""

    def __init__(self, run: str):
        self.run = Path(run)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.export(str(self.run / "export"), provenance(trainer, pl_module))  # type: ignore[operator]

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leaves what `trivium export` cannot know from the weights."""
        checkpoint["provenance"] = provenance(trainer, pl_module)


def provenance(trainer: L.Trainer, stage: L.LightningModule) -> dict[str, Any]:
    """What a result says of how it came about: steps, tokens, receipts and mixture; every rank must ask."""
    data = data_of(trainer)
    origin: dict[str, Any] = {
        "steps": trainer.global_step,
        "tokens": stage.total_tokens(),  # type: ignore[operator]
        "receipt": [receipt.to_dict() for receipt in data.receipts],
    }
    if isinstance(data, MixedCorpusData):
        origin["mixture"] = data.mixture(trainer.global_step)
    return origin


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
            of_ranks: list[Any] = [None] * dist.get_world_size(group)  # type: ignore[arg-type]
            dist.all_gather_object(of_ranks, rows, group)  # type: ignore[arg-type]
            rows = [row for rank_rows in of_ranks for row in rank_rows]
        if trainer.is_global_zero:
            rows.sort(key=lambda row: row["row"])
            write_text(self.file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            print(f"{len(rows)} predictions: {self.file}")
