"""Attention within the documents of one row, through transformers' attention interface.

Networks hand a keyword of their `forward` on to it: `documents`. Without one (a step of decoding) the mask
says what may attend to what.
"""

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from modules.documents import Documents, Spread

NAME = "documents"
"""of the attention and of its mask, in transformers' interfaces"""


@torch.compiler.disable  # it reads lengths on the CPU; the rest of a block compiles around it
def documents_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    documents: Documents | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each document to itself and to its prefix.

    Args:
        module: the attention layer.
        query: (1, H, T′, D), or while decoding (B, H, S, D).
        key: (1, H_kv, T′, D), or all so far.
        value: as `key`.
        attention_mask: while decoding, (B, 1, S, T) bool; else None.
        dropout: of the weights.
        scaling: of the scores; D^−½ when None.
        documents: the row's; None while decoding.
        sliding_window: how far back a token sees, itself included.
        softcap: c of c·tanh(score / c).
        s_aux: (H,) attention sinks: logits of a column that is left out after the softmax.
        kwargs: what else the layer hands over.

    Returns:
        (1, T′, H, D), and no weights.
    """
    special = softcap is not None or s_aux is not None
    options: dict[str, Any] = {"dropout": dropout, "scaling": scaling, "softcap": softcap, "sinks": s_aux}
    if documents is None:
        if not special:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout, scaling, **kwargs
            )
        return _weighted(query, key, value, attention_mask, **options).transpose(1, 2).contiguous(), None
    documents.calls += 1
    device = query.device.type
    if torch.is_autocast_enabled(device):  # as for torch's own attention: rotary embeddings leave fp32 behind
        query, key, value = (x.to(torch.get_autocast_dtype(device)) for x in (query, key, value))
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    if documents.keys is not None:
        key, value = key[documents.keys], value[documents.keys]
    if not (special or dropout) and _varlen_fits(query, value, sliding_window):
        return _varlen(query, key, value, documents, scaling, sliding_window)[None], None
    return _grouped(query, key, value, documents, sliding_window, special, options)[None], None


def _grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    window: int | None,
    special: bool,
    options: dict[str, Any],
) -> Tensor:
    """(T′, H, D), documents of like length in one dense call."""
    laid_out = documents.groups
    if laid_out.queries is not None:
        query = _Spread.apply(query, laid_out.queries)
    if laid_out.keys is not None:
        key, value = _Spread.apply(key, laid_out.keys), _Spread.apply(value, laid_out.keys)
    # cut by `split`, whose gradient is one copy; each slice's would be a row of zeros and an addition
    queries = query.split([group.rows * group.queries for group in laid_out.groups])
    sizes = [group.rows * group.keys for group in laid_out.groups]
    outputs = []
    for group, *parts in zip(laid_out.groups, queries, key.split(sizes), value.split(sizes), strict=True):
        q, k, v = (part.unflatten(0, (group.rows, -1)).transpose(1, 2) for part in parts)
        if special:
            output = _weighted(q, k, v, group.mask(window), **options)
        else:
            causal, gqa = group.causal(window), q.shape[1] != k.shape[1]
            mask = None if causal else group.mask(window)
            if gqa and q.is_cuda:  # there, only a kernel that holds all scores takes fewer heads in fp32
                k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
                gqa = False
            output = F.scaled_dot_product_attention(
                q, k, v, mask, options["dropout"], causal, scale=options["scaling"], enable_gqa=gqa
            )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)  # which would copy it
    return output if laid_out.queries is None else _Collect.apply(output, laid_out.queries)


def _weighted(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """(B, H, S, D): what torch's attention has no kernel for: soft-capped scores and sinks."""
    heads = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(heads, 1), value.repeat_interleave(heads, 1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.float()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)  # padding sees nothing: no NaN
    if sinks is not None:
        column = sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], -1)
    weights = scores.softmax(-1)[..., : key.shape[2]].to(value.dtype)
    return F.dropout(weights, dropout) @ value


class _Spread(torch.autograd.Function):
    """(T′, …) → (S, …): tokens to the places of their documents. Each has one place that counts, so the
    gradient is read back from it: padding has none, and nothing is summed up."""

    @staticmethod
    def forward(ctx: Any, row: Tensor, spread: Spread) -> Tensor:
        ctx.places = spread.places
        return row.index_select(0, spread.tokens)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient.index_select(0, ctx.places), None


class _Collect(torch.autograd.Function):
    """(S, …) → (T′, …), the other way round."""

    @staticmethod
    def forward(ctx: Any, laid_out: Tensor, spread: Spread) -> Tensor:
        ctx.places, ctx.size = spread.places, len(laid_out)
        return laid_out.index_select(0, spread.places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        back = gradient.new_zeros(ctx.size, *gradient.shape[1:])
        return back.index_copy_(0, ctx.places, gradient), None


def _varlen_fits(query: Tensor, value: Tensor, window: int | None) -> bool:
    """Whether torch's kernel for documents of any length takes these."""
    half = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    width = query.shape[-1]
    if not (half and width == value.shape[-1] <= 256 and width % 8 == 0):
        return False
    kernel = _varlen_kernel(query.device)
    return kernel is not None and (window is None or _takes_windows(kernel))


@cache
def _varlen_kernel(device: torch.device) -> Callable | None:
    """torch's attention for documents of any length, or None where this GPU or torch has none; told once."""
    kernel: Callable | None = None
    if torch.cuda.get_device_capability(device) >= (8, 0):
        with suppress(ImportError):
            from torch.nn.attention.varlen import varlen_attn

            kernel = varlen_attn
    name = "torch.nn.attention.varlen" if kernel else "grouped scaled_dot_product_attention"
    rank_zero_info(f"Attention within documents: {name}")
    return kernel


@cache
def _takes_windows(kernel: Callable) -> bool:
    """torch has had windows since 2.12 (before, `is_causal` alone)."""
    return "window_size" in inspect.signature(kernel).parameters


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, scaling: float | None, window: int | None
) -> Tensor:
    """(T′, H, D). Its causal mask is aligned at each document's last token, which is right for prefixes."""
    kernel = _varlen_kernel(query.device)
    assert kernel is not None
    heads = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(heads, 1) if heads > 1 else x.contiguous() for x in (key, value))
    longest = int(documents.lengths.max()), int((documents.lengths + documents.prefixes).max())
    back = (-1 if window is None else window - 1, 0)
    causal: dict[str, Any] = {"window_size": back} if _takes_windows(kernel) else {"is_causal": True}
    return kernel(query.contiguous(), key, value, *documents.boundaries, *longest, scale=scaling, **causal)


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """No mask for a row of documents; while decoding, that of torch's attention, never left out."""
    if kwargs.get("attention_mask") is None:
        return None
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})


AttentionInterface.register(NAME, documents_attention)
AttentionMaskInterface.register(NAME, _mask)
