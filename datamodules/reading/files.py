"""Rows of one file as a stream of records: JSON lines, JSON arrays, text, Parquet, Arrow. A row that cannot
be read becomes a record that says why, and reading goes on with the next."""

import codecs
import contextlib
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from datasets.features.features import require_decoding

from datamodules.errors import UserError

BROKEN_OFF = ", nor can what follows be read"  # in a problem that also costs the rest of the file
MAX_LINE = 10_000_000  # bytes of a line of JSON
_LIMIT = f"{MAX_LINE // 1_000_000} MB"
MAX_TEXT = 200_000_000  # bytes of a text file, which is one row
BLOCK = 1 << 20  # bytes
TABLE_ROWS = 256  # turned into Python objects at once
TEXT_ENDINGS = (".json", ".jsonl", ".txt", ".md")  # these may be followed by .gz
ENDINGS = (*TEXT_ENDINGS, ".parquet", ".arrow")
UTF_16_OR_32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32 LE begins as UTF-16
GZIP = b"\x1f\x8b"
ARROW_ENDS = (b"\xff\xff\xff\xff\0\0\0\0", b"ARROW1")  # of its stream and its file format
CANNOT_UNPACK = (EOFError, gzip.BadGzipFile, zlib.error)
STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]+|\\.)*"|(NaN|-?Infinity)')
WHITESPACE = re.compile(r"[ \t\n\r]*")
SURROGATE = re.compile("[\ud800-\udfff]")


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


def ending(file: str) -> str:
    """The ending that says how a file is read, without .gz."""
    return Path(file.lower().removesuffix(".gz")).suffix


def check_file(file: str, name: str) -> None:
    """Refuses what can be seen to be wrong with a file before its rows are read.

    Args:
        file: its path.
        name: the field of the configuration, for the message.

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
            _check_table(file, name)
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
            return _parquet_rows(file)
        case ".arrow":
            return _arrow_rows(file)
        case ".txt" | ".md":
            return _text_rows(file)
        case ".json" if _is_array(file):
            return _array_rows(file)
        case _:
            return _line_rows(file)


def open_unpacked(file: str) -> io.BufferedReader | gzip.GzipFile:
    """A file's bytes, unpacked where it ends in .gz."""
    return gzip.open(file, "rb") if file.lower().endswith(".gz") else open(file, "rb")


def surrogate_in(row: Any) -> str | None:
    """The path of the first string with half of a surrogate pair (`messages[0].content`), None without."""
    left: list[tuple[str, Any]] = [("", row)]
    while left:  # no recursion: `json` nests deeper than Python functions may
        path, value = left.pop()
        if isinstance(value, str):
            if not value.isascii() and SURROGATE.search(value):
                return path
        elif isinstance(value, dict):
            places = [(f"{path}.{key}" if path else key, key, item) for key, item in value.items()]
            left += [(place, part) for place, key, item in reversed(places) for part in (item, key)]
        elif isinstance(value, list):
            left += [(f"{path}[{i}]", value[i]) for i in reversed(range(len(value)))]
    return None


def first_line(error: BaseException) -> str:
    """An error's text, cut to its first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# Checks


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


def _check_table(file: str, name: str) -> None:
    kind = "Parquet" if ending(file) == ".parquet" else "Arrow"
    try:
        if kind == "Parquet":
            with pq.ParquetFile(file) as table:
                columns, empty = table.schema_arrow.names, not table.metadata.num_rows
        else:
            columns, empty = _arrow_columns(file), False
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = first_line(error)
        raise UserError(f"{name}: {file} is no whole {kind} file, perhaps cut off: {reason}") from error
    if empty:
        raise UserError(f"{name}: {file} is empty")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise UserError(f"{name}: {file} has two columns `{twice[0]}`: rename one")


def _arrow_columns(file: str) -> list[str]:
    """Raises pa.ArrowInvalid unless the file has a schema and an end."""
    with open(file, "rb") as stream:
        stream.seek(-min(8, Path(file).stat().st_size), 2)
        tail = stream.read()
    if not tail.endswith(ARROW_ENDS):
        raise pa.ArrowInvalid("it has no end mark")
    with pa.memory_map(file) as source:
        return _arrow_reader(source).schema.names


# JSON


class _Json:
    """A parser that also finds what `json` lets pass: repeated keys, NaN, halves of surrogate pairs."""

    def __init__(self) -> None:
        self.repeated: list[str] = []
        self.constants: list[str] = []
        self.decode = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self.constants.append
        ).raw_decode

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            seen: set[str] = set()
            self.repeated += [key for key, _ in pairs if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
        return fields

    def value(self, text: str, start: int) -> tuple[Any, int]:
        """The value that begins at `start`, and where it ends.

        Raises:
            json.JSONDecodeError: there is none.
        """
        self.repeated.clear()
        self.constants.clear()
        try:
            return self.decode(text, start)
        except json.JSONDecodeError:
            raise
        except RecursionError:
            raise json.JSONDecodeError("Nested too deeply", text, start) from None
        except ValueError:  # Python's limit for integers
            raise json.JSONDecodeError("A number of thousands of digits", text, start) from None

    def problem(self, row: Any, text: str, start: int, end: int) -> str | None:
        """What is wrong with the value just parsed from `text[start:end]`."""
        if self.constants:
            found = next(match for match in STRING_OR_CONSTANT.finditer(text, start, end) if match[1])
            return f"is not JSON ({found[1]} at column {found.start() - start + 1})"
        if not isinstance(row, dict):
            return f"is not a JSON object (but {_kind(row)})"
        if self.repeated:
            return f"repeats a key (`{_shown(self.repeated[0])}`)"
        part = text if len(text) == end - start else text[start:end]
        if "\\ud" in part or "\\uD" in part:
            return _surrogate_problem(row)
        return None

    def line(self, text: str) -> tuple[dict[str, Any] | None, str | None]:
        """The object that is all of a line, or what is wrong with it."""
        try:
            row, end = self.value(text, _skip_space(text, 0))
            if (rest := _skip_space(text, end)) != len(text):
                raise json.JSONDecodeError("Extra data", text, rest)
        except json.JSONDecodeError as error:
            return None, f"is not JSON ({error.msg} at column {error.pos + 1})"
        problem = self.problem(row, text, 0, len(text))
        return (None, problem) if problem else (row, None)


def _skip_space(text: str, start: int) -> int:
    return WHITESPACE.match(text, start).end()  # type: ignore[union-attr]


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _surrogate_problem(row: Any) -> str | None:
    path = surrogate_in(row)
    return None if path is None else f"has half of a surrogate pair (in `{_shown(path)}`)"


def _cannot_unpack(error: BaseException) -> str:
    return f"cannot be unpacked{BROKEN_OFF} ({first_line(error)})"


def _not_utf8(file: str, byte: int, more: str = "") -> str:
    unpacked = "unpacked " if file.lower().endswith(".gz") else ""
    return f"is not UTF-8{more} (byte {byte} of the {unpacked}file)"


def _has_nul(byte: int) -> str:
    return f"has NUL bytes (byte {byte}: is this a binary file?)"


# JSON lines


def _line_rows(file: str) -> Iterator[Record]:
    parser = _Json()
    number = start = 0  # of the line; of its first byte, from 0
    with open_unpacked(file) as stream:
        while True:
            number += 1
            try:
                line, size = _next_line(stream)
            except CANNOT_UNPACK as error:
                yield Record(f"{file}:{number}", None, _cannot_unpack(error))
                return
            if not size:
                return
            if number == 1 and line.startswith(codecs.BOM_UTF8):
                line, start, size = line[3:], 3, size - 3
            line = line.rstrip(b"\r\n")
            if line and not line.isspace():
                row, problem = _line_row(parser, line, file, start)
                yield Record(f"{file}:{number}", row, problem)
            start += size


def _next_line(stream: io.BufferedReader | gzip.GzipFile) -> tuple[bytes, int]:
    """The next line, of which no more than MAX_LINE + 2 bytes are kept, and its size; (b"", 0) at the end."""
    line = stream.readline(MAX_LINE + 2)
    size = len(line)
    if size == MAX_LINE + 2 and not line.endswith(b"\n"):
        while piece := stream.readline(BLOCK):
            size += len(piece)
            if piece.endswith(b"\n"):
                break
    return line, size


def _line_row(parser: _Json, line: bytes, file: str, start: int) -> tuple[dict[str, Any] | None, str | None]:
    if len(line) > MAX_LINE:
        return None, f"is longer than {_LIMIT}"
    if b"\0" in line:
        return None, _has_nul(start + line.index(0))
    try:
        return parser.line(line.decode())
    except UnicodeDecodeError as error:
        return None, _not_utf8(file, start + error.start)


# JSON arrays


def _is_array(file: str) -> bool:
    with open_unpacked(file) as stream, contextlib.suppress(*CANNOT_UNPACK):
        while piece := stream.read1(BLOCK):
            if text := piece.removeprefix(codecs.BOM_UTF8).lstrip():
                return text.startswith(b"[")
    return False


class _Window:
    """The part of a long text that is being parsed. `failure` says why the text ends early, where it does."""

    def __init__(self, file: str, stream: io.BufferedReader | gzip.GzipFile):
        self.file, self.stream = file, stream
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.position, self.bytes = "", 0, 0
        self.ended, self.failure = False, ""

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            self.position = _skip_space(self.text, self.position)
            if self.position < len(self.text):
                return self.text[self.position]
            if self.ended:
                return ""
            self._more()

    def skip(self, mark: str) -> bool:
        """Moves past `mark` where it is what comes next."""
        found = self.peek() == mark
        self.position += found
        return found

    def value(self, parser: _Json) -> tuple[Any, str | None]:
        """The next value and what is wrong with it; moves past it.

        Raises:
            json.JSONDecodeError: there is none.
        """
        self.peek()
        while True:
            try:
                value, end = parser.value(self.text, self.position)
            except json.JSONDecodeError as error:
                if self.ended:
                    raise
                if len(self.text) - self.position > MAX_LINE:
                    raise json.JSONDecodeError(f"{error.msg}, or longer than {_LIMIT}", "", 0) from None
            else:
                if end < len(self.text) or self.ended:
                    break
            self._more()
        start, self.position = self.position, end
        return value, parser.problem(value, self.text, start, end)

    def _more(self) -> None:
        """Drops what was parsed and doubles what is left."""
        pieces, self.position = [self.text[self.position :]], 0
        size = len(pieces[0])
        wanted = max(BLOCK, 2 * size)
        while size < wanted and not self.ended:
            pieces.append(self._piece())
            size += len(pieces[-1])
        self.text = "".join(pieces)

    def _piece(self) -> str:
        first = self.bytes - len(self.decoder.getstate()[0])
        try:
            data = self.stream.read1(BLOCK)
            self.bytes += len(data)
            self.ended = not data
            return self.decoder.decode(data, final=self.ended)
        except CANNOT_UNPACK as error:
            self.failure, self.ended = _cannot_unpack(error), True
            return ""
        except UnicodeDecodeError as error:
            self.failure, self.ended = _not_utf8(self.file, first + error.start, BROKEN_OFF), True
            return error.object[: error.start].decode()


def _array_rows(file: str) -> Iterator[Record]:
    parser, number = _Json(), 0
    with open_unpacked(file) as stream:
        window = _Window(file, stream)
        window.skip("\ufeff")
        window.skip("[")
        more = not window.skip("]")
        while more:
            number += 1
            try:
                row, problem = window.value(parser)
            except json.JSONDecodeError as error:
                yield _broken(file, number, window, error.msg)
                return
            yield Record(f"{file}, row {number}", None if problem else row, problem)
            more = window.skip(",")
            if not more and not window.skip("]"):
                yield _broken(file, number + 1, window, "Expecting ',' delimiter")
                return
        if window.peek() or window.failure:
            yield _broken(file, number + 1, window, "Extra data after the array")


def _broken(file: str, number: int, window: _Window, reason: str) -> Record:
    return Record(f"{file}, row {number}", None, window.failure or f"is not JSON{BROKEN_OFF} ({reason})")


# Text


def _text_rows(file: str) -> Iterator[Record]:
    text, problem = None, None
    try:
        with open_unpacked(file) as stream:
            data = stream.read(MAX_TEXT + 1)
        start = 3 if data.startswith(codecs.BOM_UTF8) else 0
        if len(data) > MAX_TEXT:
            problem = f"is longer than {MAX_TEXT // 1_000_000} MB (a text file is one row: split it)"
        elif b"\0" in data:
            problem = _has_nul(data.index(0))
        else:
            text = data[start:].decode().replace("\r\n", "\n")
    except CANNOT_UNPACK as error:
        problem = _cannot_unpack(error)
    except UnicodeDecodeError as error:
        problem = _not_utf8(file, start + error.start)
    yield Record(f"{file}, row 1", None if text is None else {"text": text}, problem)


# Parquet and Arrow


def _parquet_rows(file: str) -> Iterator[Record]:
    with pq.ParquetFile(file) as table:
        yield from _table_rows(file, table.iter_batches(TABLE_ROWS), table.schema_arrow)


def _arrow_rows(file: str) -> Iterator[Record]:
    with pa.memory_map(file) as source:
        reader = _arrow_reader(source)
        yield from _table_rows(file, _arrow_batches(reader), reader.schema)


def _arrow_reader(source: Any) -> Any:
    """A reader of either of Arrow's two file formats."""
    whole = source.read(6) == b"ARROW1"
    source.seek(0)
    return pa.ipc.open_file(source) if whole else pa.ipc.open_stream(source)


def _arrow_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)


def _table_rows(file: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[Record]:
    number, decode = 0, _decoder(schema)
    try:
        for batch in batches:
            for start in range(0, batch.num_rows, TABLE_ROWS):
                for row, problem in _python_rows(batch.slice(start, TABLE_ROWS)):
                    number += 1
                    if row is not None and decode:
                        row, problem = _decoded(row, decode)
                    yield Record(f"{file}, row {number}", None if problem else row, problem)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        yield Record(f"{file}, row {number + 1}", None, f"cannot be read{BROKEN_OFF} ({first_line(error)})")


def _decoder(schema: pa.Schema) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
    """What turns stored columns into those that `datasets` shows (JSON kept as text), where they differ."""
    if b"huggingface" not in (schema.metadata or {}):
        return None
    features = Features.from_arrow_schema(schema)
    return features.decode_example if any(map(require_decoding, features.values())) else None


def _decoded(
    row: dict[str, Any], decode: Callable[[dict[str, Any]], dict[str, Any]]
) -> tuple[dict[str, Any] | None, str | None]:
    try:
        return decode(row), None
    except ValueError as error:
        return None, f"is damaged ({first_line(error)})"


def _python_rows(batch: pa.RecordBatch) -> list[tuple[dict[str, Any] | None, str | None]]:
    try:
        batch.validate(full=True)  # damaged offsets would end the process
        return [(row, None) for row in batch.to_pylist()]
    except ValueError as error:
        if batch.num_rows == 1:
            utf8 = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
            return [(None, f"{'is not UTF-8' if utf8 else 'is damaged'} ({first_line(error)})")]
    return [pair for i in range(batch.num_rows) for pair in _python_rows(batch.slice(i, 1))]
