"""Early termination by W&B's Hyperband: at each band a run must be among the best share of those that came as
far (Li et al. 2018, arXiv:1603.06560; the rule is that of W&B's own engine)."""

import math
from collections.abc import Sequence

from experiments.sweep.spec import Hyperband

FARTHEST = 10**9  # of the bands of `min_iter`, which have no end


def bands(rule: Hyperband) -> list[int]:
    """How often the metric has been logged before each time that runs are looked at, from the first on."""
    found: list[int] = []
    if rule.max_iter is not None:
        band = float(rule.max_iter)
        for _ in range(rule.s):
            band /= rule.eta
            if band < 1:
                break
            found.append(int(band))
        return sorted(found)
    band = float(rule.min_iter or 1)
    while band < FARTHEST:
        found.append(int(band))
        band *= rule.eta
    return found


def falls_behind(rule: Hyperband, run: Sequence[float], runs: Sequence[Sequence[float]]) -> bool:
    """Whether a run is to be stopped.

    Args:
        run: what it has logged so far, the smaller the better.
        runs: what each run of the sweep has logged, this one included.

    The last band that the run has passed decides: its best so far, or with `strict` its value at that band,
    must not be above the value that the best 1/eta of all runs had there.
    """
    passed = [band for band in bands(rule) if band < len(run)]
    if not passed:
        return False
    there = sorted(history[passed[-1]] for history in runs if len(history) > passed[-1])
    threshold = there[int(len(there) / rule.eta)] if there else math.inf
    return (run[passed[-1]] if rule.strict else min(run)) > threshold
