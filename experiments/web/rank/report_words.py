"""Figures of a report as people read them."""

import math
from collections.abc import Mapping
from typing import Any

ALPHA = 0.05


def interval(estimate: Mapping[str, Any], percent: bool = False) -> str:
    """A value and its interval; a dash where there is none."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None or math.isnan(value):
        return "–"
    if percent:
        return f"{value:.0%} [{low:.0%}, {high:.0%}]"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")


def place_verdict(p: float) -> str:
    """What the test of places says."""
    if math.isnan(p):
        return "no ranking yet"
    found = "the place on the page has a say" if p < ALPHA else "cannot be told from chance"
    return f"{found} (p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}, permutation test)"


def pair_verdict(pair: Mapping[str, Any]) -> str:
    """Which of two models wins, where that can be told."""
    rate = pair["win_rate"]
    if rate["low"] > 0.5:
        return f"{pair['first']} wins"
    if rate["high"] < 0.5:
        return f"{pair['second']} wins"
    return "cannot be told apart"


def duration(seconds: Mapping[str, float]) -> str:
    """The median and the quartiles of times."""
    middle, low, high = (seconds[key] for key in ("median", "low", "high"))
    return "–" if math.isnan(middle) else f"{middle:.0f} s (quartiles {low:.0f} to {high:.0f})"
