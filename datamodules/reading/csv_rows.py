"""CSV and TSV → rows of texts. The first row names the columns; an empty cell is null."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from datamodules.errors import UserError
from datamodules.reading.json_rows import LIMIT, MAX_LINE
from datamodules.reading.record import BROKEN_OFF, Record, first_line
from datamodules.reading.streams import CANNOT_UNPACK, cannot_unpack, not_utf8, open_unpacked

SEPARATORS = ",;\t"


def csv_rows(file: str, tab: bool, encoding: str | None = None) -> Iterator[Record]:
    """The rows under the header, one at a time. A cell may hold line ends where it is quoted.

    Raises:
        UserError: the header cannot be read, or names two columns alike.
    """
    names, separator = csv_header(file, tab, encoding)
    number = 0
    with open_unpacked(file, encoding) as stream:
        cells = _cells(stream, separator)
        next(cells)
        while True:
            number += 1
            try:
                values = next(cells, None)
            except (*CANNOT_UNPACK, csv.Error) as error:
                packed = isinstance(error, CANNOT_UNPACK)
                end = cannot_unpack(error) if packed else f"is no CSV{BROKEN_OFF} ({first_line(error)})"
                yield Record(f"{file}, row {number}", None, end)
                return
            if values is None:
                return
            problem = _problem(names, values, file, encoding)
            row = None if problem else {n: v or None for n, v in zip(names, values, strict=True)}
            yield Record(f"{file}, row {number}", row, problem)


def csv_header(file: str, tab: bool, encoding: str | None = None) -> tuple[list[str], str]:
    """The names of the columns, and what separates them: a comma or, where the header has none, a semicolon
    or a tab, as some programs write it.

    Raises:
        UserError: there is none that can be read, or it names two columns alike.
    """
    try:
        with open_unpacked(file, encoding) as stream:
            line = stream.readline(MAX_LINE).decode("utf-8-sig", "surrogateescape")
        separator = "\t" if tab else next((mark for mark in SEPARATORS if mark in line), ",")
        with open_unpacked(file, encoding) as stream:
            names = next(_cells(stream, separator), [])
    except (*CANNOT_UNPACK, csv.Error) as error:
        raise UserError(f"has a header that cannot be read ({first_line(error)})") from error
    if not names:
        raise UserError("has no header: its first row must name the columns")
    if problem := _problem(names, names, file, encoding):
        raise UserError(f"has a header that {problem}")
    names = [name.strip() or f"column {number}" for number, name in enumerate(names, 1)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"has two columns `{twice[0]}`: rename one")
    return names, separator


def _cells(stream: Any, separator: str) -> Iterator[list[str]]:
    """Rows that are not blank."""
    csv.field_size_limit(MAX_LINE)  # the process's own limit is 128 KB
    # what is no UTF-8 becomes halves of surrogate pairs, so that its row is found and reading goes on
    text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
    yield from filter(None, csv.reader(_lines(text), delimiter=separator, strict=True))


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith("\n"):
            raise csv.Error(f"a line is longer than {LIMIT}")
        yield line


def _problem(names: list[str], values: list[str], file: str, encoding: str | None) -> str | None:
    if len(values) != len(names):
        return f"has {len(values)} cells where the header has {len(names)}"
    text = "\n".join(values)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            data = text.encode("utf-8", "surrogateescape")
            return not_utf8(file, len(text[: error.start].encode()), data, encoding)
    return "has NUL bytes (is this a binary file?)" if "\0" in text else None
