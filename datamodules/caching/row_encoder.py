"""How rows become columns of the token cache: one loop for all kinds of data and all kinds of bad rows."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from datamodules.caching.code_key import code_key
from datamodules.reading.record import Record
from datamodules.rendering.segments import BadRow, DropRow, Row, Segment
from datamodules.rendering.whole_text import Tokens, encode_batch

INTS = pa.list_(pa.int32())
FLAGS = pa.list_(pa.int8())


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

    def leave_out(self, number: int, where: str, error: DropRow | BadRow) -> None:
        """Notes that a row is left out, and why."""
        self.left_out.append(LeftOut(number, type(error), str(error), f"{where}: {error}"))


class RowEncoder(ABC):
    """Makes columns of rows: `render` gives a row's texts, which are tokenised together with those of a whole
    batch, and `finish` makes columns of their tokens. Both raise `DropRow`, `BadRow` or `StopRun` where a row
    cannot be trained on.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        columns: name → Arrow type; `length` and `weight` are added.
        settings: what the columns depend on, rows and tokenizer apart, as a text.
    """

    def __init__(self, tokenizer: Any, columns: Mapping[str, pa.DataType], settings: str):
        self.tokenizer = tokenizer
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
        code = code_key([type(self), *own])
        return "\0".join([self.settings, self.tokenizer.backend_tokenizer.to_str(), special, template, code])

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

    def tokenize(self, texts: list[list[Segment]]) -> list[Tokens]:
        """The tokens of many texts at once, so that the tokenizer's threads share them."""
        return encode_batch(self.tokenizer, texts)

    def encode(self, records: Sequence[tuple[int, Record]]) -> EncodedBatch:
        """Encodes rows, given with their numbers; called from several threads."""
        batch = EncodedBatch()
        rendered: list[tuple[int, str, Any, list[list[Segment]]]] = []
        for number, (where, row, problem) in records:
            if row is None:
                batch.left_out.append(LeftOut(number, BadRow, str(problem), f"{where} {problem}"))
                continue
            try:
                parsed = self.parse(row)
                rendered.append((number, where, parsed, self.render(parsed, number)))
            except (DropRow, BadRow) as error:
                batch.leave_out(number, where, error)
        tokens = iter(self.tokenize([text for *_, texts in rendered for text in texts]))
        for number, where, parsed, texts in rendered:
            row_tokens = [next(tokens) for _ in texts]
            try:
                columns = self.finish(parsed, row_tokens)
                changed = [*columns.get("changed", ()), *self.changes(parsed, number)]
                batch.rows.append({**columns, "changed": changed, "number": number})
            except (DropRow, BadRow) as error:
                batch.leave_out(number, where, error)
        batch.left_out.sort()
        return batch
