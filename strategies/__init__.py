"""Devices and memory: strategies as functions that YAML names, `--trainer.strategy strategies.ddp`.

They are loaded when they are asked for: to plan a run by its number of parameters needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strategies.factory import ddp, deepspeed, fsdp, tensor_parallel

__all__ = ["ddp", "deepspeed", "fsdp", "tensor_parallel"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.factory"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
