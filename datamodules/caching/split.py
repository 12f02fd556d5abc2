"""What a data module deals out: rows, packs or blocks of a split by their ids, alike for the step sampler."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from datamodules.receipt import Receipt
from datamodules.sampling.step_sampler import PerRow


class Split(Protocol):
    """The rows of `train` or `val`: a row is what is dealt out as one, be it a row of a source, several of
    them in a pack, or a block of a corpus."""

    @property
    def lengths(self) -> PerRow:
        """Tokens of each row."""

    @property
    def weights(self) -> PerRow:
        """What each row adds to a step's normalizer: target tokens, or 1 for a prompt."""

    @property
    def ids(self) -> PerRow:
        """What `rows` in an evaluation batch says of each row: its number in the source."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that a network reads."""

    @property
    def receipts(self) -> list[Receipt]:
        """What became of the rows of each source."""

    @property
    def unpacked(self) -> "Split":
        """The same rows, each dealt out on its own."""

    def row_ids(self) -> np.ndarray:
        """Of all rows that are there now."""

    def members(self, row: int) -> list[dict[str, Any]]:
        """The columns of the source's rows that are dealt out together under an id."""

    def __len__(self) -> int: ...


class JoinedSplit:
    """The rows of several sources; ids count through the sources in order.

    Args:
        parts: a split of each source.
    """

    def __init__(self, parts: Sequence[Split]):
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
        self.lengths = np.concatenate([part.lengths[part.row_ids()] for part in parts])
        self.weights = np.concatenate([part.weights[part.row_ids()] for part in parts])
        self.ids = np.arange(len(self))
        self.longest = max(part.longest for part in parts)

    @property
    def receipts(self) -> list[Receipt]:
        return [receipt for part in self.parts for receipt in part.receipts]

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def unpacked(self) -> "JoinedSplit":
        return JoinedSplit([part.unpacked for part in self.parts])

    def row_ids(self) -> np.ndarray:
        return self.ids

    def part_of(self, row: int) -> int:
        """Which of the parts a row is in."""
        return bisect_right(self.starts, int(row)) - 1

    def members(self, row: int) -> list[dict[str, Any]]:
        part = self.part_of(row)
        return self.parts[part].members(int(row) - self.starts[part])
