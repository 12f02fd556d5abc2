"""Stage two: supervised fine-tuning, the loss on the reply alone."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from torch.optim import Optimizer

from modules.causal_lm import CausalLM
from modules.generation import generate
from modules.optim import AdamW
from modules.ranges import COUNT, range_errors
from modules.stage import Batch
from modules.training_data import positions_of


class SFTModule(CausalLM):
    """Fine-tunes a language model on replies; the network and the loss are pretraining's, the labels are the
    reply's.

    Args:
        pretrained: a Hugging Face directory (or cached hub name), usually pretraining's `export/`.
        optimizer: makes the optimizer from parameter groups; weight decay reaches matrices only.
        warmup_steps: optimizer steps of linear warm-up.
        max_new_tokens: limit of the greedy replies that `predict` writes, in tokens.
        kwargs: of `Stage`.
    """

    stage: ClassVar[str] = "sft"
    parents: ClassVar[tuple[str, ...]] = ("pretrain", "sft")
    next_commands: ClassVar[tuple[str, ...]] = (
        "trivium chat {export}",
        "trivium fit --config reward --model.init_args.pretrained {export} "
        "--data.init_args.tokenizer {export}",
    )

    def __init__(
        self,
        pretrained: str,
        optimizer: Callable[[Iterable], Optimizer] = lambda p: AdamW(p, lr=2e-5),
        warmup_steps: int = 20,
        max_new_tokens: int = 128,
        **kwargs: Any,
    ):
        # what is named here the command line does not offer: an SFT never starts from a `config`
        super().__init__(
            config=None, pretrained=pretrained, optimizer=optimizer, warmup_steps=warmup_steps, **kwargs
        )
        self.max_new_tokens = max_new_tokens

    def config_errors(self, max_steps: int = -1) -> list[str]:
        return super().config_errors(max_steps) + range_errors(self, {"max_new_tokens": COUNT})

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """The greedy reply to each prompt, and whether it ended by itself."""
        assert self.network is not None
        tokenizer, stops = self.tokenizer, self.stop_token_ids
        with self.sharding.unsharded(self.network):
            prompts = batch["prompt_ids"], batch["prompt_mask"]
            replies, mask = generate(
                self.network,
                *prompts,
                max_new_tokens=self.max_new_tokens,
                stop_token_ids=stops,
                pad_token_id=tokenizer.pad_token_id,
                vocabulary=self.data.vocabulary,
                any_rank=self.sharding.any_rank,
                max_positions=positions_of(self.network.model),
            )
        rows = []
        for row, ids, kept in zip(batch["rows"].tolist(), replies, mask, strict=True):
            if row >= 0:
                text = tokenizer.decode(ids[kept], skip_special_tokens=True)
                ended = not set(ids[kept].tolist()).isdisjoint(stops)
                rows.append({"row": row, "reply": text, "ended": ended})
        return rows
