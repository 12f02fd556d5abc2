"""`predictions.jsonl`, from all ranks."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter


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
