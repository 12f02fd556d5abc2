"""What a stage asks of its strategy: ours answer for themselves, before processes have met too; under all
others the answers are those of one process."""

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

import strategies
from modules import SFTModule
from modules.sharding import Sharding, Unsharded


@pytest.mark.parametrize("make", [strategies.fsdp, strategies.tensor_parallel, strategies.deepspeed])
def test_strategies_that_shard_answer_for_themselves(make):
    """The check looks at every attribute: one that is a property would fail before the processes have met,
    and a sharded run would train as if it were not."""
    assert isinstance(make(), Sharding)


@pytest.mark.parametrize("strategy", [strategies.ddp(), SingleDeviceStrategy(torch.device("cpu"))])
def test_other_strategies_are_answered_for(strategy):
    assert not isinstance(strategy, Sharding)


def test_without_a_strategy_nothing_is_sharded():
    stage = SFTModule("anywhere")
    sharding = stage.sharding
    assert isinstance(sharding, Unsharded)
    layer = torch.nn.Linear(2, 1, dtype=torch.bfloat16)
    assert sharding.shard(layer).weight.dtype == torch.float32
    assert sharding.microbatch(last=True) is stage
    assert sharding.any_rank(torch.tensor(True)) is True
    assert not sharding.clips_gradients
    layer.weight.grad, layer.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    assert sharding.grad_norm(layer) == 5
