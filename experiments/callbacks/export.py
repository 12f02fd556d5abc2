"""A stage's result as a Hugging Face directory when training has ended, and where it comes from."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from datamodules.corpus import MixedCorpusData
from experiments.callbacks.upstream import data_of


class Export(Callback):
    """Writes the stage's result to `export/` when training has ended."""

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
