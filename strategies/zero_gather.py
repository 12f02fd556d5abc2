"""Parameters that ZeRO-3 has cut, whole again for a while."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

HOOKS = tuple(f"_forward_{kind}hooks{end}" for kind in ("pre_", "") for end in ("", "_with_kwargs"))


def release_prefetched(engine: Any) -> None:
    """Cuts again what DeepSpeed has gathered ahead for a training step that is under way."""
    offload = getattr(engine.optimizer, "parameter_offload", engine.optimizer)  # itself without training
    offload.partition_all_parameters()


@contextmanager
def unsharded(network: nn.Module, apart: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Parameters whole on every rank, with DeepSpeed's hooks, which would release a module's parameters after
    each forward, out of the way; so no gradients.

    Args:
        network: that was cut.
        apart: parts of it that are left to the hooks.
    """
    import deepspeed

    left = {module for part in apart for module in part.modules()}
    modules = [module for module in network.modules() if module not in left]
    parameters = {parameter for module in modules for parameter in module.parameters(recurse=False)}
    kept = [(module, name, getattr(module, name)) for module in modules for name in HOOKS]
    with deepspeed.zero.GatheredParameters([p for p in network.parameters() if p in parameters]):
        for module, name, _ in kept:
            setattr(module, name, OrderedDict())
        try:
            yield
        finally:
            for module, name, hooks in kept:
                setattr(module, name, hooks)


def full_tensor(tensor: Tensor) -> Tensor:
    """A parameter as the optimizer has it, in fp32, or as it is where nothing trains it; any stage."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    if not isinstance(tensor, nn.Parameter):
        return tensor
    if hasattr(tensor, "_z3_optimizer") or hasattr(tensor, "_hp_mapping"):
        return safe_get_full_fp32_param(tensor)
    if hasattr(tensor, "ds_id"):
        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor
