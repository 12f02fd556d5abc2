"""A cache of the last few results of a pure function, for objects that are sent to worker processes."""

from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Memoized(Generic[Result]):
    """A pure function of integers that keeps its last results. Unlike `lru_cache` it can be pickled, so that
    what holds it can be sent to a worker process; there it begins with none.

    Args:
        function: always gives the same for the same numbers.
        size: results that are kept; the oldest leaves.
    """

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
