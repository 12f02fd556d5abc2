"""A stage's result as a Hugging Face directory when training has ended, and what it says of its run."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


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
