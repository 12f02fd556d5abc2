"""One file → its rows: what can be seen to be wrong with it, and which reader its ending asks for."""

import codecs
from collections.abc import Collection, Iterator
from pathlib import Path

from datamodules.errors import UserError
from datamodules.reading.csv_rows import csv_header, csv_rows
from datamodules.reading.json_objects import is_object, object_rows
from datamodules.reading.json_rows import array_rows, is_array, line_rows
from datamodules.reading.record import Record, has_nul
from datamodules.reading.streams import (
    BOMS,
    CANNOT_UNPACK,
    PACKINGS,
    cannot_unpack,
    encoding_errors,
    not_utf8,
    open_unpacked,
    packing,
)
from datamodules.reading.tables import arrow_rows, check_table, parquet_rows

DOCUMENTS = (".txt", ".md")
TEXT_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", *DOCUMENTS)  # these may be packed
ENDINGS = (*TEXT_ENDINGS, ".parquet", ".arrow")
MAX_TEXT = 200_000_000  # bytes: a text file is one row, which is held in memory


def ending(file: str) -> str:
    """The ending that says how a file is read, without that of its packing."""
    return Path(file.lower().removesuffix(packing(file))).suffix


def is_known(file: str) -> bool:
    """Whether a file's ending is that of rows."""
    return ending(file) in (TEXT_ENDINGS if packing(file) else ENDINGS)


def check_file(file: str, name: str, encoding: str | None = None) -> None:
    """Refuses what can be seen to be wrong with a file before its rows are read; `name` is the field of the
    configuration, for the message.

    Raises:
        UserError: an unknown ending; empty; another encoding than is given; packed without saying so, or the
            reverse; no Parquet or Arrow file, or one that was cut off; not readable at all.
    """
    if not is_known(file):
        raise UserError(
            f"{name}: {file} has an ending that is not known: give {', '.join(ENDINGS)} "
            f"({', '.join(TEXT_ENDINGS)} also with {', '.join(PACKINGS)})"
        )
    for line in encoding_errors(f"{name}: encoding", encoding):
        raise UserError(line)
    try:
        if not Path(file).stat().st_size:
            raise UserError(f"{name}: {file} is empty")
        if ending(file) in TEXT_ENDINGS:
            _check_text(file, name, encoding)
        else:
            check_table(file, name, "Parquet" if ending(file) == ".parquet" else "Arrow")
    except OSError as error:
        raise UserError(f"{name}: {file} cannot be read: {error.strerror or error}") from error


def read_file(
    file: str, encoding: str | None = None, columns: Collection[str] | None = None, every: int = 1
) -> Iterator[Record]:
    """All rows of a file, with bounded memory.

    Args:
        file: one that `check_file` lets pass.
        encoding: of its text; None = UTF-8.
        columns: of a table that are converted; the others' values are `NOT_READ`. None = all.
        every: of a table's rows, `every` so many pieces of SKIPPING_ROWS are given, the others passed over.

    Raises:
        OSError: the disk fails, or the file is gone.
        UserError: a table's description cannot be made sense of.
    """
    match ending(file):
        case ".parquet":
            return parquet_rows(file, columns, every)
        case ".arrow":
            return arrow_rows(file, columns, every)
        case ".txt" | ".md":
            return _text_rows(file, encoding)
        case ".csv" | ".tsv" as kind:
            return csv_rows(file, kind == ".tsv", encoding)
        case ".json" if is_array(file, encoding):
            return array_rows(file, encoding)
        case ".json" if is_object(file, encoding):
            return object_rows(file, encoding)
        case _:
            return line_rows(file, encoding)


def _check_text(file: str, name: str, encoding: str | None) -> None:
    packed = packing(file)
    with open(file, "rb") as stream:
        head = stream.read(6)
    if packed and not head.startswith(PACKINGS[packed].magic):
        raise UserError(
            f"{name}: {file} ends in {packed} but is not packed with {PACKINGS[packed].name}: rename it"
        )
    try:
        with open_unpacked(file) as stream:
            head = stream.read(6)
    except CANNOT_UNPACK:
        _check_header(file, name, encoding)
        return  # of other files the reader names the row
    if head in (b"", codecs.BOM_UTF8):
        raise UserError(f"{name}: {file} is empty")
    for other, (kind, magic) in PACKINGS.items():
        if head.startswith(magic):
            remedy = " twice: unpack it once" if other == packed else f": add {other} to its name"
            raise UserError(f"{name}: {file} is packed with {kind}{remedy}")
    found = next((name for bom, name in BOMS.items() if head.startswith(bom)), "")
    if found and encoding is None:
        raise UserError(f"{name}: {file} is {found.upper()}: set its `encoding` to {found}")
    _check_header(file, name, encoding)


def _check_header(file: str, name: str, encoding: str | None) -> None:
    if ending(file) in (".csv", ".tsv"):
        try:
            csv_header(file, ending(file) == ".tsv", encoding)
        except UserError as error:
            raise UserError(f"{name}: {file} {error}") from error


def _text_rows(file: str, encoding: str | None) -> Iterator[Record]:
    """The one row of a text file; it may be Markdown, and packed."""
    text, problem, data = None, None, b""
    try:
        with open_unpacked(file, encoding) as stream:
            data = stream.read(MAX_TEXT + 1)
        start = 3 if data.startswith(codecs.BOM_UTF8) else 0
        if len(data) > MAX_TEXT:
            problem = f"is longer than {MAX_TEXT // 1_000_000} MB (a text file is one row: split it)"
        elif b"\0" in data:
            problem = has_nul(data.index(0))
        else:
            text = data[start:].decode().replace("\r\n", "\n")
    except CANNOT_UNPACK as error:
        problem = cannot_unpack(error)
    except UnicodeDecodeError as error:
        problem = not_utf8(file, start + error.start, data, encoding)
    yield Record(f"{file}, row 1", None if text is None else {"text": text}, problem)
