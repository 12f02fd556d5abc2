"""One run at a time in a folder: a second one would write over the first one's checkpoints."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import psutil

from experiments.cli.user_errors import UserError

_held: list[int] = []  # descriptors of locks that this process holds


class Holder(NamedTuple):
    """The process that writes to a folder."""

    process: int
    began: float  # seconds since 1970: another process may get its number later
    host: str
    since: str  # when it took the folder

    def runs(self) -> bool:
        """Whether it is still there; of a process on another machine nobody here knows the contrary."""
        if self.host != socket.gethostname():
            return True
        try:
            return abs(psutil.Process(self.process).create_time() - self.began) < 0.5  # by the system's ticks
        except psutil.Error:
            return False


def _let_go() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)  # a data worker would go on holding the folder after its run


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Holds a run's folder while it lasts, by the system's lock on a file that says who does: it ends with
    this process, however that ends. Where a file system has no such locks, which is told, the file alone
    speaks for its process. Folders that it made and nothing was written to are gone again.

    Raises:
        UserError: another process holds it, or it cannot be made.
    """
    file = run / ".lock"
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run: {run} cannot be made ({error.strerror}): give another `--run`") from error
    try:
        _lock(file)
        _write_holder(_held[-1])
    except OSError as error:
        raise UserError(
            f"run: nothing can be written to {run}: {error.strerror}: make room, mend the folder, or give "
            "another --run"
        ) from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # before another process can hold it
        os.close(_held.pop())
        with suppress(OSError):  # the first that holds something, or is another process's too
            for folder in made:
                folder.rmdir()


def _lock(file: Path) -> None:
    """Opens the file and locks it, unless its holder has removed it in between; file systems of a network
    lock only what is open for writing, so never a folder."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise _refused(file, "wait until it ends, or give this one another `--run`") from error
        except OSError as error:
            try:
                _ask_the_file(file, error)
            except UserError:
                os.close(descriptor)
                raise
        if _is_at(descriptor, file):
            _held.append(descriptor)
            return
        os.close(descriptor)


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _ask_the_file(file: Path, error: OSError) -> None:
    """Where there are no locks: refuses a folder whose file names a process that runs, or that may."""
    holder = _holder(file)
    if holder is not None and holder.runs():
        here = holder.host == socket.gethostname()
        gone = "" if here else f"; if it has ended, remove {file}"
        raise _refused(file, f"wait until it ends, or give this one another `--run`{gone}") from error
    print(
        f"run: the file system of {file.parent} has no locks ({error.strerror}): do not begin two runs in it "
        f"at the same moment; later ones find {file.name}"
    )


def _refused(file: Path, remedy: str) -> UserError:
    holder = _holder(file)
    who = f"process {holder.process} on {holder.host}, since {holder.since}" if holder else "it begins now"
    return UserError(f"run: another run is writing to {file.parent}: {who}: {remedy}")


def _holder(file: Path) -> Holder | None:
    """Who holds a folder by what its file says; None where it says nothing yet, or no longer."""
    try:
        return Holder(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write_holder(descriptor: int) -> None:
    process = psutil.Process()
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    holder = Holder(process.pid, process.create_time(), socket.gethostname(), now)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder._asdict()).encode(), 0)
