"""Refuses a callback that watches a metric which the run never logs, before the first step."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

from lightning.pytorch.callbacks import Callback

OURS = ("train/tokens_per_second", "data/share/*", "data/tokens/*", "data/epochs/*")
"""patterns of what Trivium's own callbacks log"""
KNOWN = ("lightning.", "experiments.")
"""packages whose callbacks log nothing else under a name that one would watch"""
EVALUATED = ("val/", "reward/")


def monitor_errors(callbacks: Sequence[Callback], logs: Sequence[str], validates: bool) -> list[str]:
    """The lines that refuse a `monitor` which is never logged.

    Args:
        callbacks: of the run; where one is of the user's own, it may log any name, and nothing is refused.
        logs: patterns of the names that the stage logs; empty = it does not say.
        validates: whether the run validates, without which no `val/` metric is there.
    """
    if not logs or not all(type(callback).__module__.startswith(KNOWN) for callback in callbacks):
        return []
    names = [name for name in (*logs, *OURS) if validates or not name.startswith(EVALUATED)]
    errors = []
    for callback in callbacks:
        monitor: Any = getattr(callback, "monitor", None)
        if not isinstance(monitor, str) or any(fnmatch(monitor, name) for name in names):
            continue
        reason = "is logged by validation, and this run has none"
        if not any(fnmatch(monitor, name) for name in logs):
            near = difflib.get_close_matches(monitor, names, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there is {', '.join(names)}"
            reason = f"is never logged: {hint}"
        errors.append(f"trainer.callbacks: {type(callback).__name__}: monitor `{monitor}` {reason}")
    return errors
