"""Whether the place in which a reply is shown changes how it is ranked."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

SHUFFLES = 2000


class Position(NamedTuple):
    """Ranks by the place on the page."""

    mean_rank: list[float]
    """of the reply shown at each place, from 0 = best to 1 = worst; 0.5 where the place changes nothing"""
    counts: list[int]
    """replies that were shown there"""
    p: float
    """of places that differ at least as much, were they without influence"""


def position(levels: Sequence[Sequence[float]], seed: int = 0) -> Position:
    """Ranks by place, and a permutation test of them.

    Replies are shown in a random order, so without influence of the place every order of a ranking's levels
    was as likely as the one found: the test's null is what the page did, whatever the replies' quality and
    however people agree (Fisher's randomisation test). The statistic is Friedman's, but for a factor.

    Args:
        levels: of each ranking, the level of the reply at each place; lower is better.
        seed: of the shuffles.
    """
    widest = max((len(ranking) for ranking in levels), default=0)
    ranks = np.full((len(levels), widest), np.nan)
    for row, ranking in enumerate(levels):
        if len(ranking) > 1:
            ranks[row, : len(ranking)] = (rankdata(ranking) - 1) / (len(ranking) - 1)
    shown = ~np.isnan(ranks)
    counts = shown.sum(0)
    if not counts.any():
        return Position([], [], float("nan"))
    centred = np.where(shown, ranks - 0.5, 0.0)
    rng = np.random.default_rng(seed)
    observed = _spread(centred, counts)
    above = 0
    for _ in range(SHUFFLES):
        # each ranking's own places alone are exchanged: the others sort to the end
        key = np.where(shown, rng.random(ranks.shape), 2.0)
        exchanged = np.take_along_axis(centred, key.argsort(1), 1)
        above += _spread(exchanged, counts) >= observed - 1e-12
    means = np.divide(centred.sum(0), counts, out=np.zeros(widest), where=counts > 0) + 0.5
    return Position(means.tolist(), counts.tolist(), (above + 1) / (SHUFFLES + 1))


def _spread(centred: np.ndarray, counts: np.ndarray) -> float:
    return float((centred.sum(0) ** 2 / np.maximum(counts, 1)).sum())
