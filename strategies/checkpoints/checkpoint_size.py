"""How many bytes a checkpoint of a run takes, under any strategy, before it is written."""

import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from strategies.upstream import full_shape
from strategies.zero import ZeRO

MASTER = 4  # bytes: DeepSpeed keeps trained weights in fp32 beside those of the network


class Saved(NamedTuple):
    """What of a stage's networks a checkpoint holds, of all ranks together."""

    weights: int  # bytes
    trained: int  # numbers that are trained
    width: int  # bytes of one of these


def saved_of(network: nn.Module) -> Saved:
    """What a checkpoint holds of a stage whose networks are there, sharded or not."""
    tensors = {id(tensor): tensor for tensor in network.state_dict(keep_vars=True).values()}.values()
    trained = [p for p in tensors if isinstance(p, nn.Parameter) and p.requires_grad]
    weights = sum(_numbers(tensor) * tensor.element_size() for tensor in tensors)
    return Saved(weights, sum(map(_numbers, trained)), trained[0].element_size() if trained else MASTER)


def checkpoint_bytes(strategy: Any, saved: Saved, states: int | None, averages: int = 0) -> int:
    """Bytes of one checkpoint, of all ranks together.

    Args:
        strategy: of the trainer.
        saved: of the stage.
        states: bytes that the optimizer keeps for each trained number; None = nothing but weights is saved.
        averages: further copies of the weights.
    """
    if not isinstance(strategy, ZeRO):
        return saved.weights * (1 + averages) + (states or 0) * saved.trained
    weights = saved.weights
    if strategy.zero_stage_3:  # the engine's own weights are not saved beside the optimizer's
        weights -= saved.trained * saved.width
    return weights + (0 if states is None else MASTER + states * MASTER // saved.width) * saved.trained


def _numbers(tensor: Tensor) -> int:
    return math.prod(full_shape(tensor))
