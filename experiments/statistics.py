"""How sure a measurement is: intervals of rates and means, tests of two arms on the same items, and what a
curve over sizes looks like."""

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, mannwhitneyu
from scipy.stats import t as student_t

CONFIDENCE = 0.95
RESAMPLES = 2000


class Estimate(NamedTuple):
    """A measured number with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """items that it was measured on"""


class Paired(NamedTuple):
    """Two arms on the same items, by McNemar's exact test (McNemar 1947; binomial, two-sided)."""

    only_first: int
    """items that the first arm alone has right"""
    only_second: int
    p: float
    """of a split at least as uneven, were the arms equally good"""


def rate(right: Sequence[bool] | np.ndarray) -> Estimate:
    """The share of items that are right, with Wilson's interval (Wilson 1927).

    Raises:
        ValueError: there are no items.
    """
    n, k = len(right), int(np.count_nonzero(right))
    interval = binomtest(k, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(k / n, float(interval.low), float(interval.high), n)


def mean(values: Sequence[float] | np.ndarray) -> Estimate:
    """The mean of items' values, with a normal interval from their standard error."""
    array = np.asarray(values, dtype=np.float64)
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    half = z * array.std(ddof=1) / len(array) ** 0.5 if len(array) > 1 else float("inf")
    return Estimate(float(array.mean()), float(array.mean() - half), float(array.mean() + half), len(array))


def mcnemar(first: Sequence[bool] | np.ndarray, second: Sequence[bool] | np.ndarray) -> Paired:
    """Which of two arms has more of the same items right, item by item."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    differing = only_first + only_second
    p = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    return Paired(only_first, only_second, p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several tests, adjusted so that the chance of any false finding stays below the level that
    each is then held to (Holm 1979)."""
    adjusted, largest = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def paired_difference(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, seed: int = 0
) -> Estimate:
    """The mean of `first` − `second` over the same items, with a percentile bootstrap interval over items."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(difference), (RESAMPLES, len(difference)))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(difference[draws].mean(1), (tail, 100 - tail))
    return Estimate(float(difference.mean()), float(low), float(high), len(difference))


def paired_p(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """The chance of a mean difference at least as large between two arms on the same few items, were they
    equally good: Student's paired t-test, two-sided. 1 where the arms are equal in every item."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if not difference.any():
        return 1.0
    if len(difference) < 2:
        return float("nan")
    with np.errstate(divide="ignore"):  # the same difference in every item
        statistic = difference.mean() / (difference.std(ddof=1) / len(difference) ** 0.5)
    return float(2 * student_t.sf(abs(statistic), len(difference) - 1))


def ratio(
    numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray, seed: int = 0
) -> Estimate:
    """The sum of items' numerators over that of their denominators, with a percentile bootstrap interval over
    items; nan where the denominators are 0. `n` counts the items that have a denominator."""
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    above, below = above[below > 0], below[below > 0]
    if not len(below):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    draws = np.random.default_rng(seed).integers(0, len(below), (RESAMPLES, len(below)))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(above[draws].sum(1) / below[draws].sum(1), (tail, 100 - tail))
    return Estimate(float(above.sum() / below.sum()), float(low), float(high), len(below))


def auroc(positive: Sequence[float] | np.ndarray, negative: Sequence[float] | np.ndarray) -> float:
    """The chance that a positive item's value is above a negative one's, ties counted half."""
    statistic = mannwhitneyu(positive, negative).statistic
    return float(statistic) / (len(positive) * len(negative))


def breakthroughness(scores: Sequence[float]) -> tuple[float, float]:
    """How suddenly, and how evenly, scores rise over growing models: BIG-bench's breakthroughness and
    linearity (Srivastava et al. 2022, appendix B), the signed range over the root of the median, and of the
    mean, squared step; infinite where that is 0."""
    y = np.asarray(scores, dtype=np.float64)
    steps = np.diff(y) ** 2
    reach = float(np.sign(y.argmax() - y.argmin()) * (y.max() - y.min()))

    def over(scale: float) -> float:
        return reach / scale if scale > 0 else float(np.sign(reach) * np.inf) if reach else 0.0

    return over(float(np.median(steps)) ** 0.5), over(float(steps.mean()) ** 0.5)
