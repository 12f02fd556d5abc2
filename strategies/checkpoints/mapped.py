"""Files of `torch.save`, mapped into memory instead of read; nothing in them can run code: tensors and plain
values are taken, and classes of DeepSpeed become stand-ins."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from strategies.errors import UserError


class LossScaler:
    """Stands for DeepSpeed's loss scalers (of fp16), whose attributes it takes over."""


class _Fragment:
    """Stands for an address that is not needed here."""


class _Stage(int):
    """Stands for DeepSpeed's stages of ZeRO, which a file names by number or by name."""

    disabled, optimizer_states, gradients, weights = range(4)


def _named(kind: Any, name: str) -> int:
    """Stands for `getattr`, by which early releases of Python 3.11 pickle an enumeration's members."""
    value = vars(_Stage).get(name) if kind is _Stage else None
    if isinstance(value, int):
        return value
    raise pickle.UnpicklingError(f"`getattr` of {name} would have to run")


STAND_INS: list[tuple[Callable, str] | Callable] = [
    (LossScaler, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (LossScaler, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Stage, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_named, "builtins.getattr"),
    (_Fragment, "deepspeed.utils.tensor_fragment.fragment_address"),
]


def is_moment(state: Any) -> bool:
    """Whether an optimizer keeps this state for each number of a parameter, not for all of it as its step."""
    return isinstance(state, torch.Tensor) and state.ndim > 0


def mapped_file(file: Path) -> dict[str, Any]:
    """What a file holds, its tensors mapped into memory and read when they are used.

    Raises:
        UserError: it is cut off or is something else, or holds what would have to run code.
    """
    cut = f"{file} is no complete checkpoint: it was cut off or is something else"
    if not zipfile.is_zipfile(file):  # torch's own reader may call that an invalid argument
        raise UserError(cut)
    try:
        with torch.serialization.safe_globals(STAND_INS):
            content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} holds more than tensors and plain values, which could run code when it is read: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise UserError(cut) from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is no checkpoint of a run: it holds a {type(content).__name__}")
    return content
