"""A row as it is read, or why it cannot be: what the readers of every kind of file share."""

from typing import Any, NamedTuple

from datamodules.errors import UserError

BROKEN_OFF = ", nor can what follows be read"  # in a problem that also costs the rest of the file
BLOCK = 1 << 20  # bytes read at once


class Record(NamedTuple):
    """One row of a source, or why it cannot be read.

    Fields:
        where: `FILE:LINE` for JSON lines; `FILE, row N` for tables, CSV, text files and JSON arrays;
            `NAME, row N` for the hub. Counted from 1.
        row: its fields; None where `problem` says why.
        problem: goes on where `where` ends ("FILE:3" + " " + "is not UTF-8 (byte 71 of the file)"). What
            precedes " (" is the kind of problem, the same for every row that has it. It contains BROKEN_OFF
            where an unknown number of rows is lost with this one.
    """

    where: str
    row: dict[str, Any] | None
    problem: str | None


class Unreadable:
    """A value of a table that Python cannot hold (a date after the year 9999), or a column that nobody asked
    for. It matters only to who reads it.

    Raises:
        UserError: it is made a text.
    """

    def __init__(self, reason: str):
        self.reason = reason

    def __repr__(self) -> str:
        return f"Unreadable({self.reason!r})"

    def __str__(self) -> str:
        raise UserError(f"a value cannot be read: {self.reason}")


NOT_READ = Unreadable("its column is not read")


def first_line(error: BaseException) -> str:
    """An error's text, cut to its first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def has_nul(byte: int) -> str:
    return f"has NUL bytes (byte {byte}: is this a binary file?)"
