"""Which values a stage's numbers may have; NaN and infinity never."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Range(NamedTuple):
    """Numbers from `low` to `high`."""

    text: str
    """that a refusal asks for"""
    low: float
    high: float = math.inf
    low_itself: bool = True
    """whether `low` is among them"""
    missing: bool = False
    """whether None is too"""
    whole: bool = False

    def holds(self, value: Any) -> bool:
        """Whether it is among them."""
        if value is None:
            return self.missing
        value = value.item() if isinstance(value, Tensor) else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return False
        above = value >= self.low if self.low_itself else value > self.low
        return above and value <= self.high and (not self.whole or isinstance(value, int))


COUNT = Range("a whole number above 0", 1, whole=True)
NOT_NEGATIVE = Range("0 or more", 0)
SEED = Range("a whole number of 0 or more", 0, whole=True)
POSITIVE = Range("a number above 0", 0, low_itself=False)
POSITIVE_OR_NONE = POSITIVE._replace(text="a number above 0, or none", missing=True)
SHARE = Range("a share between 0 and 1", 0, 1)
NUMBER = Range("a number", -math.inf)
"""0 and below switch something off"""


def range_errors(stage: object, ranges: Mapping[str, Range]) -> list[str]:
    """The lines that refuse a stage's arguments which are not in their range: name → range."""
    values = {name: getattr(stage, name) for name in ranges}
    return [
        f"model.{name} is {value}: give {ranges[name].text}"
        for name, value in values.items()
        if not ranges[name].holds(value)
    ]
