"""What a stage asks of its strategy, and the answers where no network is sharded.

`strategies.fsdp2.Sharded` and `strategies.zero.ZeRO` answer for themselves; neither imports this file, mypy
compares them with it in `experiments/cli/contracts.py`.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer

from modules.clipping import total_norm


@runtime_checkable
class Sharding(Protocol):
    """What a stage asks of its strategy."""

    @property
    def clips_gradients(self) -> bool:
        """Whether an engine clips the gradients, within its optimizer step."""

    def shard(self, network: Any) -> Any:
        """The network as it is trained: sharded over the ranks where the strategy does that, in fp32 unless
        an engine keeps fp32 copies."""

    def unsharded(self, network: Any) -> AbstractContextManager[None]:
        """While it lasts, the inner modules of a sharded network can be called many times in a row."""

    def any_rank(self, flag: Tensor) -> bool:
        """Whether a scalar bool is true on this rank or, where ranks must call a sharded network in step, on
        any of them."""

    def microbatch(self, last: bool) -> nn.Module:
        """What manual optimisation calls for the forward of one micro-batch: the stage, or the engine around
        it. After the backward of the last one the optimizer steps."""

    def grad_norm(self, network: nn.Module) -> Tensor:
        """The norm of one network's gradients after the last backward of a step, before clipping; asked of
        the whole stage where an engine clips, the norm that its last optimizer step had."""

    def full_state_dict(self, module: nn.Module) -> dict[str, Tensor]:
        """A module's full tensors by its own names; the first rank gets them, all must ask."""

    def data_group(self) -> Any:
        """The process group of ranks with different rows; None = all ranks."""

    def carry_over(self, optimizer: Optimizer) -> bool:
        """Whether an engine gives a new optimizer the states of its trainer's last fit; where it does, it
        has its hyperparameters now."""


class Unsharded:
    """The answers to a stage of one process, and of Lightning's own strategies such as DDP, under which every
    rank has the whole network."""

    clips_gradients = False

    def __init__(self, stage: nn.Module):
        self.stage = stage

    def shard(self, network: nn.Module) -> nn.Module:
        return network.float()

    def unsharded(self, network: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def any_rank(self, flag: Tensor) -> bool:
        return bool(flag)

    def microbatch(self, last: bool) -> nn.Module:
        return self.stage

    def grad_norm(self, network: nn.Module) -> Tensor:
        return total_norm(network.parameters())

    def full_state_dict(self, module: nn.Module) -> dict[str, Tensor]:
        return module.state_dict()

    def data_group(self) -> None:
        return None

    def carry_over(self, optimizer: Optimizer) -> bool:
        return False
