"""Stage one: pretraining, the next token of everything."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from modules.backbone import LanguageModel
from modules.errors import UserError
from modules.hf_export import LANGUAGE_MODEL
from modules.hf_load import load_causal_lm, new_causal_lm
from modules.metrics import GroupedMean
from modules.optim import AdamW
from modules.probe import language_model
from modules.specs import ExportSpec, Goal, NetworkSpec
from modules.stage import TRAINING_LOGS, Batch, Stage
from modules.training_data import check_model

ONE_START = "model: give either `config` (from scratch) or `pretrained` (a directory), not both or none"


class CausalLM(Stage):
    """Pretrains a causal language model; the loss of a step is Σ token losses / tokens trained in that step.

    Args:
        config: a Hugging Face config to build the network from scratch, for example
            `{model_type: llama, hidden_size: 128, …}`; `vocab_size` comes from the tokenizer when missing.
        pretrained: a Hugging Face directory (or cached hub name) to go on from, instead of `config`.
        optimizer: makes the optimizer from parameter groups; weight decay reaches matrices only.
        warmup_steps: optimizer steps of linear warm-up.
        kwargs: of `Stage`.
    """

    stage: ClassVar[str] = "pretrain"
    parents: ClassVar[tuple[str, ...]] = ("pretrain",)
    reads: ClassVar[str] = "tokens"
    logs: ClassVar[tuple[str, ...]] = (*TRAINING_LOGS, "val/loss", "val/loss/*", "val/perplexity/*")
    goal: ClassVar[Goal | None] = Goal("val/loss")
    next_commands: ClassVar[tuple[str, ...]] = (
        "trivium fit --config sft --model.init_args.pretrained {export} --data.init_args.tokenizer {export}",
    )

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        pretrained: str | None = None,
        optimizer: Callable[[Iterable], Optimizer] = lambda p: AdamW(p, lr=3e-4, weight_decay=0.1),
        warmup_steps: int = 100,
        **kwargs: Any,
    ):
        super().__init__(optimizer=optimizer, warmup_steps=warmup_steps, **kwargs)
        self.config = config
        self.pretrained = pretrained
        self.network: LanguageModel | None = None

    @classmethod
    def network_specs(cls, arguments: Mapping[str, Any]) -> list[NetworkSpec]:
        starts = {name: arguments.get(name) for name in ("config", "pretrained")}
        given = {name: source for name, source in starts.items() if source is not None}
        if len(given) != 1:
            raise UserError(ONE_START)
        ((argument, source),) = given.items()
        return [NetworkSpec("model", argument, source, head="language", trained=True)]

    def exports(self) -> list[ExportSpec]:
        return [ExportSpec("network.model", LANGUAGE_MODEL, self.stage, self.pretrained)]

    def parent_checkpoints(self) -> list[tuple[str, str | None, tuple[str, ...]]]:
        return [("pretrained", self.pretrained, self.parents)]

    def config_errors(self, max_steps: int = -1) -> list[str]:
        errors = super().config_errors(max_steps)
        return errors if (self.config is None) != (self.pretrained is None) else [*errors, ONE_START]

    def configure_model(self) -> None:
        if self.network is not None:
            return
        if self.pretrained is not None:
            model = load_causal_lm(self.pretrained)
        else:
            names = ("pad_token_id", "bos_token_id", "eos_token_id")
            ids = {name: getattr(self.tokenizer, name) for name in names}
            model = new_causal_lm(self.config or {}, self.data.vocabulary, ids)
        if self._trainer is not None:
            check_model(model, self.data, "model.pretrained" if self.pretrained else "model.config")
        self.network = self.shard(language_model(model).train())

    def forward(self, batch: Batch) -> Tensor:
        """The loss of every token, (B, T) fp32; 0 where nothing is trained."""
        assert self.network is not None
        return self.network(batch["input_ids"], batch["labels"], batch["position_ids"], batch["document_ids"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.normalized(self(batch).sum(), batch)

    def on_validation_epoch_start(self) -> None:
        self.source_loss = GroupedMean(len(self.data.source_names)).to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        trained = batch["labels"][:, 1:] != -100
        self.source_loss.update(self(batch).sum(1), trained.sum(1), batch["source"])

    def on_validation_epoch_end(self) -> None:
        total, count = self.source_loss.groups()
        self.log("val/loss", (total.sum() / count.sum()).float(), prog_bar=True)
        for source, losses, tokens in zip(self.data.source_names, total, count, strict=True):
            if tokens:
                loss = (losses / tokens).float()
                self.log(f"val/loss/{source}", loss)
                self.log(f"val/perplexity/{source}", loss.exp())

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """The mean loss of each document in nats per token, and how many tokens it has."""
        losses, tokens = self(batch).sum(1).tolist(), (batch["labels"][:, 1:] != -100).sum(1).tolist()
        rows = zip(batch["rows"].tolist(), losses, tokens, strict=True)
        return [{"row": row, "loss": loss / max(1, n), "tokens": n} for row, loss, n in rows if row >= 0]
