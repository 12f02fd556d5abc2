"""Any Hugging Face causal language model with its loss, or with a scalar head, inside one `forward`.

The head and the loss are inside so that these modules can be the root of sharding: a weight read from outside
is empty under ZeRO-3 and a shard under FSDP2.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from modules import attention
from modules.documents import Documents, Route
from modules.errors import UserError
from modules.head import CHUNK, Head


class _Backbone(nn.Module):
    """The transformer without its head, on the real tokens of a batch alone.

    Args:
        model: a Hugging Face model.
        route: how it is computed, so that it computes what it would alone.
    """

    forwards: tuple[str, ...] = ()
    """methods beside `forward` that run the whole network, for a strategy that shards networks"""

    def __init__(self, model: PreTrainedModel, route: Route):
        super().__init__()
        self.model = model
        self.route = route
        if route.rows == "flat":
            model.set_attn_implementation(attention.NAME)

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
        """(B, T) ids → (B, T, D) hidden states after the last norm, 0 at padding."""
        documents = self.documents(input_ids, position_ids, document_ids)
        return self.encode(documents)[documents.places] * (document_ids >= 0)[..., None]

    def documents(
        self, input_ids: Tensor, position_ids: Tensor, document_ids: Tensor, groups: Tensor | None = None
    ) -> Documents:
        """The documents of a batch, in `groups` where they may begin with the same tokens."""
        shares = self.route.rows == "flat"
        return Documents(input_ids, position_ids, document_ids, groups if shares else None)

    def encode(self, documents: Documents) -> Tensor:
        """(T′, D) hidden states of the row's tokens after the last norm."""
        return self._row(self._forward(self.model.base_model, documents).last_hidden_state, documents)

    def _row(self, output: Tensor, documents: Documents) -> Tensor:
        """(T′, …) of what a forward gave."""
        return output[documents.padded[1]] if self.route.rows == "documents" else output[0]

    def _forward(self, network: Any, documents: Documents, **options: Any) -> Any:
        if self.route.rows == "documents":
            return network(input_ids=documents.padded[0], use_cache=False, **options)
        output = network(
            input_ids=documents.input_ids,
            position_ids=documents.position_ids,
            attention_mask=None,
            use_cache=False,
            documents=documents,
            **options,
        )
        if not documents.calls:  # then it has attended to the whole row
            raise UserError(
                f"model: `{self.model.config.model_type}` hands no keyword on to its attention, so that a "
                "row's documents cannot be kept apart"
            )
        return output


class LanguageModel(_Backbone):
    """A causal language model that returns the loss of every token; its logits never exist as a whole where
    its head is linear.

    It also decodes step by step (`next_logits`).

    Args:
        model: a Hugging Face causal language model.
        fp32_head: compute a linear head in fp32 under autocast. PPO needs it: a bf16 log-probability of −6
            is rounded to a multiple of 0.03, a visible part of the clip range.
        route: how it is computed.
    """

    forwards = ("next_logits", "judge")

    def __init__(self, model: PreTrainedModel, fp32_head: bool = False, route: Route = Route()):  # noqa: B008
        super().__init__(model, route)
        self.fp32_head = fp32_head
        self.head = Head.of(model.config)
        self.keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor,
        document_ids: Tensor,
        temperature: float = 1.0,
        groups: Tensor | None = None,
    ) -> Tensor:
        """The negative log-probability of each label, at the label's own place.

        Args:
            input_ids: (B, T) int64.
            labels: (B, T) int64: the token itself where it is trained on, −100 elsewhere. The label at t is
                predicted from the hidden state at t − 1.
            position_ids: (B, T) int64, restart with each document.
            document_ids: (B, T) int64, −1 = padding.
            temperature: the logits are divided by it.
            groups: (documents,) int64: those of one group may begin with the same tokens, computed once.

        Returns:
            (B, T) fp32, 0 where nothing is trained.
        """
        documents = self.documents(input_ids, position_ids, document_ids, groups)
        trained = labels[:, 1:] != -100
        places, wanted = documents.places[:, :-1][trained], labels[:, 1:][trained]
        if not len(wanted):  # the network computes all the same: other ranks may wait for it
            places, wanted = documents.places[:1, 0], labels.new_full((1,), -100)
        losses = self._losses(documents, places, wanted, temperature)
        per_token = torch.zeros_like(trained, dtype=torch.float32).masked_scatter(trained, losses)
        return F.pad(per_token, (1, 0))

    def _losses(self, documents: Documents, places: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """(N,) fp32 losses of labels predicted from the row's tokens at `places`."""
        if self.route.head == "linear":
            return self.token_losses(self.encode(documents).index_select(0, places), labels, temperature)
        logits = self._own_logits(documents, places)
        return F.cross_entropy(logits.float() / temperature, labels, reduction="none")

    def _own_logits(self, documents: Documents, places: Tensor) -> Tensor:
        """(N, V) logits of the network's own head after the row's tokens at `places`."""
        if self.route.rows == "flat" and self.keeps_logits:
            return self._forward(self.model, documents, logits_to_keep=places).logits[0]
        return self._row(self._forward(self.model, documents).logits, documents)[places]

    @torch.no_grad()
    def judge(
        self,
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor,
        document_ids: Tensor,
        groups: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """How likely each label is, and whether it is what greedy decoding would have chosen.

        Args:
            input_ids, labels, position_ids, document_ids, groups: as of `forward`.

        Returns:
            (N,) fp32 negative log-probabilities and (N,) bool of the N labels, row after row.
        """
        documents = self.documents(input_ids, position_ids, document_ids, groups)
        trained = labels[:, 1:] != -100
        places, wanted = documents.places[:, :-1][trained], labels[:, 1:][trained]
        losses, greedy = [], []
        for part, label in zip(self._parts(documents, places), wanted.split(CHUNK), strict=True):
            losses.append(F.cross_entropy(part, label, reduction="none"))
            greedy.append(part.argmax(-1) == label)
        return torch.cat(losses), torch.cat(greedy)

    @torch.no_grad()
    def likeliest(self, ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """How likely each token of a text was, and which would have been likelier.

        Args:
            ids: (T,) int64, two or more.
            count: of the likeliest tokens at each place.

        Returns:
            (T − 1,) fp32 log-probabilities of the tokens from the second on; (T − 1, count) fp32 those of
            the likeliest, in order; (T − 1, count) int64 these.
        """
        row = ids[None]
        documents = self.documents(
            row, torch.arange(len(ids), device=ids.device)[None], torch.zeros_like(row)
        )
        own, values, tokens = [], [], []
        parts = self._parts(documents, documents.places[0, :-1])
        for part, label in zip(parts, ids[1:].split(CHUNK), strict=True):
            logprobs = part.log_softmax(-1)
            own.append(logprobs.gather(1, label[:, None]).squeeze(1))
            best = logprobs.topk(count)
            values.append(best.values)
            tokens.append(best.indices)
        return torch.cat(own), torch.cat(values), torch.cat(tokens)

    def _parts(self, documents: Documents, places: Tensor) -> Iterator[Tensor]:
        """(CHUNK, V) fp32 logits after the row's tokens at `places`, part after part."""
        if self.route.head == "linear":
            for part in self.encode(documents)[places].split(CHUNK):
                yield self._logits(part).float()
        else:
            yield from self._own_logits(documents, places).float().split(CHUNK)

    def next_logits(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, cache: Cache | None
    ) -> Tensor:
        """One step of decoding: (B, V) logits after the last token.

        Args:
            input_ids: (B, S) int64, the tokens that the cache has not seen, padded on the left.
            attention_mask: (B, T) int64, of all tokens so far, 0 = padding.
            position_ids: (B, S) int64.
            cache: keys and values so far; it grows. None: `input_ids` are all tokens.
        """
        if cache is None:
            documents = self.documents(input_ids, position_ids, attention_mask - 1)
            places = documents.places[:, -1]
            if self.route.head == "linear":
                return self._logits(self.encode(documents)[places])
            return self._row(self._forward(self.model, documents).logits, documents)[places]
        linear = self.route.head == "linear"
        network: Any = self.model.base_model if linear else self.model
        output = network(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=True,
            **{_cache_argument(network.__class__): cache},
            **({"logits_to_keep": 1} if self.keeps_logits and not linear else {}),
        )
        return self._logits(output.last_hidden_state[:, -1]) if linear else output.logits[:, -1]

    def _logits(self, hidden: Tensor) -> Tensor:
        """(…, D) → (…, V) logits of a linear head."""
        inputs = self._head_inputs(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head.logits(*inputs)

    def token_losses(self, hidden: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
        """(N, D) hidden states and (N,) labels → (N,) fp32 losses through the chunked linear head."""
        inputs = self._head_inputs(hidden)  # in autocast's dtype
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head.losses(*inputs, labels, temperature)

    def _head_inputs(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Hidden states, weight and bias in the dtype of the head's matrix products."""
        head = self.model.get_output_embeddings()
        dtype = torch.float32 if self.fp32_head else _matmul_dtype(hidden)
        bias = None if head.bias is None else full_tensor(head.bias).to(dtype)
        return hidden.to(dtype), full_tensor(head.weight).to(dtype), bias


class ScalarModel(_Backbone):
    """A transformer with one number per token: a reward model, or PPO's critic.

    Args:
        model: a Hugging Face sequence classifier with one label and no bias.
        offset: what is subtracted from every number, so that scores are centred.
        route: how it is computed.
    """

    offset: Tensor

    def __init__(self, model: PreTrainedModel, offset: float = 0.0, route: Route = Route()):  # noqa: B008
        super().__init__(model, route)
        self.register_buffer("offset", torch.tensor(float(offset)))

    @property
    def head(self) -> nn.Linear:
        """D → 1, no bias."""
        return cast(nn.Linear, self.model.score)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, document_ids: Tensor, groups: Tensor | None = None
    ) -> Tensor:
        """(B, T) ids → (B, T) fp32 values, 0 at padding. The head runs in fp32: rankings turn on small
        differences. Documents of one of the `groups` (documents,) may begin with the same tokens."""
        documents = self.documents(input_ids, position_ids, document_ids, groups)
        hidden = self.encode(documents)
        with torch.autocast(hidden.device.type, enabled=False):
            values = F.linear(hidden.float(), full_tensor(self.head.weight).float()).squeeze(-1)
        return (values - self.offset)[documents.places] * (document_ids >= 0)


@cache
def _cache_argument(network: Any) -> str:
    """What a class of networks calls its cache; transformers has renamed it since 5.24."""
    named = inspect.signature(network.forward).parameters
    return "cache" if "cache" in named else "past_key_values"


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
