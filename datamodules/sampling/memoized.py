"""A function's last results."""

from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Memoized(Generic[Result]):
    """A function of numbers that keeps its last results. Unlike `lru_cache` it can be sent to another
    process, where it begins anew.

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
