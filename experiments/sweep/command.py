"""The command of a run, its macros filled in as W&B's agent fills them in."""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from experiments.cli.user_errors import UserError
from experiments.plan.units import nearest

ENVIRONMENT = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
MACRO = re.compile(r"\$\{(.*)\}")
ARGUMENTS = (
    "args", "args_no_hyphens", "args_no_boolean_flags", "args_no_equals", "args_json", "args_json_file",
    "args_append_hydra", "args_override_hydra",
)  # fmt: skip
MACROS = ("env", "interpreter", "program", *ARGUMENTS)


def command_errors(command: Sequence[str], program: str | None = None) -> list[str]:
    """Macros that no agent knows, each of which an agent would leave out in silence; and a program that is
    not there, of which every run would fail."""
    words = [match[1] for item in command if (match := MACRO.fullmatch(item))]
    wrong = [word for word in words if word not in MACROS and not ENVIRONMENT.fullmatch(f"${{{word}}}")]
    errors = [f"command: there is no macro ${{{word}}}: {nearest(word, MACROS)}" for word in wrong]
    if not any(f"${{{name}}}" in command for name in ARGUMENTS):
        errors.append("command: no run would get its parameters: add ${args} to it")
    if ("${interpreter}", "${program}") in pairwise(command) and not Path(program or "").is_file():
        own = "; for `trivium fit` take the `command` of a shipped sweep: `trivium configs sweeps/sft`"
        errors.append(f"program: there is no file {program}: give a script{own}")
    return errors


def expanded(
    command: Sequence[str], program: str | None, arguments: Mapping[str, Any], json_file: Path
) -> list[str]:
    """The words of a run's command.

    Args:
        command: the YAML's.
        arguments: option → value; nested parameters are one option, whose value is a mapping.
        json_file: is written where the command names `${args_json_file}`.

    Raises:
        UserError: it names an environment variable that is not set.
    """
    flags = [f"{name}={value}" for name, value in arguments.items()]
    no_booleans = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in arguments.items()
        if value is not False
    ]
    as_json = json.dumps(arguments)
    macros = {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [program or ""],
        "args": [f"--{flag}" for flag in flags],
        "args_no_hyphens": flags,
        "args_no_boolean_flags": no_booleans,
        "args_no_equals": [word for name, value in arguments.items() for word in (f"--{name}", str(value))],
        "args_json": [as_json],
        "args_json_file": [str(json_file)],
        "args_append_hydra": [f"+{flag}" for flag in flags],
        "args_override_hydra": [f"++{flag}" for flag in flags],
    }
    if "${args_json_file}" in command:
        json_file.write_text(as_json, encoding="utf-8")
    words: list[str] = []
    for item in command:
        filled = ENVIRONMENT.sub(_variable, item)
        match = MACRO.fullmatch(filled)
        words += macros[match[1]] if match else [filled]
    return words


def nested(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Parameters by their paths → options, as W&B hands them to a run: what is nested under one key is a
    mapping."""
    options: dict[str, Any] = {}
    for path, value in values.items():
        place = options
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
    return options


def is_fit(command: Sequence[str], program: str | None) -> bool:
    """Whether a command is `trivium fit`, also within the words of a shell."""
    words = [word for item in command for word in _words(item)]
    names = [program or "", *words]
    trivium = any(Path(word).name == "trivium" or word.startswith("experiments.cli") for word in names)
    return trivium and "fit" in words


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # quotes that a shell's script leaves open
        return text.split()


def _variable(match: re.Match[str]) -> str:
    if match[1] not in os.environ:
        raise UserError(f"command: ${{envvar:{match[1]}}}: there is no {match[1]} in the environment: set it")
    return os.environ[match[1]]
