"""The documents of a source cut into blocks, read from the token cache, also while it is being written."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.caching.encoded_rows import receipt_of
from datamodules.caching.token_cache import TokenCache
from datamodules.receipt import Receipt

STRIDE = 1 << 40  # row ids: source × STRIDE + block


class Blocks:
    """The documents of one source, one after another, cut into blocks of `length` tokens. Nothing is held in
    memory: tokens and the ends of documents are read from the cache.

    Args:
        cache: encoded documents, maybe still being written.
        length: tokens of a block.
        keep_tail: whether the last, shorter block counts (it is padded), or is left out.
    """

    def __init__(self, cache: TokenCache, length: int, keep_tail: bool):
        self.cache, self.length, self.keep_tail = cache, length, keep_tail
        self.starts = [0]
        self.parts: list[tuple[np.ndarray, np.ndarray]] = []  # tokens, offsets of documents
        self._take_note()

    def _take_note(self) -> None:
        for batch in self.cache.batches[len(self.parts) :]:
            column = batch.column("input_ids")
            self.parts.append((column.values.to_numpy(), column.offsets.to_numpy()))
            self.starts.append(self.starts[-1] + len(column.values))

    @property
    def complete(self) -> bool:
        """Whether the whole source is there."""
        return self.cache.index.finished

    def __len__(self) -> int:
        """Blocks that are there now."""
        tokens = self.starts[-1]
        return -(-tokens // self.length) if self.keep_tail and self.complete else tokens // self.length

    def update(self) -> None:
        """Takes note of what another thread or process has written."""
        if not self.complete:
            self.cache.refresh()
            self._take_note()

    def wait_for(self, blocks: int) -> None:
        """Waits until so many blocks are there, or the source is complete."""
        if len(self) < blocks and not self.complete:
            self.cache.wait(lambda: self.cache.index.tokens >= blocks * self.length)
            self._take_note()

    def __getitem__(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and document ids (from 0, −1 = padding) of a block, `length` each; the ids' padding is 0."""
        start = block * self.length
        stop = min(start + self.length, self.starts[-1])
        tokens, ends = self._read(start, stop)
        documents = np.searchsorted(ends, np.arange(start, stop), side="right")
        tail = self.length - len(tokens)
        return np.pad(tokens, (0, tail)), np.pad(documents, (0, tail), constant_values=-1)

    def targets(self, block: int) -> int:
        """Tokens of a block that are predicted: all but the first of each document in it."""
        start = block * self.length
        stop = min(start + self.length, self.starts[-1])
        _, ends = self._read(start, stop)
        return stop - start - 1 - int((ends < stop).sum())

    def _read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens from `start` to `stop`, and the ends of documents after `start` and up to `stop`."""
        tokens, ends = [], []
        part = bisect_right(self.starts, start) - 1
        while start < stop:
            first, (values, offsets) = self.starts[part], self.parts[part]
            low, high = start - first, min(stop, self.starts[part + 1]) - first
            tokens.append(values[low:high])
            ends.append(offsets[slice(*np.searchsorted(offsets, (low, high), side="right"))] + first)
            start, part = first + high, part + 1
        return np.concatenate(tokens), np.concatenate(ends)

    def everything(self) -> tuple[np.ndarray, np.ndarray]:
        """All tokens, and the end of each document; for small sources."""
        return self._read(0, self.starts[-1])


class _Lengths:
    """Tokens of blocks, all alike, by row id."""

    def __init__(self, length: int):
        self.length = length

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.full(len(rows), self.length)


class _Targets:
    """Target tokens of blocks by row id, counted when asked for."""

    def __init__(self, blocks: Sequence[Blocks]):
        self.blocks = blocks

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.array([self.blocks[row // STRIDE].targets(row % STRIDE) for row in rows])


class CorpusSplit:
    """The blocks of all sources of a split; a row id is source × `STRIDE` + block."""

    def __init__(self, names: Sequence[str], blocks: Sequence[Blocks], length: int):
        self.names, self.blocks = list(names), list(blocks)
        self.lengths: Any = _Lengths(length)
        self.weights: Any = _Targets(self.blocks)
        self.longest = length

    @property
    def receipts(self) -> list[Receipt]:
        for blocks in self.blocks:
            blocks.update()
        pairs = zip(self.names, self.blocks, strict=True)
        return [receipt_of(blocks.cache.index, name) for name, blocks in pairs]

    @property
    def sizes(self) -> list[int]:
        """Blocks of each source that are there now."""
        for blocks in self.blocks:
            blocks.update()
        return [len(blocks) for blocks in self.blocks]

    @property
    def unpacked(self) -> "CorpusSplit":
        """Itself: blocks are evaluated as they are."""
        return self

    @property
    def ids(self) -> "_Same":
        """What a batch's `rows` says of each row: its id."""
        return _Same()

    def __len__(self) -> int:
        return sum(self.sizes)

    def rows(self) -> np.ndarray:
        """All row ids, source after source."""
        return np.concatenate([STRIDE * source + np.arange(size) for source, size in enumerate(self.sizes)])

    def __getitem__(self, row: int) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
        """The source of a block, and the block."""
        source, block = divmod(int(row), STRIDE)
        self.blocks[source].wait_for(block + 1)
        return source, self.blocks[source][block]


class _Same:
    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return rows
