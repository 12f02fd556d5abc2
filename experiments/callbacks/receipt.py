"""The data receipt, before the first step."""

import json
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback
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
