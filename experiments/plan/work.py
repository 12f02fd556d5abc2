"""What a run has to do: tokens, steps, FLOPs."""

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from experiments.cli.parser import parse_data
from experiments.cli.user_errors import UserError
from experiments.plan.config import Run, fit_line
from experiments.plan.network_sizes import Sizes
from experiments.plan.scaling import forward_flops_per_token, training_flops


class Work(NamedTuple):
    """The work of a run; None where the number of steps is not known."""

    step_tokens: int  # of an optimizer step (PPO: an iteration), over all ranks
    steps: int | None  # optimizer steps
    tokens: int | None  # tokens of all rows, each counted once however often PPO passes over it
    forward_flops_per_token: int  # of the trained network (PPO: of the actor)
    flops: float | None  # of the whole run, matrix products counted exactly
    flops_6nd: float | None  # 6·N·D


class DataLengths(NamedTuple):
    """What reading the data tells."""

    row_tokens: float  # mean tokens of a row
    steps_per_epoch: int  # PPO: iterations


def work(run: Run, tokens: int | None = None, lengths: DataLengths | None = None) -> Work:
    """The work of a run: as long as a budget of tokens, where it is given, else as configured; the number of
    steps may also follow from the data, where it was read."""
    updates, passes = (run.sampling.updates, run.sampling.epochs) if run.sampling else (1, 1)
    step_tokens = run.step_tokens
    if lengths is not None:
        new_tokens = run.sampling.new_tokens if run.sampling else 0
        step_tokens = round(run.step_rows * min(run.tokens, lengths.row_tokens + new_tokens))
    steps = run.steps
    if tokens is not None:
        steps = -(-tokens // step_tokens) * updates
    elif steps is None and lengths is not None:
        steps = lengths.steps_per_epoch * run.epochs * updates
    total = None if steps is None else -(-steps // updates) * step_tokens
    forward = [forward_flops(network.sizes, run.tokens) for network in run.networks]
    trained = [network.trained for network in run.networks]
    flops = 3 * passes * sum(compress(forward, trained))  # of a token: forward once and backward twice
    if run.sampling:
        flops += forward[0] + sum(forward)  # the actor samples it, and all four networks read it
    parameters = sum(network.sizes.parameters for network in run.networks if network.trained)
    return Work(
        step_tokens=step_tokens,
        steps=steps,
        tokens=total,
        forward_flops_per_token=forward[0],
        flops=None if total is None else float(total * flops),
        flops_6nd=None if total is None else training_flops(parameters, total * passes),
    )


def forward_flops(sizes: Sizes, tokens: int) -> int:
    """FLOPs of a network's forward pass for one token of a row of so many."""
    return forward_flops_per_token(sizes.matmul, sizes.layers, sizes.heads * sizes.head_size, tokens)


def read_lengths(files: Sequence[str], overrides: Sequence[str]) -> DataLengths:
    """Encodes the data (into the cache that `fit` uses) and counts it.

    Raises:
        UserError: a mistake in the data.
    """
    data: Any = parse_data(fit_line(files, overrides))
    if errors := data.config_errors(1):
        raise UserError("\n".join(errors))
    data.splits = data.read()
    lengths = data.splits["train"].lengths[np.arange(len(data.splits["train"]))]
    return DataLengths(float(np.mean(lengths)), data.steps_per_epoch)
