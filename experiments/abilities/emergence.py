"""Emergence: the same task, architecture and training; small models cannot, large ones can.

Addition of five-digit numbers, the lowest digit first. Beside exact match stand the share of right digits and
the loss: with those, Schaeffer et al. 2023 (2304.15004) say, the jump is a mirage of the metric. Seeds that
succeed or fail at the same size: Zhao et al. 2025 (2502.17356).
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from experiments.abilities.ability import (
    TEST,
    Ability,
    Arm,
    Bar,
    Block,
    Finding,
    Headline,
    Question,
    Runs,
    by_seed,
    pooled,
)
from experiments.statistics import breakthroughness, mcnemar, rate

DIGITS = 5
WIDTHS = (4, 6, 8, 10, 12, 14, 16, 24, 32, 48)
UNSURE = range(6, 15)
"""widths at which some seeds succeed and others fail"""
PLUS, EQUALS = 10, 11
ROWS = 100_000
ADDITION = "addition"


def additions(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 18) words: two numbers of five digits and their sum of six, each from its lowest digit on."""
    powers = 10 ** np.arange(DIGITS + 1)
    first, second = rng.integers(0, 10**DIGITS, (2, count))
    a, b = (number[:, None] // powers[:DIGITS] % 10 for number in (first, second))
    total = (first + second)[:, None] // powers % 10
    plus, equals = (np.full((count, 1), word) for word in (PLUS, EQUALS))
    return np.concatenate([a, plus, b, equals, total], 1)


def width_of(arm: str) -> int:
    return int(arm.removeprefix("d = "))


class Emergence(Ability):
    """One model a width."""

    name: ClassVar[str] = "emergence"
    training: ClassVar[str] = "emergence"

    def vocabulary(self) -> list[str]:
        return [*map(str, range(10)), "+", "="]

    def arms(self) -> list[Arm]:
        return [Arm(f"d = {width}", _network(width), more_seeds=width in UNSURE) for width in WIDTHS]

    def rows(self, arm: str, seed: int) -> Iterator[Block]:
        ids = additions(np.random.default_rng((1, seed)), ROWS)
        test = {row.tobytes() for row in self._test()}
        ids = ids[[row.tobytes() not in test for row in ids]]
        answers = np.arange(ids.shape[1]) > 2 * DIGITS + 1
        yield Block(ids, answers)

    def _test(self) -> np.ndarray:
        return additions(np.random.default_rng(TEST), self.items)

    def questions(self, arm: str) -> list[Question]:
        prompts, expected = np.split(self._test(), [2 * DIGITS + 2], axis=1)
        return [Question(ADDITION, prompts, expected)]

    def finding(self, runs: Runs) -> Finding:
        widths = sorted({width_of(arm) for arm, _ in runs})
        small, large = [w for w in widths if w <= 6], [w for w in widths if w >= 24]
        bars = [self._bar(runs, width, 0.05, at_least=False) for width in small]
        bars += [self._bar(runs, width, 0.95, at_least=True) for width in large]
        curves = {name: [curve(runs, width, name) for width in widths] for name in ("exact", "digits", "nll")}
        sudden = {name: breakthroughness(values) for name, values in curves.items()}
        results: dict[str, Any] = {
            "widths": widths,
            "parameters": [parameters(width) for width in widths],
            **curves,
            "seeds": {width: by_seed(runs, f"d = {width}", ADDITION) for width in widths},
            "breakthroughness": {name: value[0] for name, value in sudden.items()},
            "linearity": {name: value[1] for name, value in sudden.items()},
        }
        seeds = [{seed for arm, seed in runs if arm == f"d = {width}"} for width in (widths[-1], widths[0])]
        paired = mcnemar(*(_of_seeds(runs, w, seeds[0] & seeds[1]) for w in (widths[-1], widths[0])))
        return Finding(Headline(f"d = {widths[-1]}", f"d = {widths[0]}", paired), bars, results)

    @staticmethod
    def _bar(runs: Runs, width: int, threshold: float, at_least: bool) -> Bar:
        arm = f"d = {width}"
        estimate = rate(pooled(runs, arm, ADDITION))
        return Bar(f"exact match, {arm}", by_seed(runs, arm, ADDITION), estimate, threshold, at_least)


def _of_seeds(runs: Runs, width: int, seeds: set[int]) -> np.ndarray:
    return np.concatenate([runs[f"d = {width}", seed][ADDITION].right for seed in sorted(seeds)])


def curve(runs: Runs, width: int, metric: str) -> float:
    """The mean over seeds of `exact` match, share of right `digits`, or `nll` a digit."""
    values = []
    for (arm, _), answers in runs.items():
        if width_of(arm) == width:
            each = answers[ADDITION]
            digits = (each.answers == each.expected).mean()
            values.append(
                {"exact": each.right.mean(), "digits": digits, "nll": each.columns["nll"].mean()}[metric]
            )
    return float(np.mean(values))


def _network(width: int) -> dict[str, Any]:
    """What a model of this width changes in the YAML."""
    config = {
        "hidden_size": width,
        "intermediate_size": inner(width),
        "head_dim": head(width),
        "initializer_range": round(width**-0.5, 4),
    }
    rate = {"init_args": {"lr": round(0.02 * width**-0.5, 5)}}
    return {"model": {"init_args": {"config": config, "optimizer": rate}}}


def head(width: int) -> int:
    """Half the width, or as much less as makes it even for rotary positions."""
    return width // 4 * 2


def inner(width: int) -> int:
    """About 8/3 of the width, a multiple of 8."""
    return (8 * width // 3 + 7) // 8 * 8


def parameters(width: int) -> int:
    """Of the model, the embedding, which is the head too, among them: two blocks of attention with two heads,
    SwiGLU and norms."""
    attention, feed_forward = 4 * width * 2 * head(width), 3 * width * inner(width)
    return 14 * width + 2 * (attention + feed_forward + 2 * width) + width
