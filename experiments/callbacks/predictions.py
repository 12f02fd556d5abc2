"""`predictions.jsonl`, from all ranks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from experiments.atomic import write_text


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
