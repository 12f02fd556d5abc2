"""A corpus as blocks of one length, read from the token cache, also while it is being written."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from datamodules.caching.split import Split
from datamodules.caching.token_cache import TokenCache
from datamodules.receipt import Receipt

# A row id is source × SOURCE_STRIDE + block. Ids cannot count through the sources: how many blocks one has is
# not known while it is still being tokenised, and an id must not change when more come.
SOURCE_STRIDE = 1 << 40


class SourceBlocks:
    """The documents of one source, one after another, cut into blocks of `length` tokens.

    Nothing is held in memory: tokens and the ends of documents are read from the cache, which may still be
    growing; the blocks that are there do not change as it grows.

    Args:
        cache: encoded documents, maybe still being written.
        length: tokens of a block.
        keep_tail: whether the last, shorter block counts (it is padded), or is left out.
    """

    def __init__(self, cache: TokenCache, length: int, keep_tail: bool):
        self.cache, self.length, self.keep_tail = cache, length, keep_tail
        self.starts = [0]
        self.parts: list[tuple[np.ndarray, np.ndarray]] = []  # tokens, offsets of documents
        self._take_in()

    def _take_in(self) -> None:
        """Adds the batches that the cache has and this has not."""
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

    def updated(self) -> "SourceBlocks":
        """Itself, with what another thread or process has written by now."""
        if not self.complete:
            self.cache.refresh()
            self._take_in()
        return self

    def wait_for(self, blocks: int) -> None:
        """Waits until so many blocks are there, or the source is complete."""
        if len(self) < blocks and not self.complete:
            self.cache.wait(lambda: self.cache.index.tokens >= blocks * self.length)
            self._take_in()

    def __getitem__(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and document ids (from 0, −1 = padding) of a block, `length` each; the ids' padding is 0."""
        start, stop = self._span(block)
        tokens, ends = self.read(start, stop)
        documents = np.searchsorted(ends, np.arange(start, stop), side="right")
        tail = self.length - len(tokens)
        return np.pad(tokens, (0, tail)), np.pad(documents, (0, tail), constant_values=-1)

    def targets(self, block: int) -> int:
        """Tokens of a block that are predicted: all but the first of each document in it."""
        start, stop = self._span(block)
        _, ends = self.read(start, stop)
        return stop - start - 1 - int((ends < stop).sum())

    def _span(self, block: int) -> tuple[int, int]:
        start = block * self.length
        return start, min(start + self.length, self.starts[-1])

    def read(self, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The tokens from `start` to `stop` (by default all that are there), and the ends of documents after
        `start` and up to `stop`."""
        stop = self.starts[-1] if stop is None else stop
        tokens, ends = [], []
        part = bisect_right(self.starts, start) - 1
        while start < stop:
            first, (values, offsets) = self.starts[part], self.parts[part]
            low, high = start - first, min(stop, self.starts[part + 1]) - first
            tokens.append(values[low:high])
            ends.append(offsets[slice(*np.searchsorted(offsets, (low, high), side="right"))] + first)
            start, part = first + high, part + 1
        return np.concatenate(tokens), np.concatenate(ends)


class OnDemand:
    """A number for each row id, worked out when it is asked for: blocks may be many, and more may come."""

    def __init__(self, numbers: Callable[[np.ndarray], np.ndarray]):
        self.numbers = numbers

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.numbers(rows)


class MixtureBlocks(Split):
    """The blocks of `length` tokens of all sources of a split. Row ids are not 0 … n − 1 but those of
    `row_ids`."""

    def __init__(self, sources: Mapping[str, SourceBlocks], length: int):
        self.names, self.blocks = list(sources), list(sources.values())
        self.longest = length
        self.lengths = OnDemand(partial(np.full_like, fill_value=length))
        self.weights = OnDemand(self._targets)
        self.ids = OnDemand(np.asarray)  # in evaluation batches too a row is known by its id

    def _targets(self, rows: np.ndarray) -> np.ndarray:
        places = [divmod(row, SOURCE_STRIDE) for row in rows.tolist()]
        return np.array([self.blocks[source].targets(block) for source, block in places])

    @property
    def receipts(self) -> list[Receipt]:
        pairs = zip(self.names, self.blocks, strict=True)
        return [blocks.updated().cache.index.receipt(name) for name, blocks in pairs]

    @property
    def sizes(self) -> list[int]:
        """Blocks of each source that are there now."""
        return [len(blocks.updated()) for blocks in self.blocks]

    def __len__(self) -> int:
        return sum(self.sizes)

    def row_ids(self) -> np.ndarray:
        """Of all blocks that are there now, source after source."""
        return np.concatenate(
            [SOURCE_STRIDE * source + np.arange(size) for source, size in enumerate(self.sizes)]
        )

    def members(self, row: int) -> list[dict[str, Any]]:
        """The block with an id, which is waited for: `name` of its source, `input_ids` and `document_ids`."""
        source, block = divmod(int(row), SOURCE_STRIDE)
        self.blocks[source].wait_for(block + 1)
        input_ids, document_ids = self.blocks[source][block]
        return [{"name": self.names[source], "input_ids": input_ids, "document_ids": document_ids}]
