"""FSDP2 and tensor parallelism on Lightning: parameters, gradients and optimizer states sharded over the
ranks, on GPUs or CPUs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh
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

from strategies.checkpoints.mapped import mapped_file
from strategies.errors import UserError
from strategies.launched import Launched
from strategies.tensor import parallelize


class Shardable(Protocol):
    """A network that says what can be sharded."""

    @property
    def forwards(self) -> Sequence[str]:
        """Methods beside `forward` that run the whole network."""

    def blocks(self) -> Sequence[nn.Module]:
        """The repeated blocks: each is gathered on its own when it is needed."""

    def tp_plan(self, ranks: int) -> Mapping[str, str]:
        """What `ranks` ranks can share of a block: a module's name → transformers' name of the way.

        Raises:
            UserError: they cannot.
        """


class Sharded(Launched, ModelParallelStrategy):
    """Shards networks that ask for it, with `parallelize_module` and `fully_shard`; a checkpoint is
    one file with full tensors.

    Ranks lie in a grid, copies × shards × ranks of a tensor-parallel group; neighbours are in a group. The
    first two share the rows.

    Args: those of `strategies.fsdp` and `strategies.tensor_parallel`, and:
        shards: ranks over which FSDP shards parameters; None = all that share the rows.
        data_parallel: ranks, or groups of them, that share the rows; None = as many as there are.
        mixed_precision: dtypes of gathered parameters and of gradient reduction.
        timeout: how long a rank waits for the others.
    """

    clips_gradients = False
    lightning_module: LightningModule  # read by what runs when there is one

    def __init__(
        self,
        *,
        shards: int | None,
        tensor_parallel: int | None,
        data_parallel: int | None,
        reshard_after_forward: bool,
        mixed_precision: MixedPrecisionPolicy,
        cpu_offload: bool,
        gather_to_sample: bool,
        backend: str | None,
        timeout: timedelta,
    ):
        super().__init__(save_distributed_checkpoint=False, process_group_backend=backend, timeout=timeout)
        self.shards, self.tensor_parallel, self.data_parallel = shards, tensor_parallel, data_parallel
        self.reshard_after_forward = reshard_after_forward
        self.mixed_precision = mixed_precision
        self.cpu_offload = cpu_offload
        self.gather_to_sample = gather_to_sample

    def grid(self) -> tuple[int, int, int]:
        """Copies, shards and tensor-parallel ranks.

        Raises:
            UserError: they do not multiply to the ranks there are.
        """
        for name in ("shards", "tensor_parallel", "data_parallel"):
            if (getattr(self, name) or 1) < 1:
                raise UserError(f"trainer.strategy: {name} is {getattr(self, name)}: give 1 or more")
        ranks = self.num_nodes * self.num_processes
        tensor = self.tensor_parallel or max(1, ranks // (self.data_parallel or 1))
        data = self.data_parallel or max(1, ranks // tensor)
        if tensor * data != ranks:
            raise UserError(
                f"trainer.strategy: tensor_parallel {tensor} × data_parallel {data} = {tensor * data} ranks, "
                f"but the run has {ranks}: make them equal, or leave one of the two out"
            )
        shards = self.shards or data
        if data % shards:
            problem = f"shards is {shards}, but {data} ranks share the rows"
            raise UserError(f"trainer.strategy: {problem}: give a divisor of {data}")
        if data == 1 < tensor and (self.cpu_offload or self.mixed_precision.param_dtype):
            raise UserError(
                "trainer.strategy: cpu_offload and parameters are FSDP2's, for which data_parallel 1 leaves "
                "nothing: leave them out, or make more groups"
            )
        return data // shards, shards, tensor

    @property
    def data_ranks(self) -> int:
        """Ranks, or groups of them, that share the rows of a step; known before the processes have met."""
        copies, shards, _ = self.grid()
        return copies * shards

    def setup_environment(self) -> None:
        if self.cpu_offload and self.root_device.type == "cuda" and self._process_group_backend is None:
            self._process_group_backend = "cuda:nccl,cpu:gloo"  # shards are gathered from CPU memory too
        # the parent's own makes a mesh of two dimensions; hybrid sharding needs a third
        ParallelStrategy.setup_environment(self)
        self._setup_distributed()
        mesh = init_device_mesh(
            self.root_device.type, self.grid(), mesh_dim_names=("copies", "shards", "tensor_parallel")
        )
        self._data_mesh = mesh["copies", "shards"]._flatten("data_parallel")
        self._device_mesh = mesh
        self.lightning_module._device_mesh = mesh  # what a module's own `device_mesh` gives

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        return {"num_replicas": self._data_mesh.size(), "rank": self._data_mesh.get_local_rank()}

    def data_group(self) -> ProcessGroup:
        """One rank of every group that reads the same rows."""
        return self._data_mesh.get_group()

    def setup_optimizers(self, trainer: Any) -> None:
        """Without the parent's forgetting first what the last fit had, from which a stage goes on."""
        ParallelStrategy.setup_optimizers(self, trainer)

    def carry_over(self, optimizer: Optimizer) -> bool:
        """There is no engine: the optimizer's own states are those of the parameters."""
        return False

    def shard(self, network: Any) -> Any:
        """Shards a network in place: its matrices over a tensor-parallel group, then each of its blocks, and
        the rest as a whole, over the ranks that share the rows; then makes it fp32."""
        copies, shards, tensor = self.grid()
        if tensor > 1:
            parallelize(network, self.device_mesh["tensor_parallel"], network.tp_plan(tensor))
            if copies * shards == 1:
                return network.float()
        pinned = self.root_device.type == "cuda"
        options: dict[str, Any] = {
            "mesh": self.device_mesh["copies", "shards"] if copies > 1 else self.device_mesh["shards"],
            "mp_policy": self.mixed_precision,
            "offload_policy": CPUOffloadPolicy(pinned) if self.cpu_offload else OffloadPolicy(),
        }
        for block in network.blocks():
            fully_shard(block, reshard_after_forward=self.reshard_after_forward, **options)
        fully_shard(network, **options)
        for method in network.forwards:
            register_fsdp_forward_method(network, method)
        return network.float()

    def model_to_device(self) -> None:
        """What FSDP2 keeps in CPU memory stays there."""
        if not self.cpu_offload:
            super().model_to_device()
            return
        device = self.root_device  # `Module.to` would move all tensors alike
        self.lightning_module._apply(
            lambda tensor: tensor if isinstance(tensor, DTensor) else tensor.to(device)
        )
        self.lightning_module._device = device  # what its `device` gives; Lightning sets it in `to`

    @contextmanager
    def unsharded(self, network: nn.Module) -> Iterator[None]:
        """While it lasts, for many forwards in a row: full parameters on every rank, or gathered block by
        block as long as `any_rank` keeps the ranks in step."""
        sharded = [module for module in network.modules() if isinstance(module, FSDPModule)]
        blocks = [module for module in sharded if module is not network] if self.gather_to_sample else []
        for module in blocks:  # gathered by the first forward, and then left so, as the rest is anyway
            module.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for module in blocks:
                module.set_reshard_after_forward(self.reshard_after_forward, recurse=False)
            for module in sharded:
                module.reshard()

    def any_rank(self, flag: Tensor) -> bool:
        """Whether a scalar bool is true on this rank or, where ranks must keep in step, on any."""
        if not self.gather_to_sample:
            flag = flag.int()
            dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.data_group())
        return bool(flag)

    def microbatch(self, last: bool) -> nn.Module:
        """The stage itself: FSDP2 reduces gradients after every micro-batch, and needs not know the last."""
        return self.lightning_module

    def grad_norm(self, network: nn.Module) -> Tensor:
        """The norm of one network's gradients, counted on all ranks, before clipping."""
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def full_state_dict(self, module: nn.Module) -> dict[str, Tensor]:
        """Full tensors in CPU memory on the first rank, nothing on the others; every rank must ask. Tied
        weights stay one tensor."""
        own = module.state_dict(keep_vars=True)
        full = {tensor: self._on_first_rank(tensor) for tensor in dict.fromkeys(own.values())}
        return {name: full[tensor] for name, tensor in own.items()} if self.is_global_zero else {}

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return self.full_state_dict(self.lightning_module)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As the optimizer's own, with full tensors, so that any strategy can go on from it."""
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
        full = tensor.detach()
        if isinstance(full, DTensor):
            full = full.full_tensor()
        return full.cpu() if self.is_global_zero else full.new_empty(0)

    lightning_restore_optimizer = True  # `ModelParallelStrategy` would load the optimizer with the model

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """A file is mapped into memory, so that a rank reads its own part of the tensors alone."""
        if Path(checkpoint_path).is_file():
            return mapped_file(Path(checkpoint_path))
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        full = checkpoint["state_dict"]
        own = self.lightning_module.state_dict(keep_vars=True)
        if strict and own.keys() != full.keys():
            names = ", ".join(sorted(own.keys() ^ full.keys())[:3])
            raise UserError(f"the checkpoint does not fit the network: it differs in {names}")
        for name, tensor in own.items():
            if name in full:
                tensor.detach().copy_(_sharded_like(full[name], tensor))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for index, entries in state["state"].items():
                for name, value in entries.items():
                    if isinstance(value, Tensor) and value.shape == parameters[index].shape:
                        entries[name] = _sharded_like(value, parameters[index])
            optimizer.load_state_dict(state)


def _sharded_like(full: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a full tensor that every rank has, sharded as another one is."""
    if not isinstance(like, DTensor):
        return full
    full = full.to(like.device)
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
