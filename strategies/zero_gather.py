"""Parameters that ZeRO-3 has sharded, full again for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from strategies.upstream import has_fp32_copy, is_sharded, without_forward_hooks


@contextmanager
def unsharded(network: nn.Module, apart: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Full parameters on every rank, with DeepSpeed's hooks, which would release a module's parameters after
    each forward, out of the way; so no gradients. The parts that are `apart` are left to the hooks."""
    import deepspeed

    left = {module for part in apart for module in part.modules()}
    modules = [module for module in network.modules() if module not in left]
    parameters = {parameter for module in modules for parameter in module.parameters(recurse=False)}
    gathered = [p for p in network.parameters() if p in parameters]
    with deepspeed.zero.GatheredParameters(gathered), without_forward_hooks(modules):
        yield


def full_tensor(tensor: Tensor) -> Tensor:
    """A parameter as the optimizer has it, in fp32, or as it is where nothing trains it; any stage."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    if not isinstance(tensor, nn.Parameter):
        return tensor
    if has_fp32_copy(tensor):
        return safe_get_full_fp32_param(tensor)
    if is_sharded(tensor):
        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor
