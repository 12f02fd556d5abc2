"""What libraries have against the arguments that a configuration gives them, as one line with its field."""

import errno
import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from experiments.cli.user_errors import USER_ERRORS, UserError, refusal_of

CLASS_PROBLEM = re.compile(r"Problem with given class_path '([^']+)':\s*([^\n]+)")
GIVEN_CLASS = re.compile(r"Given value: \[?Namespace\(class_path='([^']+)'")
REASON = re.compile(r"^ *- (.+)$", re.MULTILINE)
NO_REASONS = ("Expected", "Does not validate", "Import path", "Not a valid", "a class path", "a dict with")
"""beginnings of what jsonargparse says of the other classes that a field takes"""
PACKAGES = Path(L.__file__).resolve().parent.parent
"""where libraries are installed: an exception that code elsewhere raises is a bug of that code"""
PYTHON = Path(os.__file__).resolve().parent


def complaint(error: Exception, field: str, config: Any = None) -> UserError | None:
    """What a library says of its arguments; None where it was not a library that raised.

    Args:
        error: raised while something was made of a configuration.
        field: it is told with, unless `config` names the class that raised.
        config: the configuration, whose `class_path`s are searched.
    """
    if "No supported gpu backend found" in str(error):
        return UserError("trainer.accelerator: torch sees no GPU here: give cpu or auto")
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, USER_ERRORS):
            return UserError(str(cause))
    raised = causes[-1]
    if refusal_of(raised) is None and not _in_library(raised.__traceback__):
        return None
    if named := CLASS_PROBLEM.search(str(error)):  # jsonargparse's, where a field takes several classes
        name = named[1].rpartition(".")[2]
        return UserError(f"{_field_of(name, config) or field}: {name}: {named[2].strip()}")
    given = GIVEN_CLASS.search(str(error))  # whose own exception may not be among the causes
    maker = _maker(raised.__traceback__) or (given[1].rpartition(".")[2] if given else "")
    place = _field_of(maker, config)
    where = f"{place}: {maker}" if place else field
    if bullets := [line for line in REASON.findall(str(error)) if not line.startswith(NO_REASONS)]:
        return UserError(f"{where}: {bullets[0]}")
    text = " ".join(str(raised).split())
    plain = refusal_of(raised) or (isinstance(raised, ImportError | ValueError) and text)
    return UserError(f"{where}: {'' if plain else f'{type(raised).__name__}: '}{text}")


def callback_complaint(error: Exception) -> UserError | None:
    """What a callback or a logger of Lightning's own has against a run, such as a metric that is never logged
    or a folder that cannot be made; None where it was none that raised."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        field = "callbacks" if isinstance(owner, Callback) else "logger" if isinstance(owner, Logger) else ""
        if field and type(owner).__module__.startswith("lightning."):
            if not _in_library(error.__traceback__):
                return None
            reason = " ".join(str(error).split()) or "this class is made to be inherited from"
            return UserError(f"trainer.{field}: {type(owner).__name__}: {reason}")
    return None


def long_name_complaint(error: OSError, config: Any) -> UserError | None:
    """A path that no system has, with the field of a configuration that gave it; None where it is no such
    error, or none gave it."""
    if error.errno != errno.ENAMETOOLONG:
        return None
    named = [(len(text), field) for field, text in _texts(config) if text in str(error.filename)]
    return UserError(f"{max(named)[1]}: {refusal_of(error)}") if named else None


def _texts(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The texts of a configuration with their fields."""
    if isinstance(config, dict):
        for key, value in config.items():
            inside = path if key == "init_args" else f"{path}.{key}" if path else str(key)
            yield from _texts(value, inside)
    elif isinstance(config, list):
        for value in config:
            yield from _texts(value, path)
    elif isinstance(config, str):
        yield path, config


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it came of, the first of all last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _in_library(trace: TracebackType | None) -> bool:
    """Whether a library's code raised, or Python's own that it called, as `os.makedirs`."""
    files = [frame.filename for frame in traceback.extract_tb(trace)]
    paths = [Path(file).resolve() for file in files if not file.startswith("<frozen")]
    own = [path for path in paths if PACKAGES in path.parents or PYTHON not in path.parents]
    return bool(own) and PACKAGES in own[-1].parents


def _maker(trace: TracebackType | None) -> str:
    """The name of the class whose `__init__` raised; nothing where it was none."""
    names = [
        type(frame.f_locals["self"]).__name__
        for frame, _ in traceback.walk_tb(trace)
        if frame.f_code.co_name == "__init__" and "self" in frame.f_locals
    ]
    inner = ("Trainer", "RunCLI", "BuildOnly")
    return next((name for name in names if name not in inner and not name.startswith("_")), "")


def _field_of(name: str, config: Any, path: str = "") -> str:
    """Where a configuration names a class; nothing where it does not."""
    if isinstance(config, dict):
        if name and str(config.get("class_path", "")).rpartition(".")[2] == name:
            return path
        items = [(f"{path}.{key}" if path else str(key), value) for key, value in config.items()]
    elif isinstance(config, list):
        items = [(path, value) for value in config]
    else:
        return ""
    inside = (_field_of(name, value, at.replace(".init_args", "")) for at, value in items)
    return next((found for found in inside if found), "")
