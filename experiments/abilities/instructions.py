"""Instruction following: instructions never trained on, once enough different ones were.

"ab>cd|habhgfee=" asks to replace ab by cd in what follows the bar. Of all 4,032 rules 500 are held out; the
number of rules that are trained on changes, the number of examples does not (Zhang et al. 2024, 2402.10891).
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
from experiments.statistics import mcnemar, rate

LETTERS, TEXT, HELD_OUT = 8, 8, 500
INTO, BAR, EQUALS = LETTERS, LETTERS + 1, LETTERS + 2
RULES = (30, 100, 300, 1000, 3000)
ROWS, PRESENT = 100_000, 0.9
"""training rows, and the share of those in which there is something to replace"""
NEW, TRAINED = "new instructions", "trained instructions"


def all_rules() -> np.ndarray:
    """(4032, 4) letters: two of what is replaced and two of what by, shuffled once and for all."""
    pairs = np.arange(LETTERS**2)
    rules = np.array([(a, b) for a in pairs for b in pairs if a != b])
    np.random.default_rng(0).shuffle(rules)
    return np.stack([*np.divmod(rules[:, 0], LETTERS), *np.divmod(rules[:, 1], LETTERS)], 1)


def rewritten(rng: np.random.Generator, rules: np.ndarray, present: float) -> np.ndarray:
    """(B, 4) rules → (B, 23) words: the rule, a text, and the text after the first replacement.

    Args:
        present: the share of texts into which what is replaced is put; in the others it may be by chance.
    """
    count = len(rules)
    old, new = rules[:, :2], rules[:, 2:]
    text = rng.integers(0, LETTERS, (count, TEXT))
    put, at = rng.random(count) < present, rng.integers(0, TEXT - 1, count)
    rows = np.flatnonzero(put)
    text[rows, at[rows]], text[rows, at[rows] + 1] = old[rows].T
    matches = (text[:, :-1] == old[:, :1]) & (text[:, 1:] == old[:, 1:])
    rows, first = np.flatnonzero(matches.any(1)), matches.argmax(1)
    result = text.copy()
    result[rows, first[rows]], result[rows, first[rows] + 1] = new[rows].T
    into, bar, equals = (np.full((count, 1), word) for word in (INTO, BAR, EQUALS))
    return np.concatenate([old, into, new, bar, text, equals, result], 1)


class Instructions(Ability):
    """One model a number of training rules."""

    name: ClassVar[str] = "instructions"
    training: ClassVar[str] = "instructions"

    def vocabulary(self) -> list[str]:
        return [*"abcdefgh", ">", "|", "="]

    def arms(self) -> list[Arm]:
        return [Arm(f"{rules} rules", {}) for rules in RULES]

    def rows(self, arm: str, seed: int) -> Iterator[Block]:
        rng = np.random.default_rng((1, seed))
        rules = rng.permutation(all_rules()[HELD_OUT:])[: int(arm.split()[0])]
        ids = rewritten(rng, rules[rng.integers(0, len(rules), ROWS)], PRESENT)
        yield Block(ids, np.arange(ids.shape[1]) >= ids.shape[1] - TEXT)

    def questions(self, arm: str) -> list[Question]:
        rng = np.random.default_rng(TEST)
        rules = all_rules()[:HELD_OUT]
        ids = rewritten(rng, rules[rng.integers(0, HELD_OUT, self.items)], present=1.0)
        prompts, expected = np.split(ids, [-TEXT], axis=1)
        return [Question(NEW, prompts, expected)]

    def finding(self, runs: Runs) -> Finding:
        few, many = f"{RULES[0]} rules", f"{RULES[-1]} rules"
        bars = [
            Bar(f"{NEW}, {arm}", by_seed(runs, arm, NEW), rate(pooled(runs, arm, NEW)), threshold, at_least)
            for arm, threshold, at_least in ((few, 0.05, False), (many, 0.70, True))
        ]
        results: dict[str, Any] = {arm.name: rate(pooled(runs, arm.name, NEW)) for arm in self.arms()}
        paired = mcnemar(pooled(runs, many, NEW), pooled(runs, few, NEW))
        return Finding(Headline(many, few, paired), bars, results)
