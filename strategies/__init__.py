"""Devices and memory: strategies as functions that YAML names, `--trainer.strategy strategies.ddp`.

They are loaded when they are asked for: to plan a run by its number of parameters needs no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strategies.factory import ddp, deepspeed, fsdp, tensor_parallel

__all__ = ["ddp", "deepspeed", "fsdp", "tensor_parallel"]


class _Package(ModuleType):
    """`deepspeed` is a file here too: importing it does not put it in the function's place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in __all__:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.factory"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
