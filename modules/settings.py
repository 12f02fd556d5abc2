"""What a run was told to do, as plain values by their fields: a checkpoint holds them, so that a run that
goes on from it can be compared."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from modules.training_data import TrainingData

SOURCES = ("train", "val")
"""arguments of data, at any depth, that name files: what they hold is compared, not where it lies"""
NO_SETTING = ("num_workers", "tokenizer", "activation_checkpointing", "eval_batch_size", "rollout_batch_size")
"""arguments that change nothing of what is trained, and those that are compared by their content"""
PLAIN = (bool, int, float, str)


def arguments_of(owner: Any) -> dict[str, Any]:
    """Argument → value of what an object was made with; stages and data modules keep their arguments as
    attributes of the same names."""
    kept = vars(owner)
    return {name: kept[name] for name in argument_names(owner) if name in kept and name not in NO_SETTING}


def argument_names(owner: Any) -> list[str]:
    """What the class of an object and those that it comes from are made with."""
    found = [name for cls in type(owner).__mro__ for name in _arguments(vars(cls).get("__init__"))]
    return list(dict.fromkeys(found))


def _arguments(function: Any) -> Sequence[str]:
    if function is None or not inspect.isfunction(function):
        return ()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in found if parameter.kind in named and parameter.name != "self"]


def flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Field → plain value of a nested one, named as in YAML: `data.sources.english.weight`."""
    if _is_plain(value):
        yield name, _plain(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}")
    elif hasattr(value, "_asdict"):
        yield from flat(value._asdict(), name)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from flat({field.name: getattr(value, field.name) for field in fields(value)}, name)
    elif isinstance(value, set | frozenset):
        yield name, sorted(map(str, value))
    elif isinstance(value, list | tuple):
        if all(map(_is_plain, value)):
            yield name, _plain(value)
        else:
            yield from flat(dict(enumerate(value)), name)
    elif isinstance(value, Path):
        yield name, str(value)
    elif isinstance(value, type) or callable(value):
        yield name, getattr(value, "__qualname__", type(value).__qualname__)
    else:  # an object, as a template: its class and what it keeps in plain sight
        kept = {key: inner for key, inner in getattr(value, "__dict__", {}).items() if key[0] != "_"}
        plain = {key: inner for key, inner in kept.items() if _is_plain(inner)}
        yield name, type(value).__qualname__
        yield from flat(plain, name)


def data_settings(data: TrainingData) -> dict[str, Any]:
    """Field → value of a data module; of its files a fingerprint."""
    found = dict(flat(arguments_of(data), "data"))
    sources = {name for name in found if name.rpartition(".")[2] in SOURCES and found[name] is not None}
    return {n: data.fingerprint(v, n) if n in sources else v for n, v in found.items()}


def is_source(name: str) -> bool:
    """Whether a field's value is a fingerprint of files."""
    return name.startswith("data.") and name.rpartition(".")[2] in SOURCES


def optimizer_name(optimizer: Optimizer) -> str:
    """The class of an optimizer, which is torch's own where ours only has other defaults."""
    cls = next(each for each in type(optimizer).__mro__ if not each.__module__.startswith("modules."))
    package = cls.__module__.partition(".")[0]
    return f"torch.optim.{cls.__name__}" if package == "torch" else f"{cls.__module__}.{cls.__qualname__}"


def hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What each parameter group of a new optimizer says beside its parameters, as plain values."""
    return [
        {key: _plain(value) for key, value in group.items() if key not in ("params", "param_names")}
        for group in optimizer.param_groups
    ]


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (*PLAIN, Tensor, np.generic, np.ndarray))


def _plain(value: Any) -> Any:
    """Exactly Python's own type: a checkpoint is read without running code."""
    if isinstance(value, Tensor | np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    base = next((each for each in PLAIN if isinstance(value, each)), None)
    return value if value is None or type(value) is base else base(value) if base else str(value)


def shown(value: Any) -> str:
    """A value as a line of text has it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
