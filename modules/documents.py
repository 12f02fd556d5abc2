"""The documents of a batch as one row of real tokens, which is what the networks compute on.

Embedding, norms and matrix products then see no padding, attention sees one document at a time (`attention`),
and it does not matter whether documents were packed into rows, padded or cut into micro-batches.
"""

from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

SHORTEST_PREFIX = 16
"""tokens that replies must have in common to be worth an attention call with a mask"""
PADDING = 1.12
"""what attention calls on documents of like length may compute, as a multiple of their tokens"""
CALL = 32
"""tokens whose way into groups and back costs a CPU as much as an attention call of their own"""


class Route(NamedTuple):
    """How a network is computed so that it computes what it would alone; `probe` chooses it."""

    rows: Literal["flat", "documents"] = "flat"
    """one row of real tokens through the attention interface; or each document in a row of its own, padded
    on the right, with the network's own attention (recurrent state, ALiBi, positions of its own)"""
    head: Literal["linear", "own"] = "linear"
    """our chunked linear head, with the config's scale and soft cap; or the network's own logits"""
    decoding: Literal["cached", "recomputed"] = "cached"
    """with a cache of keys and values; or every token again at every step"""


class Group(NamedTuple):
    """Documents of like length, for one dense attention call."""

    rows: int
    queries: int
    """tokens a document may have"""
    keys: int
    """the same, with the prefix"""
    prefixes: Tensor
    """(rows,) int64: tokens of each document's prefix"""
    prefixed: bool
    """whether any of them has one"""

    def causal(self, window: int | None) -> bool:
        """Whether plain causal attention says all that `mask` does."""
        return not self.prefixed and (window is None or window >= self.keys)

    def mask(self, window: int | None) -> Tensor:
        """(rows, 1, queries, keys) bool, True = attends."""
        keys = torch.arange(self.keys, device=self.prefixes.device)
        places = keys[: self.queries] + self.prefixes[:, None]
        distance = places[:, None, :, None] - keys
        return (distance >= 0) & (distance < (self.keys if window is None else window))


class Spread(NamedTuple):
    """Tokens of the row laid out as the padded documents of all groups, one after the other."""

    tokens: Tensor
    """(S,) int64: the token at each place; a document's last one where it has ended"""
    places: Tensor
    """(T′,) int64: the place of each token, the other way round"""


class Groups(NamedTuple):
    """All documents of a row in groups, and how their tokens get there."""

    groups: list[Group]
    queries: Spread | None
    """None where they are the row as it is"""
    keys: Spread | None


class Documents:
    """The documents of a batch as one row of T′ real tokens; made anew by each forward, and handed to the
    attention function with the call, since activation checkpointing calls it again later.

    Args:
        input_ids: (B, T) int64.
        position_ids: (B, T) int64, restart with each document.
        document_ids: (B, T) int64, −1 = padding; the tokens of a document lie together.
        groups: (documents,) int64, in the order of rows and within them: documents of the same group may
            begin with the same tokens, which are then computed once. None = all on their own.
    """

    def __init__(
        self, input_ids: Tensor, position_ids: Tensor, document_ids: Tensor, groups: Tensor | None = None
    ):
        self.calls = 0
        """of the attention function; none of them says that the network does not hand the documents on"""
        width, owners = input_ids.shape[1], document_ids.flatten()
        kept = (owners >= 0).nonzero().squeeze(1)
        if not len(kept):  # one token all the same, for other ranks may wait for this one's forward
            kept, groups = kept.new_zeros(1), None
        rows, owners = kept // width, owners[kept]
        first = torch.ones_like(rows, dtype=torch.bool)
        first[1:] = (owners[1:] != owners[:-1]) | (rows[1:] != rows[:-1])
        starts = first.nonzero().squeeze(1)
        self.starts = starts.cpu().numpy()
        self.lengths = np.diff(self.starts, append=len(kept))
        self.prefixes = np.zeros_like(self.starts)  # tokens that a document has from another
        self.prefix_starts = np.zeros_like(self.starts)  # where they are
        tokens = torch.arange(len(kept), device=kept.device)
        if groups is not None and len(starts):
            tokens, kept = self._share(input_ids.flatten()[kept], groups.cpu().numpy(), kept)
        self.places = torch.zeros_like(input_ids).masked_scatter_(document_ids >= 0, tokens)
        """(B, T) int64: where in the row each token is; 0 for padding"""
        self.input_ids = input_ids.flatten()[kept][None]
        """(1, T′)"""
        self.position_ids = position_ids.flatten()[kept][None]
        """(1, T′)"""

    def _share(self, ids: Tensor, groups: np.ndarray, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Leaves out what documents have in common with the first of their group; gives the new place of
        each token, and the tokens that stay."""
        _, first, group = np.unique(groups, return_index=True, return_inverse=True)
        common = _common_prefixes(ids, self.starts, self.lengths, first[group])
        shared = np.full(len(first), np.iinfo(np.int64).max)
        np.minimum.at(shared, group, np.where(first[group] == np.arange(len(group)), shared[group], common))
        taken = np.where(first[group] == np.arange(len(group)), 0, shared[group])
        self.prefixes = np.where(taken < SHORTEST_PREFIX, 0, taken)
        owner = np.repeat(np.arange(len(self.starts)), self.lengths)
        offset = np.arange(len(owner)) - self.starts[owner]
        stays = offset >= self.prefixes[owner]
        now = np.cumsum(stays) - 1
        now = np.where(stays, now, now[self.starts[first[group]][owner] + offset])
        tokens = torch.from_numpy(now).to(kept.device)
        self.prefix_starts = now[self.starts[first[group]]]
        self.lengths = self.lengths - self.prefixes
        self.starts = np.cumsum(self.lengths) - self.lengths
        return tokens, kept[torch.from_numpy(stays).to(kept.device)]

    @property
    def shared(self) -> bool:
        """Whether any document has a prefix of another's."""
        return bool(self.prefixes.any())

    @cached_property
    def keys(self) -> Tensor | None:
        """(K,) int64: the tokens that each document attends to, one document after the other; None where
        they are the row itself."""
        if not self.shared:
            return None
        lengths = self.prefixes + self.lengths
        owner = np.repeat(np.arange(len(lengths)), lengths)
        offset = np.arange(len(owner)) - (np.cumsum(lengths) - lengths)[owner]
        in_prefix = offset < self.prefixes[owner]
        own = self.starts[owner] + offset - self.prefixes[owner]
        return self._on_device(np.where(in_prefix, self.prefix_starts[owner] + offset, own))

    @cached_property
    def boundaries(self) -> tuple[Tensor, Tensor]:
        """(documents + 1,) int32 each: where the queries and the keys of each document begin."""
        lengths = self.lengths, self.prefixes + self.lengths
        queries, keys = (np.cumsum([0, *each], dtype=np.int32) for each in lengths)
        return self._on_device(queries), self._on_device(keys)

    @cached_property
    def groups(self) -> Groups:
        """Documents of like length together, so that dense attention calls compute little padding."""
        lengths = self.prefixes + self.lengths
        members = self._members(lengths)
        groups = []
        for rows in members:
            prefixes = self._on_device(self.prefixes[rows])
            shape = len(rows), int(self.lengths[rows].max()), int(lengths[rows].max())
            groups.append(Group(*shape, prefixes, bool(self.prefixes[rows].any())))
        queries = self._spread(members, self.starts, self.lengths)
        if not self.shared:
            return Groups(groups, queries, queries)
        return Groups(groups, queries, self._spread(members, np.cumsum(lengths) - lengths, lengths))

    def _members(self, lengths: np.ndarray) -> list[np.ndarray]:
        """The documents of each attention call; `lengths` with prefix."""
        some = np.flatnonzero(self.lengths)
        changes = (np.diff(lengths[some]) != 0) | (np.diff(self.prefixes[some]) != 0)
        runs = np.split(some, np.flatnonzero(changes) + 1)
        on_cpu = self.input_ids.device.type == "cpu"  # where calls are cheap
        if len(runs) == 1 or (on_cpu and len(runs) * CALL <= self.lengths.sum()):
            return runs
        order = np.lexsort((self.lengths, lengths, self.prefixes > 0))
        order = order[self.lengths[order] > 0]
        members, start, real = [], 0, 0
        for end, document in enumerate(order):
            real += lengths[document]
            mixed = (self.prefixes[order[start]] > 0) != (self.prefixes[document] > 0)
            if mixed or lengths[document] * (end - start + 1) > PADDING * real:
                members.append(order[start:end])
                start, real = end, lengths[document]
        return [*members, order[start:]]

    def _spread(self, members: list[np.ndarray], starts: np.ndarray, lengths: np.ndarray) -> Spread | None:
        tokens, ended = [], []
        for rows in members:
            offsets = np.arange(lengths[rows].max())
            last = lengths[rows, None] - 1
            tokens.append((starts[rows, None] + np.minimum(offsets, last)).ravel())
            ended.append((offsets > last).ravel())
        laid_out, real = np.concatenate(tokens), ~np.concatenate(ended)
        if np.array_equal(laid_out, np.arange(lengths.sum())):
            return None
        places = np.zeros(int(lengths.sum()), np.int64)
        places[laid_out[real]] = np.flatnonzero(real)
        return Spread(self._on_device(laid_out), self._on_device(places))

    @cached_property
    def padded(self) -> tuple[Tensor, Tensor]:
        """(documents, longest) ids with each document in a row of its own, padded on the right with its last
        token, and which of them are real."""
        last = self.lengths[:, None] - 1
        offsets = np.arange(self.lengths.max())
        tokens = self._on_device(self.starts[:, None] + np.minimum(offsets, last))
        return self.input_ids[0][tokens], self._on_device(offsets <= last)

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.input_ids.device)


def _common_prefixes(ids: Tensor, starts: np.ndarray, lengths: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many tokens each document has in common with the beginning of document `other`."""
    if (other == np.arange(len(other))).all():
        return lengths
    both = np.minimum(lengths, lengths[other])[:, None]
    offsets = np.arange(both.max())
    inside = torch.from_numpy(offsets < both).to(ids.device)
    here, there = (starts[:, None] + offsets).clip(max=len(ids) - 1), starts[other][:, None] + offsets
    there = there.clip(max=len(ids) - 1)
    same = ids[torch.from_numpy(here).to(ids.device)] == ids[torch.from_numpy(there).to(ids.device)]
    return (same & inside).cumprod(1).sum(1).cpu().numpy()
