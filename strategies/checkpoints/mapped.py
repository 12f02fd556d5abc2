"""Files of `torch.save`, mapped into memory instead of read; nothing in them can run code: tensors and plain
values are taken, and three classes of DeepSpeed become empty stand-ins."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from strategies.errors import UserError


class LossScaler:
    """Stands for DeepSpeed's loss scalers (of fp16), whose attributes it takes over."""


class _Fragment:
    """Stands for an address that is not needed here."""


STAND_INS: list[tuple[Callable, str] | Callable] = [
    (LossScaler, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (LossScaler, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Fragment, "deepspeed.utils.tensor_fragment.fragment_address"),
]


def moments_of(states: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Of an optimizer's states of a parameter those that it keeps for each number."""
    return {key: value for key, value in states.items() if isinstance(value, torch.Tensor) and value.ndim}


def scalars_of(states: dict[str, Any]) -> dict[str, Any]:
    """Of an optimizer's states of a parameter those that it keeps for all of it: its step."""
    return {key: value for key, value in states.items() if key not in moments_of(states)}


def mapped_file(file: Path) -> dict[str, Any]:
    """What a file holds, its tensors mapped into memory and read when they are used.

    Raises:
        UserError: it is cut off or is something else, or holds what would have to run code.
    """
    try:
        with torch.serialization.safe_globals(STAND_INS):
            content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} holds more than tensors and plain values, which could run code when it is read: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise UserError(f"{file} is no complete checkpoint: it was cut off or is something else") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is no checkpoint of a run: it holds a {type(content).__name__}")
    return content
