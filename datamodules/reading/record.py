"""A row as it is read, or why it cannot be: what the readers of every kind of file share."""

import gzip
import io
import zlib
from typing import Any, NamedTuple

BROKEN_OFF = ", nor can what follows be read"  # in a problem that also costs the rest of the file
BLOCK = 1 << 20  # bytes read at once
CANNOT_UNPACK = (EOFError, gzip.BadGzipFile, zlib.error)


class Record(NamedTuple):
    """One row of a source, or why it cannot be read.

    Fields:
        where: `FILE:LINE` for JSON lines; `FILE, row N` for Parquet, Arrow, text files and JSON arrays;
            `NAME, row N` for the hub. Counted from 1.
        row: its fields; None where `problem` says why.
        problem: goes on where `where` ends ("FILE:3" + " " + "is not UTF-8 (byte 71 of the file)"). What
            precedes " (" is the kind of problem, the same for every row that has it. It contains BROKEN_OFF
            where an unknown number of rows is lost with this one.
    """

    where: str
    row: dict[str, Any] | None
    problem: str | None


def open_unpacked(file: str) -> io.BufferedReader | gzip.GzipFile:
    """A file's bytes, unpacked where it ends in .gz."""
    return gzip.open(file, "rb") if file.lower().endswith(".gz") else open(file, "rb")


def first_line(error: BaseException) -> str:
    """An error's text, cut to its first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def cannot_unpack(error: BaseException) -> str:
    return f"cannot be unpacked{BROKEN_OFF} ({first_line(error)})"


def not_utf8(file: str, byte: int, more: str = "") -> str:
    unpacked = "unpacked " if file.lower().endswith(".gz") else ""
    return f"is not UTF-8{more} (byte {byte} of the {unpacked}file)"


def has_nul(byte: int) -> str:
    return f"has NUL bytes (byte {byte}: is this a binary file?)"
