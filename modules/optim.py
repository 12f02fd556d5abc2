"""The optimizer that stages take by default, parameter groups, and the learning rate's schedule."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class AdamW(torch.optim.AdamW):
    """torch's AdamW, fused, with the betas of language models.

    A class, because jsonargparse can write the default of a stage into a run's config only where all its
    arguments are plain constants.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: decay of the running means of the gradient and of its square.
        eps: added to the root of the second.
        weight_decay: decoupled, a share of the weight times `lr`, per step.
        fused: all of a group's parameters in one kernel.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        fused: bool = True,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)


def decay_groups(modules: Iterable[nn.Module]) -> list[dict]:
    """Two parameter groups: matrices decay as the optimizer says, vectors (norms, biases) never."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if len(_shape(p)) >= 2]},
        {"params": [p for p in parameters if len(_shape(p)) < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _shape(parameter: nn.Parameter) -> Sequence[int]:
    """The whole shape, where DeepSpeed has cut a parameter too."""
    return getattr(parameter, "ds_shape", parameter.shape)


def warmup_cosine(optimizer: Optimizer, warmup: int, total: int, floor: float) -> LambdaLR:
    """Linear warm-up over `warmup` steps, then a cosine down to `floor` × the peak at step `total`.

    Args:
        optimizer: its learning rates are the peaks.
        warmup: optimizer steps; the first step already has 1/(warmup + 1) of the peak, never 0.
        total: optimizer steps of the whole run.
        floor: a share of the peak; 1 keeps the peak.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
