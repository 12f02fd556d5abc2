"""Which source the n-th block comes from: shares within one block of the weights at every moment."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from fractions import Fraction
from heapq import heapify, heappop, heappush
from math import lcm
from typing import NamedTuple

import numpy as np

from datamodules.errors import UserError
from datamodules.sampling.orders import Memoized, RowOrder

CHUNK = 1 << 12  # blocks scheduled at a time
NEVER = 1 << 62


class Phase(NamedTuple):
    """A stretch of blocks with the same weights. Targets are exact: integers, `unit` of them a block."""

    start: int
    """first block"""
    rates: tuple[int, ...]
    """each source's share, in parts of `unit`"""
    targets: tuple[int, ...]
    """what each source should have given before `start`, in parts of `unit`"""


class MixtureSchedule:
    """A deterministic schedule of draws by weight, exact for any weights and also where they change.

    The j-th block of a source may come once its target (the sum of its weights so far) has passed j − 1 and
    must have come when the target reaches j; of those that may, the one that must first is drawn. Then no
    source is ever a whole block away from its target, since the targets together grow by one each block
    (Tijdeman 1980, "The chairman assignment problem"; as fair scheduling, Baruah et al. 1996).

    Where the schedule stands after n blocks is found from the last 1 / (smallest weight) blocks before n
    (or those since a source stopped), not from all: two such schedules that start differently agree as soon
    as every block that was pending at the start has come. So the cost of a look-up does not grow with n.

    Args:
        weights: one a source, at least one positive; they are normalised.
        changes: block number → the weights from that block on.

    Raises:
        UserError: a weight is negative or not finite, all are zero, their number changes, or they change
            before the first block.
    """

    def __init__(self, weights: Sequence[float], changes: Mapping[int, Sequence[float]] | None = None):
        if any(block < 1 for block in changes or {}):
            raise UserError(f"weights change at block {min(changes or {})}: give blocks after the first")
        given = {0: weights, **(changes or {})}
        shares = [_shares(given[start]) for start in sorted(given)]
        self.sources = len(shares[0])
        if any(len(each) != self.sources for each in shares):
            raise UserError("the number of weights changes over time: give one for each source, 0 for none")
        self.unit = lcm(*(share.denominator for each in shares for share in each))
        self.phases: list[Phase] = []
        targets, before = (0,) * self.sources, (0,) * self.sources
        for start, each in zip(sorted(given), shares, strict=True):
            if self.phases:
                length = start - self.phases[-1].start
                targets = tuple(t + rate * length for t, rate in zip(targets, before, strict=True))
            before = tuple(int(share * self.unit) for share in each)
            self.phases.append(Phase(start, before, targets))
        self._starts = [phase.start for phase in self.phases]
        self._ends = [[phase.targets[i] for phase in self.phases[1:]] for i in range(self.sources)]
        self._chunk = Memoized(self._make_chunk, 8)

    def weights(self, block: int = 0) -> np.ndarray:
        """(sources,) float64 shares, summing to 1, that hold at a block."""
        return np.array([rate / self.unit for rate in self._phase(block).rates])

    def target(self, blocks: int) -> np.ndarray:
        """(sources,) float64: how many of the first `blocks` blocks each source should give."""
        return np.array([target / self.unit for target in self._targets(blocks)])

    def __getitem__(self, block: int) -> tuple[int, int]:
        """The n-th block: its source, and how many blocks of that source came before."""
        sources, before, _ = self._chunk(block // CHUNK)
        place = block % CHUNK
        return sources[place], before[place]

    def drawn(self, blocks: int) -> np.ndarray:
        """(sources,) int64: how many of the first `blocks` blocks each source gave."""
        chunk, place = divmod(blocks, CHUNK)
        counts = self._counts(chunk)
        for source in self._chunk(chunk)[0][:place]:
            counts[source] += 1
        return np.array(counts)

    def _make_chunk(self, chunk: int) -> tuple[list[int], list[int], list[int]]:
        """Sources of a chunk's blocks, each one's count before it, and the counts after the chunk."""
        counts = self._counts(chunk)
        seen, before = list(counts), []
        sources = self._draw(counts, chunk * CHUNK, (chunk + 1) * CHUNK)
        for source in sources:
            before.append(seen[source])
            seen[source] += 1
        return sources, before, counts

    def _counts(self, chunk: int) -> list[int]:
        """What each source has given before a chunk."""
        if chunk == 0:
            return [0] * self.sources
        end = chunk * CHUNK
        start = min(self._settled_since(source, end) for source in range(self.sources))
        counts = self._fair_counts(start)
        self._draw(counts, start, end)
        return counts

    def _settled_since(self, source: int, block: int) -> int:
        """The last place before `block` from which on everything then due from a source has come."""
        whole = self._targets(block)[source] // self.unit
        return max(0, self._reached(source, whole * self.unit) - 1) if whole else 0

    def _fair_counts(self, block: int) -> list[int]:
        """Counts from which every deadline after `block` can be kept: each source's target rounded down, and
        one more for those whose next block is due first."""
        whole = [target // self.unit for target in self._targets(block)]
        due = sorted((self._reached(i, (n + 1) * self.unit), i) for i, n in enumerate(whole))
        begun = [i for _, i in due if self._targets(block)[i] % self.unit]
        for source in begun[: block - sum(whole)]:
            whole[source] += 1
        return whole

    def _draw(self, counts: list[int], start: int, end: int) -> list[int]:
        """The sources of blocks `start` … `end` − 1; `counts` are brought from before to after them."""
        ready: list[tuple[int, int]] = []
        later = [(self._may(i, counts[i]), i) for i in range(self.sources)]
        heapify(later)
        drawn = []
        for block in range(start, end):
            while later and later[0][0] <= block:
                source = heappop(later)[1]
                heappush(ready, (self._reached(source, (counts[source] + 1) * self.unit), source))
            source = heappop(ready)[1]
            drawn.append(source)
            counts[source] += 1
            heappush(later, (self._may(source, counts[source]), source))
        return drawn

    def _may(self, source: int, count: int) -> int:
        """The first block that may be a source's next after `count` of them."""
        return self._reached(source, count * self.unit + 1) - 1

    def _reached(self, source: int, target: int) -> int:
        """After how many blocks a source's target first is at least `target`, in parts of `unit`."""
        index = bisect_left(self._ends[source], target)
        phase = self.phases[index]
        rate = phase.rates[source]
        return phase.start + -(-(target - phase.targets[source]) // rate) if rate else NEVER

    def _targets(self, block: int) -> list[int]:
        phase = self._phase(block)
        past = block - phase.start
        return [t + rate * past for t, rate in zip(phase.targets, phase.rates, strict=True)]

    def _phase(self, block: int) -> Phase:
        index = bisect_left(self._starts, block + 1) - 1
        return self.phases[index]


def _shares(weights: Sequence[float]) -> list[Fraction]:
    """Weights as exact shares; 0.3 is three tenths and not the float nearest to it."""
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise UserError(f"weights are {', '.join(f'{w:g}' for w in weights)}: give positive numbers")
    exact = [Fraction(repr(float(weight))) for weight in weights]
    return [weight / sum(exact) for weight in exact]


def temperature_weights(sizes: Sequence[float], temperature: float) -> list[float]:
    """Shares in proportion to size^τ: τ = 1 as large as the source, τ = 0 all alike."""
    powers = [float(size) ** temperature for size in sizes]
    return [power / sum(powers) for power in powers]


class Mixed:
    """Row ids of several sources drawn by weight, each in an order of its own; `starts` says where each
    source's row ids begin."""

    def __init__(self, schedule: MixtureSchedule, orders: Sequence[RowOrder], starts: Sequence[int]):
        self.schedule, self.orders, self.starts = schedule, orders, starts

    def __getitem__(self, index: int) -> int:
        source, place = self.schedule[index]
        return self.starts[source] + self.orders[source][place]
