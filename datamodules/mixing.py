"""Which source the n-th block comes from: shares within one block of the weights at every moment."""

from collections.abc import Sequence

import numpy as np

CHUNK = 1 << 14  # blocks scheduled at a time


class Schedule:
    """A deterministic schedule of draws by weight (Tijdeman 1980, "The chairman assignment problem").

    After n draws every source has been drawn within one block of its weight × n times.

    Args:
        weights: positive, one a source; they are normalised.
    """

    def __init__(self, weights: Sequence[float]):
        total = float(sum(weights))
        self.weights = np.array(weights, dtype=np.float64) / total
        self.counts = np.zeros((1, len(weights)), dtype=np.int64)  # draws of each source before each block
        self.draws = np.zeros(0, dtype=np.int64)

    def __getitem__(self, index: int) -> tuple[int, int]:
        """The n-th block: its source, and how many blocks of that source came before."""
        self._extend(index + 1)
        source = int(self.draws[index])
        return source, int(self.counts[index, source])

    def drawn(self, blocks: int) -> np.ndarray:
        """(sources,) int64: how many of the first `blocks` blocks each source gave."""
        self._extend(blocks)
        return self.counts[blocks]

    def _extend(self, blocks: int) -> None:
        while len(self.draws) < blocks:
            draws, counts = [], [self.counts[-1]]
            slack = 1.0 - (1.0 / (2 * len(self.weights) - 2) if len(self.weights) > 1 else 0.0)
            for n in range(len(self.draws) + 1, len(self.draws) + CHUNK + 1):
                owed = self.weights * n - counts[-1]
                due = np.where(owed >= 1 - slack - 1e-12, (slack - owed) / self.weights, np.inf)
                source = int(due.argmin())
                draws.append(source)
                after = counts[-1].copy()
                after[source] += 1
                counts.append(after)
            self.draws = np.concatenate([self.draws, draws])
            self.counts = np.concatenate([self.counts, np.stack(counts[1:])])
