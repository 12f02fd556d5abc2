"""A fifth stage in a file of its own: fine-tuning that leaves alone what the model already knows."""

from torch import Tensor

from modules.backbone import LanguageModel
from modules.hf_export import LANGUAGE_MODEL
from modules.hf_load import load_causal_lm
from modules.optim import AdamW
from modules.stage import Batch, ExportSpec, NetworkSpec, Stage


class FocalModule(Stage):
    """The focal loss of Lin et al. 2017, Σ −(1 − p)^γ log p over the tokens that are trained on.

    Args:
        pretrained: a Hugging Face directory to start from.
        gamma: how much less a token counts that the model already gives a high probability p.
        lr: learning rate.
    """

    stage, parents, reads = "focal", ("pretrain", "sft", "focal"), "tokens"

    def __init__(self, pretrained: str, gamma: float = 2.0, lr: float = 1e-3):
        super().__init__(lambda groups: AdamW(groups, lr), warmup_steps=0, min_lr_ratio=1.0)
        self.save_hyperparameters()
        self.pretrained, self.gamma = pretrained, gamma
        self.network: LanguageModel | None = None

    @classmethod
    def network_specs(cls, arguments):
        return [NetworkSpec("model", "pretrained", arguments["pretrained"], head="language", trained=True)]

    def parent_checkpoints(self):
        return [("pretrained", self.pretrained, self.parents)]

    def configure_model(self) -> None:
        if self.network is None:
            self.network = self.shard(LanguageModel(load_causal_lm(self.pretrained)).train())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.network(
            batch["input_ids"], batch["labels"], batch["position_ids"], batch["document_ids"]
        )
        return self.normalized(((1 - (-losses).exp()) ** self.gamma * losses).sum(), batch)

    def exports(self):
        return [ExportSpec("network.model", LANGUAGE_MODEL, self.stage, self.pretrained)]
