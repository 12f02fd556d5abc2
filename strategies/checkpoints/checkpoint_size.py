"""How many bytes a checkpoint of a run takes, under any strategy, before it is written."""

import math
from typing import Any

from torch import Tensor, nn

from strategies.upstream import full_shape
from strategies.zero import ZeRO

MASTER = 4  # bytes: DeepSpeed keeps trained weights in fp32 beside those of the network


def checkpoint_bytes(strategy: Any, network: nn.Module, states: int | None, averages: int = 0) -> int:
    """Bytes of one checkpoint, of all ranks together.

    Args:
        strategy: of the trainer, once it has shards.
        network: the stage.
        states: bytes that the optimizer keeps for each trained number; None = nothing but weights is saved.
        averages: further copies of the weights.
    """
    tensors = {id(tensor): tensor for tensor in network.state_dict(keep_vars=True).values()}.values()
    trained = [p for p in tensors if isinstance(p, nn.Parameter) and p.requires_grad]
    weights = sum(_numbers(tensor) * tensor.element_size() for tensor in tensors)
    if not isinstance(strategy, ZeRO):
        return weights * (1 + averages) + (states or 0) * sum(map(_numbers, trained))
    if strategy.zero_stage_3:  # the engine's own weights are not saved beside the optimizer's
        weights -= sum(_numbers(tensor) * tensor.element_size() for tensor in trained)
    each = MASTER + states * MASTER // trained[0].element_size() if states is not None and trained else 0
    return weights + each * sum(map(_numbers, trained))


def _numbers(tensor: Tensor) -> int:
    return math.prod(full_shape(tensor))
