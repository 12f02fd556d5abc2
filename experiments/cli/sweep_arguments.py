"""The arguments that a W&B sweep gives to a run, as this program's own options."""

import ast
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any


def spelled_out(argv: list[str]) -> list[str]:
    """A command line in which a sweep's nested parameters are dotted options of their own; itself where no
    sweep has begun this process.

    W&B's agent gives `--model={'init_args': {'warmup_steps': 20}}`, which would replace a mapping instead of
    setting one of its fields, and `--name=None` for null.
    """
    if "WANDB_SWEEP_PARAM_PATH" not in os.environ:
        return argv
    return [word for argument in argv for word in _options(argument)]


def _options(argument: str) -> Iterator[str]:
    name, equals, text = argument.partition("=")
    if not (name.startswith("--") and equals and text[:1] in "{N"):
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
