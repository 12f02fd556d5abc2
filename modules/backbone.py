"""Any Hugging Face causal language model with its loss, or with a scalar head, inside one `forward`.

The head and the loss are inside so that these modules can be the root of sharding: a weight read from outside
is empty under ZeRO-3 and a shard under FSDP2.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from modules.errors import UserError
from modules.linear_cross_entropy import linear_cross_entropy

SCALED_LOGITS = ("logit_scale", "logits_scaling", "final_logit_softcapping", "lm_head_multiplier")
"""what some models do to their logits after the head"""
LOSS_CHUNK = 512  # tokens whose logits exist at the same time


def attention_mask(document_ids: Tensor) -> Tensor | None:
    """Which token may attend to which: causal and within one document.

    Args:
        document_ids: (B, T) int64, −1 = padding.

    Returns:
        (B, 1, T, T) bool, or None where plain causal attention says the same: every row is one document,
        padded on the right (padding attends to the document, no document token attends to padding).
    """
    padding = document_ids < 0
    padded_left = (padding[:, :-1] & ~padding[:, 1:]).any()
    if not (padded_left | (document_ids > 0).any()):
        return None
    same = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    return same.tril()


class _Backbone(nn.Module):
    """The transformer without its head."""

    forwards: tuple[str, ...] = ()
    """methods beside `forward` that run the whole network, for a strategy that shards networks"""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def blocks(self) -> list[nn.Module]:
        """The repeated blocks of the transformer, for a strategy that shards networks."""
        return repeated_blocks(self.model)

    def enable_activation_checkpointing(self) -> None:
        """Keeps only the input of each block for the backward pass, which computes the block again
        (activation checkpointing). Forwards without gradients are as they were."""
        # transformers' own switch does nothing in eval mode, in which PPO trains; torch's wrapper puts a
        # module around each block, which changes the names of parameters in checkpoints, in DeepSpeed and
        # in the tensor-parallel plan. An attribute `forward` changes none.
        for block in self.blocks():
            block.forward = _recomputed(block.forward)  # type: ignore[method-assign]

    def tp_plan(self, ranks: int) -> dict[str, str]:
        """What so many ranks can share of a block, as transformers says it: a module's name, with `*` for a
        number → the way.

        Raises:
            UserError: there is no plan, or the heads cannot be shared evenly.
        """
        config = self.model.config
        plan = getattr(config, "base_model_tp_plan", None)
        if not plan:
            raise UserError(
                f"trainer.strategy: transformers has no tensor-parallel plan for `{config.model_type}`: use "
                "strategies.fsdp"
            )
        for name in ("num_attention_heads", "num_key_value_heads"):
            heads = getattr(config, name, None) or ranks
            if heads % ranks:
                raise UserError(
                    f"trainer.strategy: tensor_parallel is {ranks}, but the model's {name} is {heads}: give "
                    "a divisor of it, and more data_parallel"
                )
        return {f"model.{self.model.base_model_prefix}.{name}": style for name, style in plan.items()}

    def hidden_states(self, input_ids: Tensor, position_ids: Tensor, document_ids: Tensor) -> Tensor:
        """(B, T) ids → (B, T, D) hidden states after the last norm."""
        output = self.model.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask(document_ids),
            position_ids=position_ids,
            use_cache=False,
        )
        return output.last_hidden_state


class LanguageModel(_Backbone):
    """A causal language model that returns the loss of every token; its logits never exist as a whole.

    It also decodes step by step (`next_logits`).

    Args:
        model: a Hugging Face causal language model with a linear head.
        fp32_head: compute the head in fp32 under autocast. PPO needs it: a bf16 log-probability of −6 is
            rounded to a multiple of 0.03, a visible part of the clip range.
    """

    forwards = ("next_logits",)

    def __init__(self, model: PreTrainedModel, fp32_head: bool = False):
        super().__init__(model)
        for name in SCALED_LOGITS:
            if getattr(model.config, name, None) not in (None, 1):
                raise UserError(
                    f"model: `{model.config.model_type}` has {name} {getattr(model.config, name)}, but the "
                    "loss takes its logits as they are: use a model without it"
                )
        self.fp32_head = fp32_head

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor,
        document_ids: Tensor,
        temperature: float = 1.0,
    ) -> Tensor:
        """The negative log-probability of each label, at the label's own place.

        Args:
            input_ids: (B, T) int64.
            labels: (B, T) int64: the token itself where it is trained on, −100 elsewhere. The label at t is
                predicted from the hidden state at t − 1.
            position_ids: (B, T) int64, restart with each document.
            document_ids: (B, T) int64, −1 = padding.
            temperature: the logits are divided by it.

        Returns:
            (B, T) fp32, 0 where nothing is trained.
        """
        hidden = self.hidden_states(input_ids, position_ids, document_ids)
        losses = self.token_losses(hidden[:, :-1] / temperature, labels[:, 1:])
        return F.pad(losses, (1, 0))

    def next_logits(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, cache: Cache
    ) -> Tensor:
        """One step of decoding: (B, V) logits after the last token.

        Args:
            input_ids: (B, S) int64, the tokens that the cache has not seen.
            attention_mask: (B, T) int64, of all tokens so far, 0 = padding.
            position_ids: (B, S) int64.
            cache: keys and values so far; it grows.
        """
        output = self.model.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        hidden, head = output.last_hidden_state[:, -1], self.model.get_output_embeddings()
        if not self.fp32_head:
            return head(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            bias = None if head.bias is None else full_tensor(head.bias).float()
            return F.linear(hidden.float(), full_tensor(head.weight).float(), bias)

    def token_losses(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """(…, D) hidden states and (…) labels → (…) fp32 losses through the chunked linear cross-entropy."""
        head = self.model.get_output_embeddings()
        dtype = torch.float32 if self.fp32_head else _matmul_dtype(hidden)
        losses = linear_cross_entropy(
            hidden.reshape(-1, hidden.shape[-1]).to(dtype),
            full_tensor(head.weight).to(dtype),
            labels.reshape(-1),
            bias=None if head.bias is None else full_tensor(head.bias).to(dtype),
            chunk=LOSS_CHUNK,
        )
        return losses.float().view(labels.shape)


class ScalarModel(_Backbone):
    """A transformer with one number per token: a reward model, or PPO's critic.

    Args:
        model: a Hugging Face sequence classifier with one label and no bias.
        offset: what is subtracted from every number, so that scores are centred.
    """

    offset: Tensor

    def __init__(self, model: PreTrainedModel, offset: float = 0.0):
        super().__init__(model)
        self.register_buffer("offset", torch.tensor(float(offset)))

    @property
    def head(self) -> nn.Linear:
        """D → 1, no bias."""
        return cast(nn.Linear, self.model.score)

    def forward(self, input_ids: Tensor, position_ids: Tensor, document_ids: Tensor) -> Tensor:
        """(B, T) ids → (B, T) fp32 values. The head runs in fp32: rankings turn on small differences."""
        hidden = self.hidden_states(input_ids, position_ids, document_ids)
        with torch.autocast(hidden.device.type, enabled=False):
            values = F.linear(hidden.float(), full_tensor(self.head.weight).float())
            return values.squeeze(-1) - self.offset


def _recomputed(forward: Callable) -> Callable:
    def keeping_the_input(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return keeping_the_input


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded over the ranks, in full."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _matmul_dtype(tensor: Tensor) -> torch.dtype:
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def repeated_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks in the order they compute; the same before a strategy has sharded them and after.

    They are the members of the outermost `ModuleList` that holds most modules: a block's experts are a list
    too, but within it. Their classes may differ, as in networks that alternate attention and state spaces.

    Raises:
        UserError: it has no such list.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inner = {module for blocks in lists for module in blocks.modules() if module is not blocks}
    outermost = [blocks for blocks in lists if blocks not in inner]
    repeated = max(outermost, key=lambda blocks: sum(1 for _ in blocks.modules()), default=())
    if not repeated:
        raise UserError(
            f"model: `{model.config.model_type}` has no list of repeated blocks, by which memory is planned, "
            "strategies cut and activation_checkpointing computes again: take a network that has one, or "
            "train with strategies.ddp and without activation_checkpointing"
        )
    return list(repeated)


def disable_dropout(model: nn.Module) -> None:
    """Sets every dropout of `model` to zero, those that attention reads from attributes too."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
