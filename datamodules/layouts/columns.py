"""The `columns` mapping: our name for a column ← theirs, which may lie inside another column."""

from collections.abc import Iterator, Mapping
from typing import Any

from datamodules.reading.record import Unreadable
from datamodules.rendering.segments import BadRow, Row, present_in

OPTIONAL = {"input", "steps", "system", "reply_prefix", "tools", "ratings", "agreement", "labels", "category"}
"""our columns that not every row needs"""
MISSING = object()


def value_at(row: Row, path: str) -> Any:
    """The value of a column, or of a part of one: `meta.text`, `turns.0.value`; MISSING where there is none.

    Raises:
        BadRow: it lies in a value that cannot be read.
    """
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif (
            isinstance(value, list) and part.lstrip("-").isdecimal() and -len(value) <= int(part) < len(value)
        ):
            value = value[int(part)]
        elif value is None:
            return None
        else:
            return MISSING
        if isinstance(value, Unreadable):
            raise BadRow(f"`{path}` cannot be read: {value.reason}")
    return value


def mapped(row: Row, columns: Mapping[str, str]) -> Row:
    """A row with our columns in place of theirs; what is not mapped stays.

    Raises:
        BadRow: one that every row needs is not there.
    """
    ours: Row = {}
    for our, their in columns.items():
        value = value_at(row, their)
        if value is MISSING and our not in OPTIONAL:
            raise BadRow(f"no `{their}`, which `columns` calls `{our}` (it has {present_in(row)})")
        ours[our] = None if value is MISSING else value
    theirs = {their for our, their in columns.items() if our != their}
    return {**{name: value for name, value in row.items() if name not in theirs}, **ours}


def never_there(rows: Iterator[Row], columns: Mapping[str, str]) -> list[str]:
    """What of the mapping's optional columns none of some rows has, a line each."""
    wanted = {our: their for our, their in columns.items() if our in OPTIONAL}
    first: Row = {}
    for row in rows:
        first = first or row
        wanted = {our: their for our, their in wanted.items() if value_at(row, their) is MISSING}
        if not wanted:
            return []
    if not first:
        return []
    return [
        f"`columns` calls `{their}` `{our}`, but no row has it (the first has {present_in(first)})"
        for our, their in wanted.items()
    ]
