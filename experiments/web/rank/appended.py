"""A file of JSON lines that grows a line at a time: what has been appended is on the disk, and no crash, full
disk or second process spoils what is there."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.cli.user_errors import UserError, tell

Line = dict[str, Any]
Problem = Callable[[Line], str | None]


class Appended:
    """The lines of a file, held by this process alone until `close`.

    A last line that a crash cut off is taken away, and `healed` says so. Nothing is changed in a file whose
    lines are not all this program's own.

    Args:
        path: made where it is missing, with its folder.
        begins: how every line begins, so that a cut line is told from another program's file.
        problem: what is wrong with a line, or None.
        option: the option that gave the path, for messages.

    Raises:
        UserError: it is another kind of file, another process has it, or it cannot be written.
    """

    def __init__(self, path: Path, begins: str, problem: Problem, option: str):
        self.path, self.option, self.healed = path, option, ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._locked()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"{option}: {path} cannot be written: {reason.lower()}") from error
        try:
            self.lines = list(self._read(begins, problem))
        except BaseException:
            self.close()
            raise

    def _locked(self) -> int:
        """The open file. The lock is the system's: it ends with this process, however that ends."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._lock(file)
                if os.path.samestat(os.fstat(file), os.stat(self.path)):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # another process has put a new file in its place meanwhile

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{self.option}: another `trivium rank` is writing to {self.path}: use its page, or give "
                "another file"
            ) from error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            alone = "let no other `trivium rank` write to it"
            tell(f"{self.option}: {self.path} cannot be locked ({reason}): {alone}")

    def _read(self, begins: str, problem: Problem) -> Iterator[Line]:
        data = self.path.read_bytes()
        *whole, rest = data.split(b"\n")
        for number, line in enumerate(whole, 1):
            yield self._parsed(line, number, begins, problem)
        if not rest:
            return
        try:
            yield self._parsed(rest, len(whole) + 1, begins, problem)
            self._write(b"\n")
        except UserError:
            start = begins.encode()
            torn = rest.rstrip(b"\0")  # a file that had grown before its data came to the disk
            if not (torn.startswith(start) or start.startswith(torn)):
                raise
            self._cut(len(data) - len(rest))
            self.healed = f"{self.path}: the last line was cut off by a crash and has been taken away"

    def _parsed(self, line: bytes, number: int, begins: str, problem: Problem) -> Line:
        row = parsed(line, begins, problem)
        if isinstance(row, str):
            raise UserError(
                f"{self.option}: {self.path}:{number} is no line that `trivium rank` wrote there ({row}): "
                "give another file, or mend that line"
            )
        return row

    def append(self, line: Line) -> None:
        """Writes a line to the disk before it returns.

        Raises:
            OSError: it could not; the file is as it was.
        """
        end = os.lseek(self._file, 0, os.SEEK_END)
        try:
            self._write(encoded(line))
        except OSError:
            self._cut(end)
            raise
        self.lines.append(line)

    def _write(self, data: bytes) -> None:
        os.lseek(self._file, 0, os.SEEK_END)
        left = memoryview(data)
        while left:
            left = left[os.write(self._file, left) :]
        os.fsync(self._file)

    def _cut(self, size: int) -> None:
        os.ftruncate(self._file, size)
        os.fsync(self._file)

    def remove(self, index: int) -> None:
        """Takes a line away: the file without it takes the place of the file, or stays as it was.

        Raises:
            OSError: it stayed.
        """
        left = [*self.lines[:index], *self.lines[index + 1 :]]
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        before = self._file
        try:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file = file
            self._write(b"".join(map(encoded, left)))
            part.replace(self.path)
        except BaseException:
            self._file = before
            os.close(file)
            part.unlink(missing_ok=True)
            raise
        os.close(before)
        self.lines = left

    def close(self) -> None:
        """Lets another process have the file; without a line it is not there."""
        if not os.fstat(self._file).st_size:
            self.path.unlink(missing_ok=True)
        os.close(self._file)


def parsed(line: bytes, begins: str, problem: Problem) -> Line | str:
    """A line, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "it is no JSON"
    if not isinstance(row, dict) or not line.startswith(begins.encode()):
        return "it begins otherwise"
    return problem(row) or row


def encoded(line: Line) -> bytes:
    """A line as it is in the file. Half a character, which has no bytes of its own, is written as a question
    mark."""
    return (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "replace")
