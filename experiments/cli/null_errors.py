"""Values that are `null` in a configuration where something has to be: the parser takes `null` for what was
not given, and the class then gets None."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, get_args

OWN = ("modules", "datamodules", "strategies")
"""whose arguments say what they take; those of libraries are as often None where they do not say so"""
OPTIONS = ("run", "checkpoint_minutes", "overwrite", "wandb_artifacts", "untrained")


def null_errors(options: Mapping[str, Any]) -> list[str]:
    """The fields of a command's options that are null and must not be, a line each."""
    names = [name for name in OPTIONS if name in options and options[name] is None]
    trainer = options.get("trainer")
    if isinstance(trainer, Mapping) and trainer.get("max_steps", -1) is None:
        names.append("trainer.max_steps")
    names += [*_nulls(options.get("model"), "model"), *_nulls(options.get("data"), "data")]
    return [f"{name} is null: give a value, or leave it out" for name in names]


def _nulls(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _nulls(item, path)
    if not isinstance(value, Mapping):
        return
    arguments = value.get("init_args") if isinstance(value.get("class_path"), str) else None
    if not isinstance(arguments, Mapping):
        for name, item in value.items():
            yield from _nulls(item, f"{path}.{name}")
        return
    for name, item in arguments.items():
        if item is None and not _takes_none(value["class_path"], name):
            yield f"{path}.{name}"
        yield from _nulls(item, f"{path}.{name}")


def _takes_none(class_path: str, name: str) -> bool:
    """Whether an argument may be None, or does not say."""
    module, _, attribute = class_path.rpartition(".")
    with suppress(ImportError, AttributeError, ValueError, NameError, TypeError):
        made: Any = getattr(import_module(module), attribute)
        for base in made.__mro__ if inspect.isclass(made) else (made,):
            parameter = inspect.signature(base, eval_str=True).parameters.get(name)
            if parameter is None or base.__module__.partition(".")[0] not in OWN:
                continue
            kind = parameter.annotation
            open_to_all = kind in (Any, inspect.Parameter.empty) or parameter.default is None
            return open_to_all or type(None) in get_args(kind)
    return True
