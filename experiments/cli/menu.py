"""A program of several commands: what its help says, and the function that a command's name stands for."""

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from experiments.cli.user_errors import UserError


class Command(NamedTuple):
    """A command of a program."""

    summary: str  # what it does, in a line of the help
    file: str  # the module whose `main` runs it: a name, so that help answers before anything is imported


def usage(program: str, purpose: str, commands: Mapping[str, Command], example: str) -> str:
    """What `--help` prints: the purpose in a sentence, the commands by name, a command line to begin with."""
    summaries = "\n".join(f"  {name:<14} {command.summary}" for name, command in commands.items())
    hint = f"`{program} COMMAND --help` tells a command's options. To begin: `{example}`."
    return f"usage: {program} COMMAND [options]\n\n{purpose}\n\ncommands:\n{summaries}\n\n{hint}"


def main_of(program: str, name: str, commands: Mapping[str, Command]) -> Callable[[list[str]], int]:
    """Imports a command and gives its `main`, which takes arguments and returns an exit code.

    Raises:
        UserError: there is no command of that name.
    """
    if name not in commands:
        near = get_close_matches(name, commands, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"`{program} --help` lists the commands"
        raise UserError(f"no command `{name}`: {hint}")
    file = commands[name].file
    if file not in sys.modules:
        with _kept():
            import_module(file)
    return sys.modules[file].main


@contextmanager
def _kept() -> Iterator[None]:
    """What is imported meanwhile stays: some hundred thousand objects. The garbage collection would go
    through them while they become more, then at steps of a run, and at its end: a third of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
