"""Files of prompts, and files of prompts with replies, as people have them."""

from collections.abc import Iterator
from typing import Any

from datamodules.layouts.chats import from_json
from datamodules.layouts.ranked import LISTS
from datamodules.layouts.reader import RowReader
from datamodules.reading.sources import read_rows
from datamodules.rendering.segments import BadRow, DropRow, Row, optional_text, present_in
from experiments.cli.user_errors import UserError
from experiments.web.rank.item import FEWEST, MOST, Item, distinct, prompt_of

TEXTS = ("response", "text", "content")
"""where a reply that is an object has its text"""


def read_prompts(file: str) -> list[Row]:
    """The prompts of a file, each once: what is asked, and the `reply_prefix` with which a reply begins.

    Raises:
        UserError: the file cannot be read, a row asks nothing, or there is none.
    """
    reader, prompts = RowReader("prompts"), []
    for where, row in _rows(file, "--prompts"):
        with _Named(where):
            columns = reader.read(row).row
            prefix = optional_text(columns, "reply_prefix")
            prompts.append(prompt_of(columns) | ({"reply_prefix": prefix} if prefix else {}))
    if not prompts:
        raise UserError(f"--prompts: {file} has no rows")
    return list({repr(prompt): prompt for prompt in prompts}.values())


def read_replies(file: str) -> list[Item]:
    """The prompts of a file with the replies that stand beside them, each once.

    A row has `replies` (or one of the other names of `PreferenceData`), a text each or an object with a text
    and maybe `model` and `seed`; lists `models` and `seeds` beside them are read too.

    Raises:
        UserError: the file cannot be read, a row has no replies, too few or too many, or none differ.
    """
    reader, items = RowReader("prompts"), []
    for where, row in _rows(file, "--replies"):
        with _Named(where):
            column, replies = _replies_in(row)
            asked = {name: value for name, value in row.items() if name != column}
            columns = reader.read(asked).row
            prefix = optional_text(columns, "reply_prefix")
            models = _beside(row, "models", replies, "model", str)
            seeds = _beside(row, "seeds", replies, "seed", int)
            texts = tuple(prefix + _text(reply, column) for reply in replies)
            items.append(Item(prompt_of(columns), texts, models, seeds))
    if not items:
        raise UserError(f"--replies: {file} has no rows")
    kept = distinct(items)
    if not kept:
        raise UserError(
            f"--replies: {file} has no prompt with two different replies: there is nothing to rank"
        )
    return kept


def _rows(file: str, option: str) -> Iterator[tuple[str, Row]]:
    """Where each row is, and the row."""
    for record in read_rows(file, option):
        if record.row is None:
            raise UserError(f"{option}: {record.where} {record.problem}")
        yield f"{option}: {record.where}", record.row


class _Named:
    """Says where a row is that cannot be used."""

    def __init__(self, where: str):
        self.where = where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, BadRow | DropRow):
            raise UserError(f"{self.where}: {error}: mend the row or take it away") from error


def _replies_in(row: Row) -> tuple[str, list[Any]]:
    """The column of a row's replies, and these."""
    for column in LISTS:
        replies = from_json(row.get(column))
        if isinstance(replies, list):
            if not FEWEST <= len(replies) <= MOST:
                raise BadRow(f"`{column}` are {len(replies)}: give {FEWEST} to {MOST} to a prompt")
            return column, replies
    raise BadRow(f"no `replies` (it has {present_in(row)})")


def _text(reply: Any, column: str) -> str:
    if isinstance(reply, dict):
        reply = next((reply[name] for name in TEXTS if isinstance(reply.get(name), str)), None)
    if not isinstance(reply, str):
        raise BadRow(f"one of `{column}` is no text and has no `{TEXTS[0]}`")
    return reply


def _beside(row: Row, name: str, replies: list[Any], key: str, kind: type) -> tuple[Any, ...]:
    """What is known of each reply: within it, or in a list beside; None where nothing is."""
    values = row.get(name)
    if values is None:
        values = [reply.get(key) if isinstance(reply, dict) else None for reply in replies]
    if not isinstance(values, list) or len(values) != len(replies):
        raise BadRow(f"`{name}` are not one for each of the replies")
    if not all(
        value is None or (isinstance(value, kind) and not isinstance(value, bool)) for value in values
    ):
        raise BadRow(f"`{name}` holds something else than {kind.__name__}")
    return tuple(values)
