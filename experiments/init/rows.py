"""All rows of a source once: what can be read of them, which are held out for validation, and the files of
both."""

import json
from array import array
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

from datamodules.errors import UserError as DataError
from datamodules.layouts.kinds import Kind, kind_of
from datamodules.layouts.reader import RowReader
from datamodules.reading.record import BROKEN_OFF, Record, Unreadable
from datamodules.reading.sources import read_rows
from datamodules.rendering.segments import DropRow, Row
from experiments.atomic import whole
from experiments.cli.user_errors import UserError

SHARE, MOST = 0.05, 1000  # of the rows that are held out, and how many at most
SAMPLE = 2000  # rows whose tokens are counted
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

    @property
    def readable(self) -> int:
        """Rows that can be read."""
        return len(self.asked) - sum(self.left_out.values())


def look(path: str | list[str], reader: RowReader, kind: Kind) -> Rows:
    """Reads all rows of a source.

    Args:
        path: as of `read_rows`.
        reader: the data module's.
        kind: of the rows, which a row of another is refused for; `prompts` are in rows of every kind.

    Raises:
        UserError: rows of two kinds, too many that cannot be read, or a file that breaks off.
    """
    rows, random = Rows(), Random(0)
    first = ""
    for record in read_rows(path, "--data", reader.encoding):
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
        if asked != LEFT_OUT:  # Vitter 1985, algorithm R
            if len(rows.sample) < SAMPLE:
                rows.sample.append(record)
            elif (place := random.randrange(rows.readable)) < SAMPLE:
                rows.sample[place] = record
    if sum(rows.left_out.values()) > UNREADABLE * len(rows.asked):
        reason = max(rows.left_out, key=lambda each: rows.left_out[each])
        raise UserError(
            f"--data: {sum(rows.left_out.values()):,} of {len(rows.asked):,} rows cannot be read; the first: "
            f"{rows.first[reason]}"
        )
    if not rows.readable:
        raise UserError(f"--data: {path} has no rows")
    return rows


def _check_kind(record: Record, kind: Kind, reader: RowReader, first: str) -> None:
    assert record.row is not None
    own = kind_of(record.row, reader.columns)
    if own in (None, kind, "other") or kind == "prompts":
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


def held_out(rows: Rows) -> set[int]:
    """Numbers of the rows to validate on: SHARE of them, at least one, by questions, so that none is in both
    parts; empty where there is no second one."""
    keys = rows.asked if len({*rows.asked}) >= FEW else rows.texts
    by_key: dict[int, list[int]] = {}
    for number, key in enumerate(keys):
        if key != LEFT_OUT:
            by_key.setdefault(key, []).append(number)
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


def write_parts(
    path: str | list[str], encoding: str | None, rows: Rows, val: set[int], train: Path, held: Path
) -> None:
    """Writes the rows that can be read, as they are, to two files of JSON lines."""
    with whole(train) as one, whole(held) as other, one.open("wb") as first, other.open("wb") as second:
        for number, record in enumerate(read_rows(path, "--data", encoding)):
            if record.row is not None and rows.asked[number] != LEFT_OUT:
                (second if number in val else first).write(_line(record.row))


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
