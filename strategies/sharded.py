"""FSDP2 on Lightning: parameters, gradients and optimizer states cut over the ranks, on GPUs or CPUs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


class Shardable(Protocol):
    """A network that says what can be cut."""

    forwards: Sequence[str]
    """methods beside `forward` that run the whole network"""

    def blocks(self) -> Sequence[nn.Module]:
        """The repeated blocks: each is gathered on its own when it is needed."""


class Sharded(ModelParallelStrategy):
    """Cuts networks that ask for it (`shard`) with `fully_shard`; a checkpoint is one file with full tensors.

    Args:
        data_parallel: ranks that share the rows and the parameters; all of them when missing.
        reshard_after_forward: free a block's gathered parameters until the backward pass; less memory, more
            communication.
        mixed_precision: dtypes of gathered parameters and of gradient reduction.
        cpu_offload: keep shards and optimizer states in CPU memory.
        backend: `nccl`, `gloo` (CPU); chosen by the device when missing.
        timeout: how long a rank waits for the others.
    """

    def __init__(
        self,
        data_parallel: int | None,
        reshard_after_forward: bool,
        mixed_precision: MixedPrecisionPolicy,
        cpu_offload: bool,
        backend: str | None,
        timeout: timedelta,
    ):
        super().__init__(
            data_parallel_size=data_parallel or "auto",
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=backend,
            timeout=timeout,
        )
        self.reshard_after_forward = reshard_after_forward
        self.mixed_precision = mixed_precision
        self.offload = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()

    def setup_environment(self) -> None:
        if self._data_parallel_size == "auto":
            self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, network: nn.Module) -> FSDPModule:
        """Cuts a network in place: each of its blocks, then the rest as a whole."""
        options: dict[str, Any] = {
            "mesh": self.device_mesh["data_parallel"],
            "mp_policy": self.mixed_precision,
            "offload_policy": self.offload,
        }
        for block in network.blocks():  # type: ignore[operator]
            fully_shard(block, reshard_after_forward=self.reshard_after_forward, **options)
        cut = fully_shard(network, **options)
        for method in network.forwards:  # type: ignore[union-attr]
            register_fsdp_forward_method(network, method)
        return cut

    @contextmanager
    def gathered(self, network: nn.Module) -> Iterator[None]:
        """All parameters whole on every rank while it lasts, for many forwards of inner modules in a row."""
        cut = [module for module in network.modules() if isinstance(module, FSDPModule)]
        for module in cut:  # gathered by the first forward, and then left so
            module.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for module in cut:
                module.set_reshard_after_forward(self.reshard_after_forward, recurse=False)
                module.reshard()

    def whole_state(self, module: nn.Module) -> dict[str, Tensor]:
        """Whole tensors in CPU memory on the first rank, nothing on the others; every rank must ask. Tied
        weights stay one tensor."""
        found: dict[str, Tensor] = {}
        seen: dict[int, Tensor] = {}
        for name, tensor in module.state_dict(keep_vars=True).items():
            if id(tensor) not in seen:
                seen[id(tensor)] = self._on_first_rank(tensor)
            found[name] = seen[id(tensor)]
        return found if self.is_global_zero else {}

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.whole_state(self.lightning_module)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As the optimizer's own, with whole tensors, so that any strategy can go on from it."""
        state = optimizer.state_dict()
        state["state"] = {
            parameter: {
                name: self._on_first_rank(value) if isinstance(value, Tensor) else value
                for name, value in entries.items()
            }
            for parameter, entries in state["state"].items()
        }
        return state

    def _on_first_rank(self, tensor: Tensor) -> Tensor:
        whole = tensor.detach()
        if isinstance(whole, DTensor):
            whole = whole.full_tensor()
        return whole.cpu() if self.is_global_zero else whole.new_empty(0)

    lightning_restore_optimizer = True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        whole = checkpoint["state_dict"]
        own = self.lightning_module.state_dict(keep_vars=True)
        if strict and own.keys() != whole.keys():
            names = ", ".join(sorted(own.keys() ^ whole.keys())[:3])
            raise ValueError(f"the checkpoint does not fit the network: it differs in {names}")
        for name, tensor in own.items():
            if name in whole:
                tensor.detach().copy_(_cut_like(whole[name], tensor))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for index, entries in state["state"].items():
                for name, value in entries.items():
                    if isinstance(value, Tensor) and value.shape == parameters[index].shape:
                        entries[name] = _cut_like(value, parameters[index])
            optimizer.load_state_dict(state)


def _cut_like(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor that every rank has, cut as another one is."""
    if not isinstance(like, DTensor):
        return whole
    whole = whole.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
