"""A second fit of the same trainer under DeepSpeed, which gets a new engine: what this rank's optimizer kept
in the one before goes on in it, number for number."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from strategies.checkpoints.mapped import is_moment
from strategies.upstream import end_engine, flat_fp32_weights

COUNTERS = ("global_steps", "global_samples", "skipped_steps")


class KeptStates(NamedTuple):
    """What this rank has of a run, in CPU memory. An engine that trains the same parameters in the same
    groups has flat tensors of the same sizes."""

    weights: list[Tensor]
    """fp32, each flat tensor"""
    states: list[dict[str, Any]]
    """what the optimizer keeps for each of them"""
    counters: dict[str, int]
    loss_scaler: dict[str, Any]


def end_and_keep(engine: Any) -> KeptStates:
    """Ends a training engine, so that its device memory is free, and gives what a new one goes on with."""
    zero = engine.optimizer
    flats = flat_fp32_weights(zero)
    kept = KeptStates(
        [flat.detach().to("cpu") for flat in flats],
        [
            {key: value.to("cpu") if is_moment(value) else value for key, value in state.items()}
            for state in (zero.optimizer.state[flat] for flat in flats)
        ],
        {name: getattr(engine, name) for name in COUNTERS},
        dict(vars(zero.loss_scaler)),
    )
    end_engine(engine)
    return kept


@torch.no_grad()
def go_on_with(engine: Any, kept: KeptStates) -> None:
    """Puts what an engine had in the place of what a new one has."""
    zero = engine.optimizer
    for flat, weight, state in zip(flat_fp32_weights(zero), kept.weights, kept.states, strict=True):
        flat.copy_(weight)
        own = zero.optimizer.state[flat]
        for key, value in state.items():
            if is_moment(value) and key in own:
                own[key].copy_(value)  # the parameters have views of it
            else:
                own[key] = value.to(flat.device) if is_moment(value) else value
    vars(engine).update(kept.counters)
    vars(zero.loss_scaler).update(kept.loss_scaler)
