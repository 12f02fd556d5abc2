"""The text of a row, whatever its kind, and the texts of a file, read one at a time."""

import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.cli.user_errors import UserError

COLUMNS = (
    *("system", "messages", "instruction", "input", "reply_prefix", "steps", "output"),
    *("replies", "chosen", "rejected"),
)


class Text(NamedTuple):
    """A row of a file as a text."""

    where: str  # the file and the row, as `FILE:LINE` or `FILE, row N`
    row: dict[str, Any] | None  # its columns, or None when it cannot be read
    text: str | None  # what is written in it, or None when there is a problem
    problem: str | None  # why there is no text; goes on where `where` ends


def read_texts(
    file: str,
    field: str | None = None,
    show: str = "reading",
    any_text: bool = False,
    name: str = "FILE",
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
) -> Iterator[Text]:
    """All rows of a file, good and bad, with a progress bar on a terminal.

    Args:
        file: what `datamodules.reading.sources.read_rows` reads, but only what is on the disk.
        field: the column to take; by default what `text_of` finds.
        show: what is being done, before the bar.
        any_text: take every text of a row that has none of the known columns.
        name: the option that gave the file, for messages.
        columns: our name ← theirs, under which texts are looked for; the rows stay as they are.
        encoding: of text files; None = UTF-8.

    Raises:
        UserError: no such file, nothing in it, or it cannot be opened.
    """
    if not Path(file).exists():
        raise UserError(f"{name}: {file} does not exist")

    from datamodules.layouts.columns import mapped
    from datamodules.reading.sources import read_rows
    from datamodules.rendering.segments import BadRow

    count = 0
    with _bar() as bar:
        task = bar.add_task(f"{show} {Path(file).name}", total=None, rows=0)
        for count, record in enumerate(read_rows(file, name, encoding), 1):
            if count % 500 == 0:
                bar.update(task, rows=count)
            if record.row is None:
                yield Text(record.where, None, None, record.problem)
                continue
            try:
                row = mapped(record.row, columns) if columns else record.row
            except BadRow as error:
                yield Text(record.where, record.row, None, f"has {error}")
                continue
            text = text_of(row, field)
            if text is None and any_text:
                text = every_text(row)
            problem = None if text is not None else _no_text(row, field)
            yield Text(record.where, record.row, text, problem)
    if not count:
        raise UserError(f"{name}: {file} has no rows: it is empty but for blank lines")


def text_of(row: Mapping[str, Any], field: str | None = None) -> str | None:
    """What is written in a row, its parts on lines of their own.

    Args:
        row: of a corpus, by its `text` alone; or of any other kind, conversations beside a `text` too, by all
            of `COLUMNS` that it has.
        field: the column to take instead.

    Returns:
        None when the row has no such column, or nothing but null in it.
    """
    names: tuple[str, ...] = (field or "text",)
    if not field and (row.get("text") is None or row.get("messages") is not None):
        names = COLUMNS
    parts = [_written(row[name]) for name in names if row.get(name) is not None]
    return "\n".join(part for part in parts if part) if parts else None


def every_text(row: Mapping[str, Any]) -> str | None:
    """All columns that are texts, or hold texts, in a row of an unknown kind; None where there is none."""
    parts = (_written(value) for value in row.values() if isinstance(value, str | list))
    return "\n".join(filter(None, parts)) or None


def _written(value: Any) -> str:
    """A value as text: of a chat message its content, of a list its items, each on a line of its own."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return "\n".join(filter(None, map(_written, value)))
    if isinstance(value, Mapping):
        for key in ("content", "text"):
            if value.get(key) is not None:
                return _written(value[key])
        return ""
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _no_text(row: Mapping[str, Any], field: str | None) -> str:
    null = [name for name in ([field] if field else ("text", *COLUMNS)) if name in row]
    if null:
        return f"has null in `{null[0]}`"
    have = "it has " + (", ".join(f"`{name}`" for name in row) or "none at all")
    if field:
        return f"has no column `{field}` ({have})"
    return f"has no column known to hold text ({have}; name one with --field)"


def stop_where_broken_off(text: Text) -> None:
    """Refuses (`UserError`) a file from this row on, where nobody knows how much is lost with it."""
    from datamodules.reading.record import BROKEN_OFF

    if BROKEN_OFF in (text.problem or ""):
        raise UserError(f"{text.where} {text.problem}: give the whole file")


def row_number(where: str) -> int:
    """The row that `FILE:LINE` or `FILE, row N` names."""
    return int(where.replace(" ", ":").rpartition(":")[2])


def needed(library: str) -> ModuleType:
    """A library of the extra `data`; a `UserError` says where it is not installed."""
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        raise UserError(f"this needs {library.partition('.')[0]}: pip install 'trivium[data]'") from error


def _bar() -> Progress:
    """A bar on the error stream that goes away when it is done, and is not drawn into a file."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(pulse_style="cyan"))
    rows = TextColumn("{task.fields[rows]:,} rows")
    return Progress(
        *columns, rows, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    )
