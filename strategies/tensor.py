"""Tensor parallelism: matrices of a block cut over the ranks of a group, by the plan that the network has."""

import re
from collections.abc import Callable, Mapping
from typing import Any

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

STYLES: dict[str, Callable[[], ParallelStyle]] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
    "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
    "rowwise_split_input": lambda: RowwiseParallel(input_layouts=Replicate()),
}
"""transformers' names of what is cut, and how torch does it"""
WHOLE = {"embedding_rowwise": False, "replicated_with_grad_allreduce": True}
"""names of what every rank keeps → whether it sees this rank's heads alone, so that gradients are summed"""


def parallelize(network: nn.Module, mesh: DeviceMesh, plan: Mapping[str, str]) -> None:
    """Cuts a network in place; every parameter becomes a `DTensor` on `mesh`, those outside the plan whole.

    Args:
        network: the same weights on every rank.
        mesh: of the group's ranks, one-dimensional.
        plan: a module's name, with `*` for a number → one of `STYLES` or `WHOLE`.

    Raises:
        UserError: the plan asks for another style.
    """
    unknown = sorted(set(plan.values()) - STYLES.keys() - WHOLE.keys())
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
            _free_the_rest(module)
        elif any(True for _ in module.parameters(recurse=False)):
            _keep_whole(module, mesh, WHOLE.get(str(style), False), distributed)


def _free_the_rest(module: nn.Module) -> None:
    """A cut made of a view would hold the whole tensor's memory."""
    for parameter in module.parameters(recurse=False):
        assert isinstance(parameter, DTensor)
        local = parameter.to_local().detach()
        if local.untyped_storage().nbytes() > local.nbytes:
            parameter._local_tensor = local.clone()


def _keep_whole(
    module: nn.Module, mesh: DeviceMesh, partial: bool, distributed: dict[Tensor, nn.Parameter]
) -> None:
    """Every rank computes `module` as it is, on plain tensors."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter not in distributed:
            whole = distribute_tensor(parameter.detach(), mesh, [Replicate()], src_data_rank=None)
            distributed[parameter] = nn.Parameter(whole, parameter.requires_grad)
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
