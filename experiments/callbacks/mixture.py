"""What a mixture has given so far."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.corpus import MixedCorpusData
from experiments.callbacks.progress import is_logged
from experiments.callbacks.upstream import data_of


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
