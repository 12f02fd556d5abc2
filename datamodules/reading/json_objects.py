"""A JSON object that holds one array of rows, as `{"version": 1, "data": [{…}, {…}]}` → its rows."""

import codecs
import contextlib
import json
from collections.abc import Iterator
from typing import Any

from datamodules.reading.json_rows import MAX_LINE, Json, Window, broken, items
from datamodules.reading.record import Record
from datamodules.reading.streams import CANNOT_UNPACK, open_unpacked

TASK, INSTANCES = "Definition", "Instances"
"""keys of a task of Natural Instructions: what is to be done, which belongs to each row, and the rows"""
EXAMPLES = ("Positive Examples", "Negative Examples")
# what a row itself may hold a list of objects in
IN_ROWS = {
    "messages",
    "conversations",
    "conversation",
    "prompt",
    "chosen",
    "rejected",
    "completions",
    "tools",
}


def is_object(file: str, encoding: str | None = None) -> bool:
    """Whether a `.json` file is one object that holds an array of rows, rather than rows in lines."""
    with open_unpacked(file, encoding) as stream, contextlib.suppress(*CANNOT_UNPACK):
        line = stream.readline(MAX_LINE).removeprefix(codecs.BOM_UTF8)
        while line.isspace():
            line = stream.readline(MAX_LINE)
        if not line.lstrip().startswith(b"{"):
            return False
        try:
            first = json.loads(line)
        except (ValueError, RecursionError):
            return _begins_with_array(line + stream.read(MAX_LINE))  # its end is on another line
        lists = [key for key, value in first.items() if _is_rows(value)]
        if TASK in first and INSTANCES in lists:
            lists = [INSTANCES]
        return len(lists) == 1 and lists[0] not in IN_ROWS and not stream.read(MAX_LINE).strip()
    return False


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _begins_with_array(head: bytes) -> bool:
    """Whether a text that begins with `{` has, before anything that is no value of a key, a key with `[{`."""
    text, parser = head.decode("utf-8", "ignore"), json.JSONDecoder()
    place = text.index("{") + 1
    with contextlib.suppress(ValueError, IndexError, RecursionError):
        while True:
            key, place = parser.raw_decode(text, _next(text, place))
            place = _next(text, place)
            if not isinstance(key, str) or text[place] != ":":
                return False
            place = _next(text, place + 1)
            if text[place] == "[" and text[_next(text, place + 1)] == "{":
                return key not in IN_ROWS
            _, place = parser.raw_decode(text, place)
            place = _next(text, place)
            if text[place] != ",":
                return False
            place += 1
    return False


def _next(text: str, place: int) -> int:
    """Of the next character that is no white space."""
    while text[place] in " \t\r\n":
        place += 1
    return place


def object_rows(file: str, encoding: str | None = None) -> Iterator[Record]:
    """A row for each value of the array, of which a window of a few values is in memory at a time; what else
    the object holds is passed over, but not a second array of rows. A task's `Definition`, which is before
    its instances, is put into each of them; its examples are passed over."""
    parser, number, rows_in = Json(), 0, ""
    task: dict[str, Any] = {}
    with open_unpacked(file, encoding) as stream:
        window = Window(file, stream, encoding)
        window.skip("\ufeff")
        window.skip("{")
        more = True
        while more:
            try:
                key, _ = window.value(parser)
                window.skip(":")
                is_other = key in IN_ROWS or (task and key in EXAMPLES)
                if not (rows_in or is_other) and window.begins_rows():
                    rows_in = key
                    count = yield from items(window, parser, task if key == INSTANCES else {})
                    if count is None:
                        return
                    number = count
                elif not rows_in and key == TASK:
                    task[TASK] = window.value(parser)[0]
                elif _is_rows(window.value(parser)[0]) and key not in EXAMPLES:
                    problem = f"holds rows in `{rows_in}` and in `{key}`: make two files of them"
                    yield Record(f"{file}, row {number + 1}", None, problem)
                elif key == TASK and rows_in == INSTANCES:
                    problem = f"holds `{TASK}` after its `{INSTANCES}`: put it before them"
                    yield Record(f"{file}, row {number + 1}", None, problem)
            except json.JSONDecodeError as error:
                yield broken(file, number + 1, window, error.msg)
                return
            more = window.skip(",")
        if not window.skip("}") or window.peek() or window.failure:
            yield broken(file, number + 1, window, "Extra data after the rows")
