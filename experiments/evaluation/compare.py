"""Results side by side, item by item: models on the same questions, and the ways of asking one model."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from experiments.evaluation.store import Result, Store
from experiments.statistics import holm, mcnemar, paired_difference


class Comparison(NamedTuple):
    """The first metric of two results on the same items."""

    task: str
    first: str
    second: str
    metric: str
    difference: float
    """second − first"""
    low: float
    high: float
    n: int
    p: float | None
    """McNemar's, adjusted by Holm over all of the list; None where items are not right or wrong"""


def compare(store: Store, results: Sequence[Result]) -> list[Comparison]:
    """Every two models that were asked the same questions; every two ways of asking one model about the same
    items, which differ in variant or shots."""
    comparisons: list[Comparison] = []
    p_values: dict[str, float] = {}
    for first, second in itertools.combinations(results, 2):
        names = _names(first, second)
        if names is None:
            continue
        metric = next(iter(first.metrics))
        values = [[item["scores"][metric] for item in store.answers(each)] for each in (first, second)]
        counted = [pair for pair in zip(*values, strict=True) if None not in pair]
        before, after = ([pair[place] for pair in counted] for place in (0, 1))
        label = first.label if first.model != second.model else first.task
        difference = paired_difference(after, before)
        if all(isinstance(value, bool) for pair in counted for value in pair):
            p_values[str(len(comparisons))] = mcnemar(before, after).p
        comparisons.append(Comparison(label, *names, metric, *difference[:3], difference.n, None))
    adjusted = holm(p_values)
    return [each._replace(p=adjusted.get(str(number))) for number, each in enumerate(comparisons)]


def _names(first: Result, second: Result) -> tuple[str, str] | None:
    """What tells two results apart; None where they are not to be compared."""
    if (first.task, first.rows_sha256) != (second.task, second.rows_sha256):
        return None
    if first.model != second.model:
        same = first.items_sha256 == second.items_sha256
        return (first.model, second.model) if same else None
    if first.shots != second.shots and first.variant != second.variant:
        return None
    ways = [f"{each.variant or 'plain'}, {each.shots}-shot" for each in (first, second)]
    return f"{first.model}: {ways[0]}", ways[1]
