"""The rows of a source that were kept, as columns read from its token cache."""

from bisect import bisect_right
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.caching.token_cache import TokenCache
from datamodules.receipt import Receipt


class EncodedRows:
    """The rows of one source, dealt out one by one: a split where there is one source.

    Args:
        cache: one that is complete.
    """

    def __init__(self, cache: TokenCache):
        self.batches = cache.batches
        self.starts = np.cumsum([0, *(batch.num_rows for batch in self.batches)]).tolist()
        self.lengths = self.column("length")
        self.weights = self.column("weight")
        self.ids = self.column("number")
        self.receipt = cache.index.receipt(cache.name)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: of a row, or of one of a prompt's replies."""
        replies = "longest" in self.batches[0].schema.names
        return int((self.column("longest") if replies else self.lengths).max())

    @property
    def receipts(self) -> list[Receipt]:
        return [self.receipt]

    def column(self, name: str) -> np.ndarray:
        """(rows,) a column of numbers."""
        return np.concatenate([batch.column(name).to_numpy() for batch in self.batches])

    def distinct(self, name: str) -> set[str]:
        """The values of a column of texts."""
        return {value for batch in self.batches for value in batch.column(name).unique().to_pylist()}

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def unpacked(self) -> "EncodedRows":
        return self

    def row_ids(self) -> np.ndarray:
        return np.arange(len(self))

    def members(self, row: int) -> list[dict[str, Any]]:
        return [self[row]]

    def __getitem__(self, row: int) -> dict[str, Any]:
        """The columns of a row: numbers and texts, lists as arrays that lie in the page cache."""
        batch = bisect_right(self.starts, int(row)) - 1
        place, table = int(row) - self.starts[batch], self.batches[batch]
        return {name: _value(table.column(name), place) for name in table.schema.names}


def _value(column: pa.Array, place: int) -> Any:
    if not pa.types.is_list(column.type):
        return column[place].as_py()
    inner = column[place].values
    if pa.types.is_list(inner.type):
        return [part.values.to_numpy() for part in inner]
    return inner.to_numpy()
