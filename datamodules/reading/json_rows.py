"""JSON lines and JSON arrays → rows. A row that cannot be read becomes a record that says why, and reading
goes on with the next."""

import codecs
import contextlib
import json
import re
from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple

from datamodules.reading.record import BLOCK, BROKEN_OFF, Record, has_nul
from datamodules.reading.streams import CANNOT_UNPACK, cannot_unpack, not_utf8, open_unpacked

MAX_LINE = 10_000_000  # bytes of a line, characters of an array's row
LIMIT = f"{MAX_LINE // 1_000_000} MB"
STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]+|\\.)*"|(NaN|-?Infinity)')
WHITESPACE = re.compile(r"[ \t\n\r]*")
SURROGATE = re.compile("[\ud800-\udfff]")


class Json:
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
            constant = next(match for match in STRING_OR_CONSTANT.finditer(text, start, end) if match[1])
            return f"is not JSON ({constant[1]} at column {constant.start() - start + 1})"
        if not isinstance(row, dict):
            return f"is not a JSON object (but {_kind(row)})"
        if self.repeated:
            return f"repeats a key (`{_shown(self.repeated[0])}`)"
        part = text if len(text) == end - start else text[start:end]
        if "\\ud" in part or "\\uD" in part:
            path = surrogate_in(row)
            return None if path is None else f"has half of a surrogate pair (in `{_shown(path)}`)"
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


def line_rows(file: str, encoding: str | None = None) -> Iterator[Record]:
    """A row for each line of a file, one line in memory at a time; blank lines are counted and left out."""
    parser = Json()
    number = start = 0  # of the line; of its first byte, from 0
    with open_unpacked(file, encoding) as stream:
        while True:
            number += 1
            try:
                line, size = _next_line(stream)
            except CANNOT_UNPACK as error:
                yield Record(f"{file}:{number}", None, cannot_unpack(error))
                return
            if not size:
                return
            if line.startswith(codecs.BOM_UTF8):  # later ones are of files that were put one after another
                line, start, size = line[3:], start + 3, size - 3
            line = line.rstrip(b"\r\n")
            if line and not line.isspace():
                row, problem = _line_row(parser, line, file, start, encoding)
                yield Record(f"{file}:{number}", row, problem)
            start += size


class Placed(NamedTuple):
    """A row of a file of JSON lines and the bytes of its line, from 0."""

    record: Record
    start: int
    end: int


def rows_from(file: str, start: int, size: int) -> Iterator[Placed]:
    """The rows of a file of JSON lines, UTF-8 and not packed, that begin within so many bytes from a byte on;
    a row's `where` is `FILE, byte N`."""
    parser = Json()
    with open(file, "rb") as stream:
        stream.seek(max(0, start - 1))
        place = start if start == 0 else start - 1 + _next_line(stream)[1]  # past the line that began before
        while place < start + size:
            line, length = _next_line(stream)
            if not length:
                return
            text = line.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n")
            if text and not text.isspace():
                row, problem = _line_row(parser, text, file, place, None)
                yield Placed(Record(f"{file}, byte {place}", row, problem), place, place + length)
            place += length


def _next_line(stream: Any) -> tuple[bytes, int]:
    """The next line, of which no more than MAX_LINE + 2 bytes are kept, and its size; (b"", 0) at the end."""
    line = stream.readline(MAX_LINE + 2)
    size = len(line)
    if size == MAX_LINE + 2 and not line.endswith(b"\n"):
        while piece := stream.readline(BLOCK):
            size += len(piece)
            if piece.endswith(b"\n"):
                break
    return line, size


def _line_row(
    parser: Json, line: bytes, file: str, start: int, encoding: str | None
) -> tuple[dict[str, Any] | None, str | None]:
    if len(line) > MAX_LINE:
        return None, f"is longer than {LIMIT}"
    if b"\0" in line:
        return None, has_nul(start + line.index(0))
    try:
        return parser.line(line.decode())
    except UnicodeDecodeError as error:
        return None, not_utf8(file, start + error.start, line, encoding)


def is_array(file: str, encoding: str | None = None) -> bool:
    """Whether a `.json` file holds one array; else it holds lines."""
    with open_unpacked(file, encoding) as stream, contextlib.suppress(*CANNOT_UNPACK):
        while piece := stream.read1(BLOCK):
            if text := piece.removeprefix(codecs.BOM_UTF8).lstrip():
                return text.startswith(b"[")
    return False


class Window:
    """The part of a long text that is being parsed: it moves on as values are taken from its front.

    `failure` says why the text ends early (packed data that breaks off, a byte that is not UTF-8).
    """

    def __init__(self, file: str, stream: Any, encoding: str | None = None):
        self.file, self.stream, self.encoding = file, stream, encoding
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
        is_next = self.peek() == mark
        self.position += is_next
        return is_next

    def begins_rows(self) -> bool:
        """Whether what comes next is an array whose first value is an object."""
        if self.peek() != "[":
            return False
        self.position += 1
        first = self.peek()
        self.text, self.position = "[" + self.text[self.position :], 0
        return first == "{"

    def value(self, parser: Json) -> tuple[Any, str | None]:
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
                    raise json.JSONDecodeError(f"{error.msg}, or longer than {LIMIT}", "", 0) from None
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
            self.failure, self.ended = cannot_unpack(error), True
            return ""
        except UnicodeDecodeError as error:
            self.failure = not_utf8(self.file, first + error.start, data, self.encoding, BROKEN_OFF)
            self.ended = True
            return error.object[: error.start].decode()


def array_rows(file: str, encoding: str | None = None) -> Iterator[Record]:
    """A row for each value of an array, of which a window of a few values is in memory at a time."""
    with open_unpacked(file, encoding) as stream:
        window = Window(file, stream, encoding)
        window.skip("\ufeff")
        number = yield from items(window, Json())
        if number is not None and (window.peek() or window.failure):
            yield broken(file, number + 1, window, "Extra data after the array")


def items(
    window: Window, parser: Json, shared: Mapping[str, Any] | None = None
) -> Generator[Record, None, int | None]:
    """A row for each value of the array that begins next, with what the rows share; gives their number, or
    None where it breaks off."""
    file, number = window.file, 0
    window.skip("[")
    more = not window.skip("]")
    while more:
        number += 1
        try:
            row, problem = window.value(parser)
        except json.JSONDecodeError as error:
            yield broken(file, number, window, error.msg)
            return None
        if problem is None and shared:
            row = {**shared, **row}
        yield Record(f"{file}, row {number}", None if problem else row, problem)
        more = window.skip(",")
        if not more and not window.skip("]"):
            yield broken(file, number + 1, window, "Expecting ',' delimiter")
            return None
    return number


def broken(file: str, number: int, window: Window, reason: str) -> Record:
    """What stands in place of the rows that cannot be read any more."""
    return Record(f"{file}, row {number}", None, window.failure or f"is not JSON{BROKEN_OFF} ({reason})")
