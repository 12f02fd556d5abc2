"""Packing: rows of uneven length laid into packs of at most `capacity` tokens, none of them split."""

import numpy as np

from datamodules.errors import UserError


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
