"""How far people agree on the order of the same replies."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata


def kendall_w(ratings: Sequence[Sequence[float] | np.ndarray]) -> float:
    """Kendall's coefficient of concordance with its correction for ties (Kendall and Gibbons 1990, chapter
    6): 1 = all of one mind; 1/m is what m people reach on average who rate at random.

    Args:
        ratings: (m people, n replies), higher is better.

    Returns:
        nan where everybody ties everything, or there are fewer than two people or replies.
    """
    table = np.asarray(ratings, dtype=float)
    people, replies = table.shape
    if people < 2 or replies < 2:
        return float("nan")
    ranks = np.apply_along_axis(rankdata, 1, table)
    sums = ranks.sum(0)
    spread = ((sums - sums.mean()) ** 2).sum()
    tied = 0
    for row in table:
        counts = np.unique(row, return_counts=True)[1]
        tied += int((counts**3 - counts).sum())
    whole = people**2 * (replies**3 - replies) - people * tied
    return float(12 * spread / whole) if whole else float("nan")


def pair_votes(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray
) -> tuple[int, int, int]:
    """What two people say of each pair of replies: how many pairs both order alike, how many they order
    oppositely, and how many one of them ties or both do."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    upper = np.triu_indices(len(a), 1)
    product = (np.sign(a[:, None] - a[None, :]) * np.sign(b[:, None] - b[None, :]))[upper]
    return int((product > 0).sum()), int((product < 0).sum()), int((product == 0).sum())
