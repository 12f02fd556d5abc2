"""The loss of every token from hidden states and a head's weight; its logits never exist as a whole.

torch has it from 2.13 on (`F.linear_cross_entropy` with `options`); for torch 2.11 and 2.12 there is one of
ours with the same chunks and the same numbers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORED = -100  # a label that is not trained on: `F.cross_entropy`'s own default
TORCH_HAS_ITS_OWN = hasattr(nn, "LinearCrossEntropyOptions")


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, chunk: int = 512
) -> Tensor:
    """The cross-entropy of `hidden @ weight.T + bias` with `labels`, `chunk` tokens at a time.

    Memory: `chunk` · V logits, forward and backward, however many tokens there are. The arguments' dtype is
    the matrix products'; autocast is not consulted, the caller has decided. Differentiable once.

    Args:
        hidden: (N, D).
        weight: (V, D), of the same dtype.
        labels: (N,) int64, −100 = not trained.
        bias: (V,), of the same dtype.
        chunk: tokens whose logits exist at the same time.

    Returns:
        (N,) losses in nats, 0 where the label is −100.
    """
    if not TORCH_HAS_ITS_OWN:
        return chunked_linear_cross_entropy(hidden, weight, labels, bias, chunk)
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk)
    return F.linear_cross_entropy(hidden, weight, labels, linear_bias=bias, reduction="none", options=options)


def chunked_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, chunk: int = 512
) -> Tensor:
    """`linear_cross_entropy` by ours alone. Half-precision logits are summed, and losses given, in fp32."""
    return _ChunkedLinearCrossEntropy.apply(hidden, weight, labels, bias, chunk)


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    """Computes the logits again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, chunk: int
    ) -> Tensor:
        losses = hidden.new_empty(len(hidden), dtype=_sum_dtype(hidden))
        for part in _parts(len(hidden), chunk):
            losses[part] = _losses(_logits(hidden[part], weight, bias), labels[part])
        ctx.save_for_backward(hidden, weight, labels, bias)
        ctx.chunk = chunk
        return losses.masked_fill_(labels == IGNORED, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, bias = ctx.saved_tensors
        wants_hidden, wants_weight, _, wants_bias, _ = ctx.needs_input_grad
        dtype = _sum_dtype(hidden)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=dtype) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=dtype) if wants_bias else None
        grad_losses = grad_losses.masked_fill(labels == IGNORED, 0)
        for part in _parts(len(hidden), ctx.chunk):
            grads = _gradients(_logits(hidden[part], weight, bias), labels[part], grad_losses[part])
            with torch.autocast(hidden.device.type, enabled=False):
                if grad_bias is not None:
                    grad_bias += grads.sum(0, dtype=dtype)
                if grad_hidden is not None:
                    grad_hidden[part] = grads @ weight
                if grad_weight is not None:
                    grad_weight += grads.T @ hidden[part]
            del grads  # before the next part's
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
        )


# functions, so that a part's fp32 numbers are gone before the next part's logits come; given `dtype`, a GPU
# reads half-precision logits and writes fp32 in one kernel
def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, V) and (N,) → (N,); of a label of −100, whichever: it is no index, and set to 0 later."""
    logprobs = logits.log_softmax(-1, dtype=_sum_dtype(logits))
    return -logprobs.gather(1, labels.clamp(min=0)[:, None]).squeeze(1)


def _gradients(logits: Tensor, labels: Tensor, grad_losses: Tensor) -> Tensor:
    """(N, V) of the logits, in their place: softmax(logits) − onehot(label), times that of the loss."""
    grads = logits.softmax(-1, dtype=_sum_dtype(logits))
    target = labels.clamp(min=0)[:, None]
    grads.scatter_add_(1, target, torch.full_like(target, -1, dtype=grads.dtype))
    return torch.mul(grads, grad_losses[:, None], out=logits)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden, weight, bias)


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _parts(length: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, length, chunk)]
