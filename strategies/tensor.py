"""Tensor parallelism: matrices of a block sharded over the ranks of a group, by the network's own plan."""

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from strategies.errors import UserError
from strategies.upstream import free_full_tensor

STYLES: dict[str, Callable[[], ParallelStyle]] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
    "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
    "rowwise_split_input": lambda: RowwiseParallel(input_layouts=Replicate()),
}
"""transformers' names of what is sharded, and how torch does it"""
REPLICATED = {"embedding_rowwise": False, "replicated_with_grad_allreduce": True}
"""names of what every rank keeps → whether it sees this rank's heads alone, so that gradients are summed"""


def parallelize(network: nn.Module, mesh: DeviceMesh, plan: Mapping[str, str]) -> None:
    """Shards a network in place; every parameter becomes a `DTensor` on `mesh`, replicated outside the plan.

    Args:
        network: the same weights on every rank.
        mesh: of the group's ranks, one-dimensional.
        plan: a module's name, with `*` for a number → one of `STYLES` or `REPLICATED`.

    Raises:
        UserError: the plan asks for another style.
    """
    unknown = sorted(set(plan.values()) - STYLES.keys() - REPLICATED.keys())
    if unknown:
        raise UserError(
            f"trainer.strategy: the network's tensor-parallel plan asks for `{'`, `'.join(unknown)}`, which "
            "strategies.tensor_parallel does not have: use strategies.fsdp"
        )
    patterns = {re.compile(re.escape(name).replace(r"\*", r"\d+")): style for name, style in plan.items()}
    distributed: dict[Tensor, nn.Parameter] = {}  # tied weights stay one
    for name, module in list(network.named_modules()):
        style = next((style for pattern, style in patterns.items() if pattern.fullmatch(name)), None)
        if style in STYLES:
            parallelize_module(module, mesh, STYLES[style](), src_data_rank=None)
            for parameter in module.parameters(recurse=False):
                free_full_tensor(cast(DTensor, parameter))
        elif any(True for _ in module.parameters(recurse=False)):
            _replicate(module, mesh, REPLICATED.get(str(style), False), distributed)


def _replicate(
    module: nn.Module, mesh: DeviceMesh, partial: bool, distributed: dict[Tensor, nn.Parameter]
) -> None:
    """Every rank computes `module` as it is, on plain tensors.

    `parallelize_module` has no style for that: its `NoParallel` is private, and computes on `DTensor`s, for
    which norms and embeddings would need rules of their own.
    """
    for name, parameter in module.named_parameters(recurse=False):
        if parameter not in distributed:
            full = distribute_tensor(parameter.detach(), mesh, [Replicate()], src_data_rank=None)
            distributed[parameter] = nn.Parameter(full, parameter.requires_grad)
        module.register_parameter(name, distributed[parameter])
    forward, group = module.forward, mesh.get_group()

    def summed(gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient, group=group)
        return gradient

    def on_plain_tensors(*args: Any, **kwargs: Any) -> Any:
        own = dict(module._parameters)
        try:
            for name, parameter in own.items():
                if isinstance(parameter, DTensor):
                    local = parameter.to_local()
                    if partial and local.requires_grad:
                        local.register_hook(summed)
                    module._parameters[name] = local  # type: ignore[assignment]
            return forward(*args, **kwargs)
        finally:
            module._parameters.update(own)

    module.forward = on_plain_tensors  # type: ignore[method-assign]
