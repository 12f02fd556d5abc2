"""How a command ends: a user's mistake is told in one line, with exit code 2; any other exception is a bug
and keeps its trace, with exit code 1 and a line that asks for a report."""

import errno
import re
import sys
import traceback
from collections.abc import Callable

import datamodules.errors
import modules.errors
import strategies.errors

REPORT = (
    "that is a bug and no mistake in what you asked for: unless the trace ends in code of your own, please "
    "report it, with the command"
)


UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""control characters, marks that order or join others, line ends, and halves of surrogate pairs"""
LONGEST, SHOWN = 400, 200  # characters of a word or of what is quoted: more than any usual path has


class UserError(ValueError):
    """A user's mistake: the text says what was found, where, and what to do instead."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it, in a notebook: the text alone."""
        return [f"UserError: {self}"]


USER_ERRORS = (UserError, modules.errors.UserError, datamodules.errors.UserError, strategies.errors.UserError)
"""each library has its own, since it knows neither the others nor `experiments`"""


def exit_code_of(command: Callable[[], int]) -> int:
    """Runs a command: its own exit code, 2 where it was refused, 1 where it met a bug."""
    try:
        return command()
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            traceback.print_exception(error)
        tell(refusal or REPORT)
        return 1 if refusal is None else 2


def refusal_of(error: BaseException) -> str | None:
    """What a user is told of a mistake; None where an exception is a bug.

    Its type decides, never where it was raised: `int("abc")` within our own code raises a ValueError too.
    """
    if isinstance(error, USER_ERRORS):
        return str(error)
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, which takes seconds to import
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # a path that no system has
        return f"{error.filename}: the name is too long for a file: give a shorter one"
    return None


def tell(text: str) -> None:
    """Prints to stderr, a line each; lines that begin with a space are those of a table. What a line repeats
    of a file or an argument may be long, and hold what moves a terminal's cursor."""
    for line in filter(None, text.split("\n")):
        shown = _shortened(UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), line))
        print(shown if line.startswith(" ") else f"trivium: {shown}", file=sys.stderr, flush=True)


def _shortened(line: str) -> str:
    parts = line.split("`")
    if len(parts) % 2:  # each quotation ends
        parts[1::2] = [part if len(part) <= LONGEST else f"{part[:SHOWN]}…" for part in parts[1::2]]
    return re.sub(rf"(\S{{{SHOWN}}})\S{{{LONGEST - SHOWN + 1},}}", r"\1…", "`".join(parts))
