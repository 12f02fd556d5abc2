"""All rows of a source once, or some of a large one: what can be read of them, which are held out for
validation, and the files of both."""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from typing import Any

from datamodules.errors import UserError as DataError
from datamodules.layouts.chats import written_column
from datamodules.layouts.kinds import Kind, kind_of
from datamodules.layouts.reader import RowReader
from datamodules.reading.record import BROKEN_OFF, Record, Unreadable
from datamodules.reading.sources import read_rows
from datamodules.rendering.segments import DropRow, Row
from experiments.atomic import whole
from experiments.cli.user_errors import UserError
from experiments.init.large import (
    Place,
    copy_without,
    line_files,
    passed_files,
    passing,
    size_of,
    spread,
)

SHARE, MOST = 0.05, 1000  # of the rows that are held out, and how many at most
SAMPLE, CHARACTERS = 2000, 20_000_000  # rows whose tokens are counted, and characters of them, at most
UNREADABLE = 0.01  # share of rows that may be left out, as `max_dropped` has it
LEFT_OUT = -1  # in place of a row's key
FEW = 20  # questions: below it rows are held out, not questions


@dataclass
class Rows:
    """What is in a source."""

    asked: array = field(default_factory=lambda: array("q"))
    """of each row: a digest of what it asks, the same for rows of one question; LEFT_OUT for bad rows"""
    texts: array = field(default_factory=lambda: array("q"))
    """of each row: a digest of all of it"""
    sample: list[Record] = field(default_factory=list)
    """at random, at most SAMPLE of those that can be read"""
    left_out: dict[str, int] = field(default_factory=dict)
    """reason → rows that cannot be read"""
    first: dict[str, str] = field(default_factory=dict)
    """reason → where the first such row is"""
    files: list[str] = field(default_factory=list)
    """those of lines of which some rows alone were read"""
    places: list[Place] = field(default_factory=list)
    """of each row that was looked at, where others were not"""
    passed: int = 0
    """rows of a source of other files, where some alone were looked at"""
    bytes: int = 0
    """of the source's files"""

    @property
    def readable(self) -> int:
        """Rows that can be read; estimated where some alone were looked at."""
        readable = len(self.asked) - sum(self.left_out.values())
        if self.passed:
            return round(readable * self.passed / len(self.asked))
        looked_at = sum(place.end - place.start for place in self.places)
        return round(readable * self.bytes / looked_at) if self.files else readable


def look(path: str | list[str], reader: RowReader, kind: Kind) -> Rows:
    """Reads all rows of a source, or looks at those at some places of a large one.

    Args:
        path: as of `read_rows`.
        reader: the data module's.
        kind: of the rows, which a row of another is refused for; `prompts` are in rows of every kind.

    Raises:
        UserError: rows of two kinds, too many that cannot be read, or a file that breaks off.
    """
    paths = [path] if isinstance(path, str) else path
    rows = Rows(files=line_files(paths, reader.encoding), bytes=size_of(paths))
    sample, first = _Sample(), ""
    for record in _records(paths, reader.encoding, rows):
        try:
            if record.row is None:
                raise DataError(str(record.problem))
            _check_kind(record, kind, reader, first)
            first = first or record.where
            asked, text = _keys(record.row, reader)
        except DataError as error:
            reason = str(error).partition(" (")[0]
            if BROKEN_OFF in str(error):  # nobody knows how much is lost with it
                raise UserError(f"--data: {record.where} {error}") from error
            rows.left_out[reason] = rows.left_out.get(reason, 0) + 1
            rows.first.setdefault(reason, f"{record.where} {error}")
            asked = text = LEFT_OUT
        rows.asked.append(asked)
        rows.texts.append(text)
        if asked != LEFT_OUT:
            sample.add(record)
    rows.sample = sample.records
    if sum(rows.left_out.values()) > UNREADABLE * len(rows.asked):
        reason = max(rows.left_out, key=lambda each: rows.left_out[each])
        raise UserError(
            f"--data: {sum(rows.left_out.values()):,} of {len(rows.asked):,} rows cannot be read; the first: "
            f"{rows.first[reason]}"
        )
    if len(rows.asked) == sum(rows.left_out.values()):
        raise UserError(f"--data: {path} has no rows")
    return rows


class _Sample:
    """Records at random: those of the smallest of random numbers, as many as SAMPLE and CHARACTERS let be."""

    def __init__(self) -> None:
        self._random, self._size = Random(0), 0
        self._kept: list[tuple[float, int, Record]] = []  # the largest number first

    def add(self, record: Record) -> None:
        heappush(self._kept, (-self._random.random(), _characters(record), record))
        self._size += _characters(record)
        while len(self._kept) > 1 and (len(self._kept) > SAMPLE or self._size > CHARACTERS):
            self._size -= heappop(self._kept)[1]

    @property
    def records(self) -> list[Record]:
        return [record for _, _, record in sorted(self._kept, key=lambda kept: -kept[0])]


def _characters(record: Record) -> int:
    return sum(len(value) if isinstance(value, str) else 1000 for value in (record.row or {}).values())


def _records(paths: list[str], encoding: str | None, rows: Rows) -> Iterator[Record]:
    if not (rows.files or (passed := passed_files(paths))):
        yield from read_rows(paths, "--data", encoding)
        return
    for place, record in spread(rows.files) if rows.files else passing(passed, encoding):
        if record is None:
            rows.passed = place.start
            return
        rows.places.append(place)
        yield record


def _check_kind(record: Record, kind: Kind, reader: RowReader, first: str) -> None:
    assert record.row is not None
    own = kind_of(record.row, reader.columns)
    if own in (None, kind, "other") or kind == "prompts":
        return
    if kind == "documents" and written_column(record.row):  # a text that looks like a conversation is one too
        return
    raise UserError(
        f"--data: {record.where} is a row of {own}, but {first or 'most'} of {kind}: give files of one kind "
        "each, or `--columns` for what they share"
    )


def _keys(row: Row, reader: RowReader) -> tuple[int, int]:
    """Digests of what a row asks, and of all of it."""
    try:
        ours = reader.read(row).row
    except DropRow:  # it will be left out and counted
        ours = row
    asked: Any = [ours.get("instruction"), ours.get("input")]
    for column in ("messages", "chosen"):
        turns = ours.get(column)
        if isinstance(turns, list) and turns:
            answered = isinstance(turns[-1], dict) and turns[-1].get("role") == "assistant"
            asked = turns[:-1] if answered and len(turns) > 1 else turns
            break
    if asked == [None, None]:
        asked = ours
    return _digest(asked), _digest(ours)


def _digest(value: Any) -> int:
    """A number of 63 bits."""
    text = json.dumps(value, ensure_ascii=True, default=repr, sort_keys=False)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def uses_tools(sample: list[Record], reader: RowReader) -> bool:
    """Whether any row of a sample declares tools, calls them or has their results."""
    for record in sample:
        try:
            row = reader.read(record.row or {}).row
        except DataError:
            continue
        turns = [turn for turn in row.get("messages") or () if isinstance(turn, dict)]
        if row.get("tools") or any(turn.get("tool_calls") or turn.get("role") == "tool" for turn in turns):
            return True
    return False


def by_questions(rows: Rows) -> bool:
    """Whether there are enough questions to hold some of them out."""
    return len({*rows.asked}) >= FEW


def held_out(rows: Rows) -> set[int]:
    """Numbers of the rows to validate on: SHARE of them, at least one, by questions, so that none is in both
    parts; empty where there is no second one. Of rows at some places of large files, those of questions that
    no neighbour outside of the place may share."""
    keys = rows.asked if by_questions(rows) else rows.texts
    windows = [place.window for place in rows.places]
    ends = {n for n in range(len(windows)) if windows[n - 1 : n] != windows[n : n + 1]}
    edges = {keys[number] for end in ends for number in (end - 1, end)}
    by_key = _numbers(keys, edges)
    if len(by_key) < 2:  # rows are too long for several in a window
        by_key = _numbers(keys, set())
    if len(by_key) < 2:
        return set()
    wanted = min(MOST, max(1, round(SHARE * rows.readable)))
    chosen: set[int] = set()
    for key in sorted(by_key):  # a digest's order is as good as any
        if len(chosen) + len(by_key[key]) <= max(wanted, len(by_key[key]) if not chosen else 0):
            chosen.update(by_key[key])
        if len(chosen) >= wanted:
            break
    return chosen if len(chosen) < rows.readable else set()


def _numbers(keys: array, without: set[int]) -> dict[int, list[int]]:
    """Key → the numbers of its rows."""
    by_key: dict[int, list[int]] = {}
    for number, key in enumerate(keys):
        if key != LEFT_OUT and key not in without:
            by_key.setdefault(key, []).append(number)
    return by_key


def write_parts(
    path: str | list[str], encoding: str | None, rows: Rows, val: set[int], train: Path, held: Path
) -> None:
    """Writes the rows that can be read, as they are, to two files of JSON lines; large files of such lines as
    they are. Of rows that nobody has looked at, those of no known layout stay."""
    if rows.files:
        copy_without(rows.files, [rows.places[number] for number in val], train, held)
        return
    if rows.passed:
        val = {rows.places[number].start for number in val}
        zipped = zip(rows.places, rows.asked, strict=True)
        left_out = {place.start for place, key in zipped if key == LEFT_OUT}
    else:
        left_out = {number for number, key in enumerate(rows.asked) if key == LEFT_OUT}
    with whole(train) as one, whole(held) as other, one.open("wb") as first, other.open("wb") as second:
        for number, record in enumerate(read_rows(path, "--data", encoding)):
            if record.row is not None and number not in left_out:
                (second if number in val else first).write(_line(record.row))


def write_sample(rows: Rows, file: Path) -> None:
    """Writes the sample's rows to a file of JSON lines."""
    with whole(file) as part:
        part.write_bytes(b"".join(_line(record.row or {}) for record in rows.sample))


def cut_text(record: Record, train: Path, held: Path) -> bool:
    """Writes the beginning and the end of one long text, cut at the end of a paragraph, or else of a line, as
    two files; whether it is long enough."""
    text = str((record.row or {}).get("text", ""))
    for end in ("\n\n", "\n"):
        place = text.rfind(end, 0, round((1 - SHARE) * len(text))) + len(end)
        if place > len(text) // 2 and text[place:].strip():
            with whole(train) as one, whole(held) as other:
                one.write_bytes(_line({"text": text[:place]}))
                other.write_bytes(_line({"text": text[place:]}))
            return True
    return False


def _line(row: Row) -> bytes:
    kept = {name: value for name, value in row.items() if not isinstance(value, Unreadable)}
    text = json.dumps(kept, ensure_ascii=False, default=str) + "\n"
    return text.encode("utf-8", "backslashreplace")
