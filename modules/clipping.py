"""The norm of all gradients together, clipping by it, and what fp16's gradient scaler asks of both."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.backbone import full_tensor
from modules.errors import UserError


def total_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, a scalar; those of a sharded network are counted on all ranks."""
    return full_tensor(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def clip_to_norm(optimizer: Optimizer, max_norm: float | None) -> Tensor:
    """The norm of all gradients of `optimizer`, which are then scaled down to `max_norm` where that is above
    0, as Lightning does: by a norm below 0 they would be turned round. Where the norm is not finite no
    gradient is left, so that the step changes nothing.

    Lightning's own `clip_gradients` refuses a fused optimizer under mixed precision, which is right only
    where a gradient scaler is at work (fp16).
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    full = full_tensor(norm)
    if not torch.isfinite(full):  # the same on all ranks, whose gradients have been summed
        for parameter in parameters:
            parameter.grad = None
    elif max_norm is not None and max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return full


def check_scaler(precision_plugin: Any, optimizer: Optimizer, automatic: bool) -> None:
    """Where a gradient scaler is at work, the norm to clip by must be of gradients that are no longer scaled.

    Args:
        precision_plugin: the Trainer's; under `16-mixed` Lightning's has a `scaler`.
        optimizer: of the stage.
        automatic: whether Lightning steps it: it unscales the gradients of an unfused one before clipping.

    Raises:
        UserError: they are unscaled later than that.
    """
    if getattr(precision_plugin, "scaler", None) is None:
        return
    if not automatic:
        raise UserError(
            "trainer.precision 16-mixed scales the gradients, which this stage would clip as they are: "
            "give bf16-mixed, or the strategy `strategies.deepspeed`"
        )
    if any(group.get("fused") for group in optimizer.param_groups):
        raise UserError(
            "trainer.precision 16-mixed scales the gradients, which a fused optimizer unscales after "
            "they were to be clipped: give bf16-mixed, or `model.optimizer.init_args.fused: false`"
        )
