"""The data receipt, before the first step."""

import json
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from datamodules.receipt import render
from experiments.atomic import write_text
from experiments.callbacks.upstream import data_of


class DataReceipt(Callback):
    """Prints the data receipt before the first step and writes it to `receipt.json`."""

    def __init__(self, run: str):
        self.run = Path(run)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            receipts = data_of(trainer).receipts
            Console().print(render(receipts))
            text = json.dumps([receipt.to_dict() for receipt in receipts], indent=2, ensure_ascii=False)
            write_text(self.run / "receipt.json", text + "\n")
