"""The arguments that a W&B sweep gives to a run, as this program's own options."""

import ast
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml


def spelled_out(argv: list[str]) -> list[str]:
    """A command line in which a sweep's nested parameters are dotted options of their own; itself where no
    sweep has begun this process. What the sweep's command says beside its parameters stays as it is.

    W&B's agent gives `--model={'init_args': {'warmup_steps': 20}}`, which would replace a mapping instead of
    setting one of its fields, and `--name=None` for null.
    """
    file = os.environ.get("WANDB_SWEEP_PARAM_PATH")
    if file is None:
        return argv
    names = _parameters(Path(file))
    return [word for argument in argv for word in _options(argument, names)]


def _parameters(file: Path) -> set[str]:
    """The options that a sweep gives, by the file that the agent writes for W&B."""
    try:
        return {f"--{name}" for name in yaml.safe_load(file.read_text(encoding="utf-8"))}
    except (OSError, yaml.YAMLError, TypeError):  # none that can be read, as in a run of a run
        return set()


def _options(argument: str, names: set[str]) -> Iterator[str]:
    name, equals, text = argument.partition("=")
    if not (name in names and equals and text[:1] in "{N"):
        yield argument
        return
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):  # JSON with its true and null, or text
        yield argument
        return
    if value is None or (isinstance(value, dict) and all(isinstance(key, str) for key in value)):
        yield from (f"{path}={_text(leaf)}" for path, leaf in _leaves(name, value))
    else:
        yield argument


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    else:
        yield path, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
