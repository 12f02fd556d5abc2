"""Intervals and tests give the published values."""

import numpy as np
import pytest

from experiments.statistics import (
    auroc,
    breakthroughness,
    holm,
    mcnemar,
    mean,
    paired_difference,
    rate,
)


def test_wilson_interval_is_the_published_one():
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    for right, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        estimate = rate([True] * right + [False] * (n - right))
        assert estimate[:3] == pytest.approx((right / n, low, high), abs=5e-5)  # four digits are published


def test_mcnemar_is_the_binomial_test_of_the_items_on_which_the_arms_differ():
    first = [True] * 9 + [False] * 1 + [True] * 50
    second = [False] * 9 + [True] * 1 + [True] * 50
    # 2 · (C(10,0) + C(10,1)) / 2¹⁰, by hand
    assert mcnemar(first, second) == pytest.approx((9, 1, 2 * 11 / 1024))
    assert mcnemar(first, first) == (0, 0, 1.0)


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert list(adjusted) == ["a", "b", "c", "d"]


def test_intervals_of_means_and_differences_hold_what_they_were_drawn_from():
    """About 95 of 100; fewer than 86 have a chance below 1e-3 under a true 95 %."""
    rng = np.random.default_rng(0)
    means, differences = 0, 0
    for seed in range(100):
        a, b = rng.normal(0.5, 1, 200), rng.normal(0.2, 1, 200)
        means += mean(a).low <= 0.5 <= mean(a).high
        difference = paired_difference(a, b, seed)
        differences += difference.low <= 0.3 <= difference.high
    assert means >= 86
    assert differences >= 86


def test_auroc_counts_ties_half():
    assert auroc([2.0, 3.0], [1.0, 2.0]) == pytest.approx(3.5 / 4)
    assert auroc([1.0], [2.0]) == 0.0


def test_a_jump_is_a_breakthrough_and_a_line_is_linear():
    jump, line = breakthroughness([0, 0, 0.01, 0.02, 0.9, 1]), breakthroughness([0, 0.2, 0.4, 0.6, 0.8, 1])
    # median squared step of the jump is 0.01² (steps 0, .01, .01, .88, .1), by hand
    assert jump[0] == pytest.approx(1 / 0.01)
    assert line == pytest.approx((5.0, 5.0))
    assert breakthroughness([0.5, 0.5])[0] == 0.0
