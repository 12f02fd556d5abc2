"""How rows become columns of the token cache: one loop for all kinds of data and all kinds of bad rows."""

import json
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from datamodules.caching.code_key import code_key
from datamodules.layouts.layout import Layout
from datamodules.layouts.reader import RowReader
from datamodules.reading.record import Record
from datamodules.rendering.message_keys import LOST, THOUGHTS
from datamodules.rendering.segments import BadRow, DropRow, Row, Segment
from datamodules.rendering.whole_text import Tokens, encode_batch

INTS = pa.list_(pa.int32())
FLAGS = pa.list_(pa.int8())
LONGEST_REASON = 300  # characters of an exception's own text, which may quote a whole row
T = TypeVar("T")


class LeftOut(NamedTuple):
    """A row that is not kept."""

    number: int
    """of the row in its source"""
    kind: type[DropRow | BadRow]
    """`BadRow`: unreadable or of a wrong type, which only some runs allow; `StopRun`: the end of any run"""
    reason: str
    line: str
    """where the row is, and the reason"""


@dataclass
class EncodedBatch:
    """What became of neighbouring rows of a source."""

    rows: list[Row] = field(default_factory=list)
    """the columns of those that are kept, with their `number`"""
    left_out: list[LeftOut] = field(default_factory=list)
    layouts: dict[str, list[str]] = field(default_factory=dict)
    """layout → where the rows are that have it"""
    not_read: dict[str, int] = field(default_factory=dict)
    """column, or key of messages → rows that say something there, which nobody reads"""

    def attempt(self, number: int, where: str, work: Callable[[], T]) -> T | None:
        """What `work` makes of a row; None where it cannot, which is noted with the reason."""
        try:
            return work()
        except (DropRow, BadRow) as error:
            self.left_out.append(LeftOut(number, type(error), str(error), f"{where}: {error}"))
        except Exception as error:  # templates and functions of users can fail in any way
            reason = failure_of(error)
            self.left_out.append(LeftOut(number, BadRow, reason, f"{where}: {reason}"))
        return None

    def note(self, where: str, layout: Layout, not_read: Iterable[str]) -> None:
        """Notes how a row that is kept was read, and what of it was not."""
        if layout.name:
            self.layouts.setdefault(layout.told, []).append(where)
        for column in not_read:
            self.not_read[column] = self.not_read.get(column, 0) + 1


def failure_of(error: Exception) -> str:
    """What code that is not ours raised on a row, and where, in a line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:LONGEST_REASON]
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}, line {frame.lineno})"


class RowEncoder(ABC):
    """Makes columns of rows: `render` gives a row's texts, which are tokenised together with those of a whole
    batch, and `finish` makes columns of their tokens. Both raise `DropRow`, `BadRow` or `StopRun` where a row
    cannot be trained on.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        columns: name → Arrow type; `length` and `weight` are added.
        settings: what the columns depend on, rows and tokenizer apart, as a text.
        reader: how rows are read; as they are where it is not given.
    """

    def __init__(
        self,
        tokenizer: Any,
        columns: Mapping[str, pa.DataType],
        settings: str,
        reader: RowReader = RowReader(),  # noqa: B008 (frozen)
    ):
        self.tokenizer, self.reader = tokenizer, reader
        self.schema = pa.schema({**columns, "length": pa.int32(), "weight": pa.int32()})
        self.settings = settings

    @property
    def key(self) -> str:
        """Everything, the rows apart, that the columns depend on, the user's own code too: another key is
        another cache.

        Raises:
            UserError: code that cannot be stated.
        """
        special = json.dumps(self.tokenizer.special_tokens_map, sort_keys=True)
        template = str(self.tokenizer.chat_template)
        own = [value for name, value in vars(self).items() if name not in ("tokenizer", "schema")]
        tokenizer = self.tokenizer.backend_tokenizer.to_str()
        parts = [self.settings, self.reader.key, tokenizer, special, template]
        return "\0".join([*parts, code_key([type(self), *own])])

    def parse(self, row: Row) -> Any:
        """What `render` and `finish` are given of a row."""
        return row

    @abstractmethod
    def render(self, row: Any, number: int) -> list[list[Segment]]:
        """The texts of a row that are tokenised, each as segments; `number` counts the source's rows."""

    @abstractmethod
    def finish(self, row: Any, tokens: list[Tokens]) -> Row:
        """The columns of a row from the tokens of each of its texts, with `length`, `weight` and, maybe,
        `changed`: what was done to the row, in words."""

    def changes(self, row: Any, number: int) -> list[str]:
        """What the texts of a row leave out or do not train, in words for the receipt; nothing here."""
        return []

    def unread(self, row: Any, number: int) -> list[str]:
        """Keys of a row's messages that are in none of its texts, as of `Template.unread`; nothing here."""
        return []

    def tokenize(self, texts: list[list[Segment]]) -> list[Tokens]:
        """The tokens of many texts at once, so that the tokenizer's threads share them."""
        return encode_batch(self.tokenizer, texts)

    def encode(self, records: Sequence[tuple[int, Record]]) -> EncodedBatch:
        """Encodes rows, given with their numbers; called from several threads."""
        batch = EncodedBatch()
        rendered: list[tuple[int, str, Layout, Any, list[list[Segment]]]] = []
        for number, (where, row, problem) in records:
            if row is None:
                batch.left_out.append(LeftOut(number, BadRow, str(problem), f"{where} {problem}"))
                continue
            if parts := batch.attempt(number, where, partial(self._parts, row, number)):
                rendered.append((number, where, *parts))
        tokens = self._tokens(batch, rendered)
        for number, where, layout, parsed, _ in rendered:
            if number in tokens:
                work = partial(self._columns, layout, parsed, number, tokens[number])
                if columns := batch.attempt(number, where, work):
                    unread = columns.pop("unread")
                    batch.rows.append(columns)
                    batch.note(where, layout, [*self.reader.not_used(layout), *unread])
        batch.left_out.sort(key=lambda row: row.number)
        return batch

    def _parts(self, row: Row, number: int) -> tuple[Layout, Any, list[list[Segment]]]:
        layout = self.reader.read(row)
        parsed = self.parse(layout.row)
        return layout, parsed, self.render(parsed, number)

    def _tokens(self, batch: EncodedBatch, rendered: Sequence[tuple]) -> dict[int, list[Tokens]]:
        """Each row's tokens by its number, of all rows together; where the tokenizer fails on a text, one by
        one, without the rows that it fails on."""
        try:
            tokens = iter(self.tokenize([text for *_, texts in rendered for text in texts]))
            return {number: [next(tokens) for _ in texts] for number, *_, texts in rendered}
        except Exception:
            attempts = {
                number: batch.attempt(number, where, partial(self.tokenize, texts))
                for number, where, *_, texts in rendered
            }
            return {number: tokens for number, tokens in attempts.items() if tokens is not None}

    def _columns(self, layout: Layout, parsed: Any, number: int, tokens: list[Tokens]) -> Row:
        columns = self.finish(parsed, tokens)
        unread = self.unread(parsed, number)
        thoughts = [LOST.format(key=key) for key in unread if key in THOUGHTS]
        changed = [*layout.changes, *columns.get("changed", ()), *self.changes(parsed, number), *thoughts]
        other = {f"messages.{key}" for key in unread if key not in THOUGHTS}
        return {**columns, "changed": changed, "number": number, "unread": sorted(other)}
