"""Orders: endless sequences of row ids, each a pure function of a seed."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import numpy as np

from datamodules.errors import UserError

Result = TypeVar("Result")
WINDOW = 1024  # rows that are shuffled together where more are still coming in


def source_seed(seed: int, source: int) -> int:
    """A seed for each source of a mixture; a prime apart, so that runs of neighbouring seeds share none."""
    return seed + 7919 * source


class RowOrder(Protocol):
    """An endless sequence of row ids."""

    def __getitem__(self, index: int) -> int: ...


class Memoized(Generic[Result]):
    """A pure function of integers that keeps its last results. Unlike `lru_cache` it can be pickled, so that
    what holds it can be sent to a worker process; there it begins with none.
    Of more than `size` results the oldest leaves."""

    def __init__(self, function: Callable[..., Result], size: int):
        self.function, self.size = function, size
        self.results: dict[tuple[int, ...], Result] = {}

    def __call__(self, *numbers: int) -> Result:
        if numbers not in self.results:
            if len(self.results) >= self.size:
                del self.results[next(iter(self.results))]
            self.results[numbers] = self.function(*numbers)
        return self.results[numbers]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "results": {}}


class Shuffled:
    """Row ids 0 … size − 1 in one permutation after another, an epoch each; (seed, epoch) fixes one."""

    def __init__(self, size: int, seed: int):
        self.size, self.seed = size, seed
        self._permutation = Memoized(self._draw, 2)

    def __getitem__(self, index: int) -> int:
        epoch, place = divmod(index, self.size)
        return int(self._permutation(epoch)[place])

    def _draw(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.size)


class Growing(Protocol):
    """Rows of which more may come."""

    @property
    def complete(self) -> bool:
        """Whether all are there."""

    def __len__(self) -> int: ...

    def wait_for(self, rows: int) -> None:
        """Waits until so many rows are there, or all are."""


class Windowed:
    """Row ids 0 … size − 1 again and again, shuffled within windows of `WINDOW` rows, for rows that are still
    coming in: a permutation of all would have to wait for the last. The order does not depend on how many
    are there when it is asked for.

    Args:
        rows: the rows.
        seed: of the permutations; (seed, epoch, window) fixes one.
        name: of the source, for messages.
        max_epochs: how often a row may come; None = any number.
    """

    def __init__(self, rows: Growing, seed: int, name: str = "", max_epochs: float | None = None):
        self.rows, self.seed, self.name, self.max_epochs = rows, seed, name, max_epochs
        self._permutation = Memoized(self._draw, 2)

    def __getitem__(self, index: int) -> int:
        self.rows.wait_for((index // WINDOW + 1) * WINDOW)
        epoch, place = divmod(index, len(self.rows)) if self.rows.complete else (0, index)
        limit = self.max_epochs if self.rows.complete else None
        if limit is not None and index >= limit * len(self.rows):
            raise UserError(
                f"{self.name} has been seen {limit:g} times, its max_epochs: go on from the last "
                "checkpoint with a lower weight, or with more text"
            )
        start = place - place % WINDOW
        size = min(WINDOW, len(self.rows) - start) if self.rows.complete else WINDOW
        return start + int(self._permutation(epoch, start, size)[place - start])

    def _draw(self, epoch: int, start: int, size: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch, start)).permutation(size)
