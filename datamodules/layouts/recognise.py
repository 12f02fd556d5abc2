"""A file that nobody has described → what its rows are: the kind of data, the layout, the columns."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from datamodules.errors import UserError
from datamodules.layouts.columns import never_there
from datamodules.layouts.kinds import kind_of
from datamodules.layouts.layout import Layout
from datamodules.layouts.reader import OURS, Kind, RowReader
from datamodules.reading.record import Record
from datamodules.reading.sources import read_rows
from datamodules.rendering.segments import BadRow, DropRow, Row

LOOKED_AT = 1000  # rows
CHARACTERS = 20_000_000  # or fewer rows, where they are long


class Recognised(NamedTuple):
    """What a file's first rows are."""

    kind: Kind
    """whose data module reads them: `documents` MixedCorpusData, `instructions` InstructionData,
    `preferences` PreferenceData, `prompts` PromptData, `tokens` TokenData"""
    layout: str
    """in words, as in the receipt"""
    columns: dict[str, str]
    """our name ← theirs, where they differ; the layout is found without it too"""
    is_chat: bool
    """whether any of the rows has `messages`, which ask for `ChatTemplate`"""
    rows: list[Row]
    """the first ones, as they are in the file"""


def recognise(
    path: str | list[str],
    name: str,
    encoding: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Recognised:
    """What the first rows of a source are; of several kinds the one that most of them have.

    Args:
        path: as of `read_rows`.
        name: what to call it in messages.
        encoding: of its text; None = UTF-8.
        columns: our name ← theirs, as of a data module.

    Raises:
        UserError: it cannot be read, or its rows have no layout that is known.
    """
    records = list(_first(read_rows(path, name, encoding)))
    rows = [record.row for record in records if record.row is not None]
    if not rows:
        first = next((f"{record.where} {record.problem}" for record in records), "it has no rows")
        raise UserError(f"{name}: {path}: none of its first rows can be read: {first}")
    columns = columns or {}
    if unknown := [our for our in columns if not any(our in names for names in OURS.values())]:
        raise UserError(f"{name}: `columns` names {unknown[0]}, which is no column that any kind of data has")
    kinds = [kind_of(row, columns) or "instructions" for row in rows]
    kind = Counter(kinds).most_common(1)[0][0]
    reader = RowReader(kind, columns)
    layouts: list[Layout] = []
    problem: BadRow | None = None
    for row in (row for row, of_row in zip(rows, kinds, strict=True) if of_row == kind):
        try:
            layouts.append(reader.read(row))
        except DropRow:
            continue
        except BadRow as error:
            problem = problem or error
    if not layouts:
        raise UserError(f"{name}: {records[0].where}: {problem or 'its rows are empty'}")
    moved = {our: their for their, our in layouts[0].moves.items() if their in rows[0]}
    is_chat = any(
        "messages" in layout.row or isinstance(layout.row.get("chosen"), list) for layout in layouts
    )
    return Recognised(kind, layouts[0].told, moved, is_chat, rows)


def _first(records: Iterator[Record]) -> Iterator[Record]:
    """The records that are looked at."""
    size = 0
    for record in islice(records, LOOKED_AT):
        yield record
        size += sum(len(value) for value in (record.row or {}).values() if isinstance(value, str))
        if size > CHARACTERS:
            return


def check_columns(path: str | list[str], name: str, reader: RowReader) -> None:
    """Refuses `columns` that none of the first rows has.

    Raises:
        UserError: with the columns that are there.
    """
    if not reader.columns:
        return
    rows = (record.row for record in _first(read_rows(path, name, reader.encoding)))
    for line in never_there((row for row in rows if row is not None), reader.columns):
        raise UserError(f"{name}: {path}: {line}")
