"""Encoded rows of a source, read from the token cache, and what became of those that are not there."""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from datamodules.caching.token_cache import Encoded, Encoder, Index, TokenCache, reasons
from datamodules.errors import UserError
from datamodules.receipt import Receipt
from datamodules.rendering.segments import BadRow, DropRow

INTS = pa.list_(pa.int32())
FLAGS = pa.list_(pa.int8())
OnBadRow = Literal["error", "skip"]


class RowEncoder(Encoder):
    """Encodes rows in batches and adds what the tokenizer is to the key.

    Args:
        columns: name → Arrow type; `length` and `weight` are added.
        key: what the encoding depends on, rows and tokenizer apart.
        tokenizer: a fast Hugging Face tokenizer.
        encode: (number, row) pairs → for each its columns with `length`, `weight` and, maybe, `changed` (what
            was done to it), or the exception that says why not.
    """

    def __init__(
        self,
        columns: dict[str, pa.DataType],
        key: str,
        tokenizer: Any,
        encode: Callable[[Sequence[tuple[int, dict[str, Any]]]], list[Encoded]],
    ):
        self.schema = pa.schema({**columns, "length": pa.int32(), "weight": pa.int32()})
        special = json.dumps(tokenizer.special_tokens_map, sort_keys=True)
        template = str(tokenizer.chat_template)
        self.key = "\0".join([key, tokenizer.backend_tokenizer.to_str(), special, template])
        self.encode = encode

    def __call__(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> list[Encoded]:
        return self.encode(rows)


class EncodedRows:
    """Encoded rows of one source that were kept; a split of its own where there is one source.

    Args:
        path: of the source.
        name: the field of the configuration, for messages.
        encoder: makes the columns.
        on_bad_row: what happens where a row cannot be read or is of a wrong type.
        max_dropped: share of the rows that may be left out, for whatever reason.

    Raises:
        UserError: a bad row with its place, more left out than `max_dropped`, or nothing left.
    """

    def __init__(
        self, path: str | list[str], name: str, encoder: Encoder, on_bad_row: OnBadRow, max_dropped: float
    ):
        cache = TokenCache(path, name, encoder)
        cache.write(strict=on_bad_row == "error")
        check_losses(cache.index, name, path, max_dropped)
        self._read(cache)

    @classmethod
    def of(cls, cache: TokenCache) -> "EncodedRows":
        """The rows of a cache that is complete."""
        rows = cls.__new__(cls)
        rows._read(cache)
        return rows

    def _read(self, cache: TokenCache) -> None:
        self.batches = cache.batches
        self.starts = np.cumsum([0, *(batch.num_rows for batch in self.batches)]).tolist()
        self.lengths = self.column("length")
        self.weights = self.column("weight")
        self.ids = self.column("number")
        self.receipt = receipt_of(cache.index, cache.name)

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return int(
            self.column("longest").max() if "longest" in self.batches[0].schema.names else self.lengths.max()
        )

    @property
    def receipts(self) -> list[Receipt]:
        return [self.receipt]

    def column(self, name: str) -> np.ndarray:
        """(rows,) a column of numbers."""
        return np.concatenate([batch.column(name).to_numpy() for batch in self.batches])

    def texts(self, name: str) -> list[str]:
        """The values of a column of texts, each once, sorted."""
        return sorted({value for batch in self.batches for value in batch.column(name).unique().to_pylist()})

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def unpacked(self) -> "EncodedRows":
        """Itself: each row is dealt out on its own."""
        return self

    def members(self, row: int) -> list[dict[str, Any]]:
        """The rows that are dealt out together: here the row alone."""
        return [self[row]]

    def __getitem__(self, row: int) -> dict[str, Any]:
        """The columns of a row: numbers and texts, lists as arrays that lie in the page cache."""
        batch = bisect_right(self.starts, int(row)) - 1
        place, table = int(row) - self.starts[batch], self.batches[batch]
        return {name: _value(table.column(name), place) for name in table.schema.names}


class Joined:
    """Rows or packs of several sources; row ids count through the sources in order."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
        self.lengths = np.concatenate([part.lengths for part in parts])
        self.weights = np.concatenate([part.weights for part in parts])
        self.ids = np.arange(len(self))
        self.longest = max(part.longest for part in parts)

    @property
    def receipts(self) -> list[Receipt]:
        return [receipt for part in self.parts for receipt in part.receipts]

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def unpacked(self) -> "Joined":
        """The same sources row by row."""
        return Joined([part.unpacked for part in self.parts])

    def members(self, row: int) -> list[dict[str, Any]]:
        """The rows that are dealt out together."""
        part = bisect_right(self.starts, int(row)) - 1
        return self.parts[part].members(int(row) - self.starts[part])

    def texts(self, name: str) -> list[str]:
        """As `EncodedRows.texts`."""
        return sorted({text for part in self.parts for text in part.texts(name)})


def _value(column: pa.Array, place: int) -> Any:
    if not pa.types.is_list(column.type):
        return column[place].as_py()
    inner = column[place].values
    if pa.types.is_list(inner.type):
        return [part.values.to_numpy() for part in inner]
    return inner.to_numpy()


def check_losses(index: Index, name: str, path: Any, max_dropped: float) -> None:
    """Refuses a source that lost too much.

    Raises:
        UserError: with the reasons and where the first such row is.
    """
    lost = {**index.dropped, **index.refused}
    count = sum(lost.values())
    if not index.kept:
        raise UserError(f"{name}: {path}: none of its {index.rows} rows can be trained on: {reasons(lost)}")
    if count > max_dropped * index.rows:
        most = max(lost, key=lambda reason: lost[reason])
        raise UserError(
            f"{name}: {count} of {index.rows} rows of {path} ({count / index.rows:.1%}) would be left out, "
            f"more than max_dropped {max_dropped:.1%}: {reasons(lost)}; the first is "
            f"{index.examples[most][0]}: mend the rows, change the policy, or raise max_dropped"
        )


def receipt_of(index: Index, name: str) -> Receipt:
    """What became of a source's rows."""
    lost = {**index.dropped, **index.refused}
    first = {reason: index.examples[reason][0] for reason in lost}
    return Receipt(
        source=name,
        rows=index.rows,
        kept=index.kept,
        truncated=index.truncated,
        changed=index.changed,
        dropped=lost,
        first=first,
        tokens=index.tokens,
        trained=index.weight,
    )


def each(items: Iterable[tuple], work: Callable[..., Any]) -> list[Any]:
    """What `work` returns for each item, or the exception that says why a row is left out."""
    found: list[Any] = []
    for item in items:
        try:
            found.append(work(*item))
        except (DropRow, BadRow) as reason:
            found.append(reason)
    return found
