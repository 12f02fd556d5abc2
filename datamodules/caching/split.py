"""What a data module deals out: rows, packs or blocks of a split by their ids, alike for the step sampler."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.caching.packing import best_fit_decreasing
from datamodules.caching.token_cache import TokenCache
from datamodules.errors import UserError
from datamodules.receipt import Receipt
from datamodules.sampling.step_sampler import PerRow


class Split(ABC):
    """The rows of `train` or `val`: a row is what is dealt out as one, be it a row of a source, several of
    them in a pack, or a block of a corpus."""

    lengths: PerRow
    """tokens of each row"""
    weights: PerRow
    """what each row adds to a step's normalizer: target tokens, or 1 for a prompt"""
    ids: PerRow
    """what `rows` in an evaluation batch says of each row: its number in the source"""
    longest: int
    """tokens of the longest sequence that a network reads"""

    @property
    @abstractmethod
    def receipts(self) -> list[Receipt]:
        """What became of the rows of each source."""

    @property
    def unpacked(self) -> "Split":
        """The same rows, each dealt out on its own."""
        return self

    def row_ids(self) -> np.ndarray:
        """Of all rows that are there now."""
        return np.arange(len(self))

    @abstractmethod
    def members(self, row: int) -> list[dict[str, Any]]:
        """The columns of the source's rows that are dealt out together under an id."""

    @abstractmethod
    def __len__(self) -> int: ...


class EncodedRows(Split):
    """The rows of one source that were kept, as columns read from its complete token cache."""

    lengths: np.ndarray
    weights: np.ndarray

    def __init__(self, cache: TokenCache):
        self.batches = cache.batches
        self.starts = np.cumsum([0, *(batch.num_rows for batch in self.batches)]).tolist()
        self.lengths = self.column("length")
        self.weights = self.column("weight")
        self.ids = self.column("number")
        # a prompt with its replies is several sequences, of which the longest is a column of its own
        replies = "longest" in self.batches[0].schema.names
        self.longest = int((self.column("longest") if replies else self.lengths).max())
        self.receipt = cache.index.receipt(cache.name)

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


class Packed(Split):
    """Rows of a source in packs of `capacity` tokens; a pack is what is dealt out.

    Raises:
        UserError: a row is longer than a pack.
    """

    def __init__(self, rows: EncodedRows, capacity: int):
        longest = int(rows.lengths.max())
        if longest > capacity:
            raise UserError(f"data.packing is {capacity}, but the longest row has {longest} tokens: raise it")
        self.rows, self.ids, self.longest = rows, rows.row_ids(), rows.longest
        self.order, self.starts = best_fit_decreasing(rows.lengths, capacity)
        self.lengths = np.add.reduceat(rows.lengths[self.order], self.starts[:-1])
        self.weights = np.add.reduceat(rows.weights[self.order], self.starts[:-1])

    @property
    def receipts(self) -> list[Receipt]:
        return self.rows.receipts

    @property
    def unpacked(self) -> EncodedRows:
        return self.rows

    def __len__(self) -> int:
        return len(self.starts) - 1

    def members(self, row: int) -> list[dict[str, Any]]:
        return [self.rows[member] for member in self.order[self.starts[row] : self.starts[row + 1]]]


class JoinedSplit(Split):
    """The rows of several sources, each a split; ids count through the sources in order."""

    lengths: np.ndarray

    def __init__(self, parts: Sequence[Split]):
        self.parts = parts
        self.starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
        self.lengths = np.concatenate([part.lengths[part.row_ids()] for part in parts])
        self.weights = np.concatenate([part.weights[part.row_ids()] for part in parts])
        self.ids = self.row_ids()
        self.longest = max(part.longest for part in parts)

    @property
    def receipts(self) -> list[Receipt]:
        return [receipt for part in self.parts for receipt in part.receipts]

    @property
    def unpacked(self) -> "JoinedSplit":
        return JoinedSplit([part.unpacked for part in self.parts])

    def __len__(self) -> int:
        return self.starts[-1]

    def part_of(self, row: int) -> int:
        """Which of the parts a row is in."""
        return bisect_right(self.starts, int(row)) - 1

    def members(self, row: int) -> list[dict[str, Any]]:
        part = self.part_of(row)
        return self.parts[part].members(int(row) - self.starts[part])
