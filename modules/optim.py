"""The optimizer that stages take by default, parameter groups, and the learning rate's schedule."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from modules.hf_config import in_a_line


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
    # a parameter that DeepSpeed has sharded has the shape (0,) itself, and a `ds_shape`
    matrices = {p for p in parameters if len(getattr(p, "ds_shape", p.shape)) >= 2}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p in matrices]},
        {"params": [p for p in parameters if p not in matrices], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


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


def warmup_stable_decay(
    optimizer: Optimizer, warmup: int, total: int, floor: float, share: float
) -> LambdaLR:
    """Linear warm-up, the peak, then a line down to `floor` × the peak over the last `share` of the run (Hu
    et al. 2024, "MiniCPM", §4). Runs of several lengths have the same steps until the first of them decays.

    Args:
        optimizer, warmup, total, floor: as of `warmup_cosine`.
        share: of all steps, above 0 and up to 1.
    """
    decay = share * total

    def factor(step: int) -> float:
        left = min(1.0, max(0.0, (total - step) / decay))
        return min((step + 1) / (warmup + 1), floor + (1 - floor) * left)

    return LambdaLR(optimizer, factor)


def set_rates(scheduler: LambdaLR) -> None:
    """Sets the learning rates of the step that a schedule stands at, as a step of it would have."""
    schedules = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, peak, factor in schedules:
        group["lr"] = peak * factor(scheduler.last_epoch)


def endless_warmup(warmup_steps: int, steps: int) -> str:
    """The line that refuses a warm-up longer than the run."""
    return (
        f"model.warmup_steps is {warmup_steps}, but the run has {steps} optimizer steps: the learning rate "
        "would never reach its peak; warm up for fewer, or train for more"
    )


def endless_run_errors(max_steps: int, max_epochs: int | None, min_lr_ratio: float) -> list[str]:
    """The line that refuses a falling learning rate in a run without a last step; −1 is no limit."""
    if max_steps != -1 or max_epochs != -1 or min_lr_ratio == 1:
        return []
    return [
        f"model.min_lr_ratio is {min_lr_ratio:g}, but the run has no last step for the learning rate to fall "
        "to (trainer.max_epochs is -1): give trainer.max_steps or max_epochs, or model.min_lr_ratio: 1"
    ]


def schedule_errors(
    warmup_steps: int, min_lr_ratio: float, decay_share: float | None, max_steps: int
) -> list[str]:
    """What is wrong with a schedule, a line each; `max_steps` is −1 where it is not known ahead."""
    errors = []
    if warmup_steps < 0:
        errors.append(f"model.warmup_steps is {warmup_steps}: give 0 or more")
    if 0 < max_steps <= warmup_steps:
        errors.append(endless_warmup(warmup_steps, max_steps))
    if not 0 <= min_lr_ratio <= 1:
        errors.append(f"model.min_lr_ratio is {min_lr_ratio}: give a share of the peak between 0 and 1")
    if decay_share is not None and not 0 < decay_share <= 1:
        errors.append(f"model.decay_share is {decay_share}: give a share of the run above 0 and up to 1")
    return errors


def optimizer_errors(make: Callable[[list[dict]], Optimizer], rates: Mapping[str, float]) -> list[str]:
    """What is wrong with an optimizer's options, a line each; it is made once, of two numbers in two groups,
    and takes a step where it runs anywhere. `rates` are peak learning rates by their fields; without any the
    optimizer's own counts."""
    if wrong := _wrong_rates(rates):
        return wrong
    vectors = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    try:
        optimizer = make([{"params": [vectors[0]]}, {"params": [vectors[1]], "weight_decay": 0.0}])
        own = {} if rates else {"model.optimizer's lr": optimizer.param_groups[0]["lr"]}
        return _wrong_rates(own) or _try_step(optimizer, vectors)
    except Exception as error:  # as many kinds as there are optimizers
        return [f"model.optimizer: {in_a_line(error)}"]


def _try_step(optimizer: Optimizer, vectors: list[nn.Parameter]) -> list[str]:
    """A step of one of torch's optimizers or transformers', without complaints: some refuse dense gradients,
    want a closure, or another type of an option, only then."""
    if type(optimizer).__module__.startswith(("torch.optim", "transformers.")):
        for vector in vectors:
            vector.grad = torch.ones(1)
        try:
            optimizer.step()
        except TypeError as error:  # which names no option
            options = ", ".join(f"{name}={value}" for name, value in optimizer.defaults.items())
            return [f"model.optimizer: {in_a_line(error)}, with {options}: give it others"]
    return []


def _wrong_rates(rates: Mapping[str, float]) -> list[str]:
    wrong = {name: rate for name, rate in rates.items() if not 0 < rate < math.inf}
    return [f"{name} is {rate:g}: give a number above 0" for name, rate in wrong.items()]
