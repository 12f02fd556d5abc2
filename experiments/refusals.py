"""A user's mistake is told in one line, without a stack trace, with exit code 2."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = tuple(str(ROOT / folder) for folder in ("modules", "datamodules", "strategies", "experiments"))


def refusing(run: Callable[[], int]) -> int:
    """Runs a command. A refusal's text is printed and 2 is returned; every other exception is a bug and keeps
    its trace."""
    try:
        return run()
    except Exception as error:
        if not is_refusal(error):
            raise
        tell(" ".join(str(error).split()) if _is_lightnings(error) else str(error))
        return 2


def tell(text: str) -> None:
    """Prints a refusal to stderr, a line each; lines that begin with a space are those of a table."""
    for line in text.splitlines():
        print(line if line.startswith(" ") else f"trivium: {line}", file=sys.stderr, flush=True)


def is_refusal(error: BaseException) -> bool:
    """Whether an exception is a `ValueError` that a line of this project raised, or Lightning's word for a
    wrong configuration."""
    if _is_lightnings(error):
        return True
    if not isinstance(error, ValueError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(OURS)


def _is_lightnings(error: BaseException) -> bool:
    """By name: most commands need no Lightning, which takes seconds to import."""
    return type(error).__name__ == "MisconfigurationException"
