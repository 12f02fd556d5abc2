"""One file → its rows: what can be seen to be wrong with it, and which reader its ending asks for."""

import codecs
import gzip
from collections.abc import Iterator
from pathlib import Path

from datamodules.errors import UserError
from datamodules.reading.json_rows import array_rows, is_array, line_rows
from datamodules.reading.record import CANNOT_UNPACK, Record, cannot_unpack, has_nul, not_utf8, open_unpacked
from datamodules.reading.tables import arrow_rows, check_table, parquet_rows

TEXT_ENDINGS = (".json", ".jsonl", ".txt", ".md")  # these may be followed by .gz
ENDINGS = (*TEXT_ENDINGS, ".parquet", ".arrow")
UTF_16_OR_32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32 LE begins as UTF-16
MAX_TEXT = 200_000_000  # bytes: a text file is one row, which is held in memory
GZIP = b"\x1f\x8b"


def ending(file: str) -> str:
    """The ending that says how a file is read, without .gz."""
    return Path(file.lower().removesuffix(".gz")).suffix


def check_file(file: str, name: str) -> None:
    """Refuses what can be seen to be wrong with a file before its rows are read; `name` is the field of the
    configuration, for the message.

    Raises:
        UserError: an unknown ending; empty; UTF-16; packed without saying so, or the reverse; no Parquet or
            Arrow file, or one that was cut off; not readable at all.
    """
    packed = file.lower().endswith(".gz")
    if ending(file) not in (TEXT_ENDINGS if packed else ENDINGS):
        raise UserError(
            f"{name}: {file} has an ending that is not known: give {', '.join(ENDINGS)} "
            f"({', '.join(TEXT_ENDINGS)} also with .gz)"
        )
    try:
        if not Path(file).stat().st_size:
            raise UserError(f"{name}: {file} is empty")
        if ending(file) in TEXT_ENDINGS:
            _check_text(file, name, packed)
        else:
            check_table(file, name, "Parquet" if ending(file) == ".parquet" else "Arrow")
    except OSError as error:
        raise UserError(f"{name}: {file} cannot be read: {error.strerror or error}") from error


def read_file(file: str) -> Iterator[Record]:
    """All rows of a file, with bounded memory.

    Raises:
        OSError: the disk fails, or the file is gone.
        UserError: a table's description cannot be made sense of.
    """
    match ending(file):
        case ".parquet":
            return parquet_rows(file)
        case ".arrow":
            return arrow_rows(file)
        case ".txt" | ".md":
            return _text_rows(file)
        case ".json" if is_array(file):
            return array_rows(file)
        case _:
            return line_rows(file)


def _check_text(file: str, name: str, packed: bool) -> None:
    try:
        with open_unpacked(file) as stream:
            head = stream.read(4)
    except gzip.BadGzipFile as error:
        raise UserError(f"{name}: {file} ends in .gz but is not packed with gzip: rename it") from error
    except CANNOT_UNPACK:
        return  # the reader names the row
    if head in (b"", codecs.BOM_UTF8):
        raise UserError(f"{name}: {file} is empty")
    if head.startswith(GZIP):
        remedy = " twice: unpack it once" if packed else ": add .gz to its name"
        raise UserError(f"{name}: {file} is packed with gzip{remedy}")
    if head.startswith(UTF_16_OR_32):
        raise UserError(
            f"{name}: {file} is UTF-16 or UTF-32: convert it to UTF-8, as with `iconv -f UTF-16 -t UTF-8`"
        )


def _text_rows(file: str) -> Iterator[Record]:
    """The one row of a text file; it may be Markdown, and packed."""
    text, problem = None, None
    try:
        with open_unpacked(file) as stream:
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
        problem = not_utf8(file, start + error.start)
    yield Record(f"{file}, row 1", None if text is None else {"text": text}, problem)
