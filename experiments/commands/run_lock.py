"""One run at a time in a folder: a second one would write over the first one's checkpoints."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from experiments.cli.user_errors import UserError

_held: list[int] = []  # descriptors of folders that this process holds


def _let_go() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)  # a data worker would go on holding the folder after its run


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Holds a run's folder while it lasts. The lock is the system's, on the folder itself: it leaves no file
    and ends with this process, however that ends. A file system without such locks lets every run in.

    Raises:
        UserError: another process holds it, or it cannot be made.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        _held.append(os.open(run, os.O_RDONLY))
    except OSError as error:
        raise UserError(f"run: {run} cannot be made ({error.strerror}): give another `--run`") from error
    try:
        with suppress(OSError):
            _lock(_held[-1], run)
        yield
    finally:
        _let_go()


def _lock(folder: int, run: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"run: another run is writing to {run}: wait until it ends, or give this one another `--run`"
        ) from error
