"""Packing: rows of uneven length laid into packs of at most `capacity` tokens, none of them split."""

from typing import Any

import numpy as np

from datamodules.caching.encoded_rows import EncodedRows
from datamodules.errors import UserError
from datamodules.receipt import Receipt


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Lays the longest row first, each into the fullest pack that still has room for it, in O(n log n).

    Best-fit decreasing needs at most 11/9 of the fewest packs possible and 4 more (Johnson 1973).

    Args:
        lengths: (rows,) tokens, each at most `capacity`.
        capacity: tokens of a pack.

    Returns:
        `rows` (rows,), row numbers pack by pack, and `starts` (packs + 1,): pack p holds
        rows[starts[p] : starts[p + 1]].

    Raises:
        UserError: a row is longer than a pack.
    """
    if len(lengths) and lengths.max() > capacity:
        raise UserError(f"a row of {lengths.max()} tokens does not fit into a pack of {capacity}")
    order = np.argsort(-lengths, kind="stable")
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # free tokens → packs
    rooms = 0  # bit f: there is a pack with f free tokens
    pack_of = np.empty(len(lengths), dtype=np.int64)
    packs = 0
    for place, length in enumerate(lengths[order].tolist()):
        fitting = rooms >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            pack = with_room[free].pop()
            if not with_room[free]:
                rooms ^= 1 << free
        else:
            free, pack = capacity, packs
            packs += 1
        with_room[free - length].append(pack)
        rooms |= 1 << (free - length)
        pack_of[place] = pack
    by_pack = np.argsort(pack_of, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(pack_of, minlength=packs))])
    return order[by_pack], starts.astype(np.int64)


class Packed:
    """Rows of a source in packs; a pack is what is dealt out.

    Args:
        rows: the rows.
        capacity: tokens of a pack.
        name: the field of the capacity, for messages.

    Raises:
        UserError: a row is longer than a pack.
    """

    def __init__(self, rows: EncodedRows, capacity: int, name: str):
        longest = int(rows.lengths.max())
        if longest > capacity:
            raise UserError(f"{name} is {capacity}, but the longest row has {longest} tokens: raise it")
        self.unpacked = rows
        self.ids = np.arange(len(rows))
        self.order, self.starts = best_fit_decreasing(rows.lengths, capacity)
        self.lengths = np.add.reduceat(rows.lengths[self.order], self.starts[:-1])
        self.weights = np.add.reduceat(rows.weights[self.order], self.starts[:-1])
        self.longest = rows.longest

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row_ids(self) -> np.ndarray:
        return np.arange(len(self))

    def members(self, row: int) -> list[dict[str, Any]]:
        return [self.unpacked[member] for member in self.order[self.starts[row] : self.starts[row + 1]]]

    @property
    def receipts(self) -> list[Receipt]:
        return self.unpacked.receipts
