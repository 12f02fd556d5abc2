"""What ends a command: a user's mistake is told in one line with exit code 2, every other exception is a bug
and keeps its trace, with exit code 1 and a line that asks for a report."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import datamodules.errors
import modules.errors
import strategies.errors

ROOT = Path(__file__).resolve().parents[2]
SOURCES = tuple(ROOT / folder for folder in ("modules", "datamodules", "strategies", "experiments"))
REPORT = "this is a bug in trivium, not a mistake of yours: please report the lines above with the command"


class UserError(ValueError):
    """A user's mistake: the text says what was found, where, and what to do instead."""


USER_ERRORS = (UserError, modules.errors.UserError, datamodules.errors.UserError, strategies.errors.UserError)
"""each library's own too: they know neither each other nor `experiments`"""


def exit_code_of(run: Callable[[], int]) -> int:
    """Runs a command: its own exit code, 2 where it was refused, 1 where it met a bug."""
    try:
        return run()
    except Exception as error:
        if is_user_error(error):
            tell(" ".join(str(error).split()) if _is_lightnings(error) else str(error))
            return 2
        traceback.print_exception(error)
        tell(REPORT)
        return 1


def tell(text: str) -> None:
    """Prints to stderr, a line each; lines that begin with a space are those of a table."""
    for line in text.splitlines():
        print(line if line.startswith(" ") else f"trivium: {line}", file=sys.stderr, flush=True)


def is_user_error(error: BaseException) -> bool:
    """Whether an exception was raised to tell a user's mistake, by this project or by Lightning."""
    return isinstance(error, USER_ERRORS) or _is_lightnings(error)


def _is_lightnings(error: BaseException) -> bool:
    """By name: most commands need no Lightning, which takes seconds to import."""
    return type(error).__name__ == "MisconfigurationException"
