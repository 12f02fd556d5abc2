"""Where the networks are while a fit ends."""

import lightning as L
from lightning.pytorch.callbacks import Callback


class OnDevice(Callback):
    """Has the networks where the strategy computes until `on_fit_end` is over: before it, Lightning moves
    them to the CPU, where neither NCCL nor a validation that is due could use them. The first callback."""

    moved = False

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.moved = pl_module.device != trainer.strategy.root_device
        if self.moved:
            pl_module.to(trainer.strategy.root_device)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and self.moved:
            pl_module.cpu()
            self.moved = False
