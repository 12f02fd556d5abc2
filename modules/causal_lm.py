"""Stage one: pretraining, the next token of everything."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from modules.backbone import LanguageModel
from modules.errors import UserError
from modules.hf_export import export_causal_lm
from modules.hf_load import load_causal_lm, new_causal_lm
from modules.metrics import GroupedMean
from modules.optim import AdamW
from modules.stage import Batch, NetworkSpec, Stage


class CausalLM(Stage):
    """Pretrains a causal language model; the loss of a step is Σ token losses / tokens trained in that step.

    Args:
        config: a Hugging Face config to build the network from scratch, for example
            `{model_type: llama, hidden_size: 128, …}`; `vocab_size` comes from the tokenizer when missing.
        pretrained: a Hugging Face directory (or cached hub name) to go on from, instead of `config`.
        optimizer: makes the optimizer from parameter groups; weight decay reaches matrices only.
        warmup_steps: optimizer steps of linear warm-up.
        min_lr_ratio: where the cosine ends, as a share of the peak.
        activation_checkpointing: keep only the input of each block for the backward pass and compute the
            rest again: far less memory, about a third more time.
    """

    stage: ClassVar[str] = "pretrain"
    parents: ClassVar[tuple[str, ...]] = ("pretrain",)

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        pretrained: str | None = None,
        optimizer: Callable[[Iterable], Optimizer] = lambda p: AdamW(p, lr=3e-4, weight_decay=0.1),
        warmup_steps: int = 100,
        min_lr_ratio: float = 0.1,
        activation_checkpointing: bool = False,
    ):
        super().__init__(optimizer, warmup_steps, min_lr_ratio, activation_checkpointing)
        self.config = config
        self.pretrained = pretrained
        self.network: LanguageModel | None = None

    @classmethod
    def network_specs(cls, arguments: Mapping[str, Any]) -> list[NetworkSpec]:
        config, pretrained = arguments.get("config"), arguments.get("pretrained")
        if (config is None) == (pretrained is None):
            raise UserError("model: give either `config` (from scratch) or `pretrained` (a directory)")
        argument = "pretrained" if config is None else "config"
        return [NetworkSpec("model", argument, arguments[argument], "language", True)]

    def config_errors(self, max_steps: int = -1) -> list[str]:
        found = super().config_errors(max_steps)
        if (self.config is None) == (self.pretrained is None):
            found.append(
                "model: give either `config` (from scratch) or `pretrained` (a directory), not both or none"
            )
        return found

    def parent_checkpoints(self) -> list[tuple[str, str | None, tuple[str, ...]]]:
        return [("pretrained", self.pretrained, self.parents)]

    def trainable_modules(self) -> list[nn.Module]:
        assert self.network is not None
        return [self.network]

    def configure_model(self) -> None:
        if self.network is not None:
            return
        if self.pretrained is not None:
            model = load_causal_lm(self.pretrained)
        else:
            tokenizer = self.tokenizer
            ids = {
                f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")
            }
            model = new_causal_lm(self.config or {}, len(tokenizer), ids)
        if self._trainer is not None:
            self.check_model(model)
        self.network = self.shard(LanguageModel(model).train())

    def forward(self, batch: Batch) -> Tensor:
        """The loss of every token, (B, T) fp32; 0 where nothing is trained."""
        assert self.network is not None
        return self.network(batch["input_ids"], batch["labels"], batch["position_ids"], batch["document_ids"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.normalized(self(batch).sum(), batch)

    def on_validation_epoch_start(self) -> None:
        self.source_loss = GroupedMean(len(self.trainer.datamodule.source_names)).to(self.device)  # type: ignore[attr-defined]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        trained = batch["labels"][:, 1:] != -100
        self.source_loss.update(self(batch).sum(1), trained.sum(1), batch["source"])

    def on_validation_epoch_end(self) -> None:
        total, count = self.source_loss.groups()
        self.log("val/loss", (total.sum() / count.sum()).float(), prog_bar=True)
        names = self.trainer.datamodule.source_names  # type: ignore[attr-defined]
        for source, losses, tokens in zip(names, total, count, strict=True):
            if tokens:
                loss = (losses / tokens).float()
                self.log(f"val/loss/{source}", loss)
                self.log(f"val/perplexity/{source}", loss.exp())

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """The mean loss of each document in nats per token, and how many tokens it has."""
        losses, tokens = self(batch).sum(1).tolist(), (batch["labels"][:, 1:] != -100).sum(1).tolist()
        rows = zip(batch["rows"].tolist(), losses, tokens, strict=True)
        return [{"row": row, "loss": loss / max(1, n), "tokens": n} for row, loss, n in rows if row >= 0]

    def export(self, directory: str, provenance: dict[str, Any]) -> None:
        """Writes the Hugging Face directory that hands this stage's result on; every rank must ask."""
        assert self.network is not None
        model, stage, parent = self.network.model, self.stage, self.pretrained
        state = self.full_state_dict(model)
        if self.writes:
            export_causal_lm(model, state, self.tokenizer, directory, stage, parent, provenance)
