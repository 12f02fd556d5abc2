"""What DeepSpeed and torch keep private and a strategy cannot do without, each behind a name that says what
is missing upstream. Read at DeepSpeed 0.19.8, torch 2.11 and 2.13: look here first when one of them is
raised.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch.strategies.deepspeed import remove_module_hooks
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

FORWARD_HOOKS = tuple(f"_forward_{kind}hooks{end}" for kind in ("pre_", "") for end in ("", "_with_kwargs"))
"""torch can add and remove single hooks; DeepSpeed keeps no handles of its own"""


def is_sharded(tensor: Tensor) -> bool:
    """Whether stage 3 has sharded a parameter: `ds_id` is among the attributes that it then has."""
    return hasattr(tensor, "ds_id")


def full_shape(tensor: Tensor) -> torch.Size:
    """The shape of a parameter that stage 3 may have sharded, which has the shape (0,) itself."""
    return getattr(tensor, "ds_shape", tensor.shape)


def has_fp32_copy(tensor: Tensor) -> bool:
    """Whether DeepSpeed's optimizer trains a parameter: stages 1 and 2 mark those, stage 3 all of the module,
    and `safe_get_full_fp32_param` fails where it does not."""
    return hasattr(tensor, "_hp_mapping") or (hasattr(tensor, "_z3_optimizer") and tensor.requires_grad)


class OwnPart(NamedTuple):
    """What this rank's optimizer keeps of a parameter."""

    flat: Tensor
    """the optimizer's tensor that it is in"""
    start: int
    """where in it"""
    low: int
    """where in the parameter"""
    length: int

    def write(self, into: Tensor, full: Tensor) -> None:
        """Copies the part of a full tensor into one laid out as the flat one is; padding stays as it is."""
        numbers = full.flatten()[self.low : self.low + self.length]
        into[self.start : self.start + numbers.numel()].copy_(numbers)


def own_part(optimizer: Any, parameter: Tensor) -> OwnPart | None:
    """This rank's part of a trained parameter, where it has one.

    `safe_set_full_fp32_param` and its kin do the same, but fail in stage 3 where ranks do not divide the
    parameter.
    """
    if is_sharded(parameter):
        index, start, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
        low = torch.distributed.get_rank() * length
        return OwnPart(optimizer.fp32_partitioned_groups_flat[index], start, low, length)
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return None
    flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
    return OwnPart(flat, here.start, there.start, there.numel)


def own_gradient_norms(
    optimizer: Any, parameters: Iterable[nn.Parameter], stage: int, offloaded: bool
) -> list[Tensor]:
    """Norms of this rank's parts of some parameters' gradients, of whole groups of them, before the step; the
    engine tells the norm of all together, and only after it.

    Args:
        parameters: all of their groups.
        offloaded: whether the optimizer is, which then keeps norms instead of gradients.
    """
    own = {optimizer.get_param_id(parameter) for parameter in parameters}
    if offloaded:
        return [norm for name, norm in optimizer.norm_for_param_grads.items() if name in own]
    groups = optimizer.fp16_groups if stage == 3 else optimizer.bit16_groups
    indices = [i for i, group in enumerate(groups) if optimizer.get_param_id(group[0]) in own]
    return [part.float().norm() for i in indices for part in optimizer.averaged_gradients[i]]


def keep_weights_as_loaded(engine: Any) -> None:
    """An engine that does not train has no fp32 weights, from which Lightning would restore the others when
    it has read a checkpoint."""
    engine.optimizer._restore_from_bit16_weights = lambda: None


def flat_fp32_weights(optimizer: Any) -> list[Tensor]:
    """This rank's fp32 weights as an engine's optimizer has them: of each group, in stage 3 of each
    sub-group, one flat tensor."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return optimizer.fp32_partitioned_groups_flat
    return optimizer.single_partition_of_fp32_groups


def end_engine(engine: Any) -> None:
    """Takes a training engine off its network, which another one is to train: `destroy` leaves the engine's
    own hooks on the module and, in stage 3, parameters gathered and holding on to the optimizer."""
    if hasattr(engine.optimizer, "parameter_offload"):
        release_prefetched(engine)
    engine.destroy()
    remove_module_hooks(engine.module)
    for parameter in engine.module.parameters():
        parameter.grad = None
        vars(parameter).pop("_z3_optimizer", None)


def release_prefetched(engine: Any) -> None:
    """Shards again what DeepSpeed has gathered ahead for a training step that is under way."""
    offload = getattr(engine.optimizer, "parameter_offload", engine.optimizer)  # itself without training
    offload.partition_all_parameters()


@contextmanager
def without_forward_hooks(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While it lasts, DeepSpeed's hooks, which release a module's parameters after each forward, are away."""
    kept = [(module, name, getattr(module, name)) for module in modules for name in FORWARD_HOOKS]
    for module, name, _ in kept:
        setattr(module, name, OrderedDict())
    try:
        yield
    finally:
        for module, name, hooks in kept:
            setattr(module, name, hooks)


def use_cpu_ranks() -> None:
    """Tells DeepSpeed that ranks are CPU processes, on a machine with GPUs too, and that they talk over gloo:
    it would compile a shared-memory extension of its own with g++."""
    from deepspeed.accelerator import set_accelerator
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    class Gloo(CPU_Accelerator):
        def create_op_builder(self, class_name: str) -> Any:
            return None if class_name == "ShareMemCommBuilder" else super().create_op_builder(class_name)

    set_accelerator(Gloo())


def free_full_tensor(parameter: DTensor) -> None:
    """A shard that `parallelize_module` has made as a view would hold the full tensor's memory."""
    local = parameter.to_local().detach()
    if local.untyped_storage().nbytes() > local.nbytes:
        parameter._local_tensor = local.clone()


def onednn_takes(kind: str) -> bool:
    """Whether oneDNN multiplies matrices of `bf16` or `fp16` on this CPU: torch asks before each product, and
    has no public question for it."""
    if not torch.backends.mkldnn.is_available():
        return False
    return getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported")()
