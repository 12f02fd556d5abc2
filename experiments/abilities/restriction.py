"""Prompt restriction against hallucination: asked to answer from the passages only, a model says that it does
not know where they do not tell.

Beside the refusals that are wanted (Chen et al. 2023, 2309.01431, "negative rejection") stand those that are
not, and wordings that were never trained on.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from experiments.abilities.ability import Answers, Bar, Finding, Headline, Question, Runs
from experiments.abilities.knowledge import UNKNOWN_WORD, Context, Knowledge
from experiments.statistics import auroc, mcnemar, rate

CONTEXTS: tuple[Context, ...] = ("none", "gold", "wrong")
MODES = ("free", "restricted", "held-out")
COVERAGES = tuple(round(0.1 * tenth, 1) for tenth in range(1, 11))
Item = Callable[[Answers], np.ndarray]  # which items of a condition have a property


def refused(answers: Answers) -> np.ndarray:
    return answers.answers[:, 0] == UNKNOWN_WORD


def made_up(answers: Answers) -> np.ndarray:
    """Answers that are neither right nor a refusal: under a restriction, all that are no refusal where the
    passages do not tell."""
    return ~answers.right & ~refused(answers)


class Restriction(Knowledge):
    """The same questions, freely and restricted, where the passages tell the answer and where they do not."""

    name: ClassVar[str] = "restriction"

    def questions(self, arm: str) -> list[Question]:
        return [self.question("unseen", context, mode) for context in CONTEXTS for mode in MODES]

    def finding(self, runs: Runs) -> Finding:
        def values(condition: str, has: Item) -> list[np.ndarray]:
            return [has(answers[condition]) for answers in runs.values()]

        def bar(name: str, condition: str, has: Item, threshold: float, at_least: bool = False) -> Bar:
            each = values(condition, has)
            return Bar(name, [float(e.mean()) for e in each], rate(np.concatenate(each)), threshold, at_least)

        bars = [
            bar("made up, free", "unseen, wrong, free", made_up, 0.90, at_least=True),
            bar("made up, restricted", "unseen, wrong, restricted", made_up, 0.10),
            bar("made up, held-out wordings", "unseen, wrong, held-out", made_up, 0.15),
            bar("refused though told, restricted", "unseen, gold, restricted", refused, 0.10),
        ]
        results: dict[str, Any] = {}
        for context in CONTEXTS:
            for mode in MODES:
                condition = f"unseen, {context}, {mode}"
                for name, has in (("made up", made_up), ("refused", refused), ("right", _right)):
                    results[f"{name}: {condition}"] = rate(np.concatenate(values(condition, has)))
        for mode in ("restricted", "held-out"):
            results[f"refusal F1, {mode}"] = _refusal_f1(runs, mode)
        told, untold = (_entropy(runs, f"unseen, {context}, free") for context in ("gold", "wrong"))
        results["AUROC of entropy, untold against told"] = auroc(untold, told)
        results["risk by coverage"] = risk_by_coverage(runs)
        restricted, free = (
            ~np.concatenate(values(f"unseen, wrong, {mode}", made_up)) for mode in ("restricted", "free")
        )
        return Finding(
            Headline("nothing made up, restricted", "free", mcnemar(restricted, free)), bars, results
        )


def _right(answers: Answers) -> np.ndarray:
    return answers.right


def _entropy(runs: Runs, condition: str) -> np.ndarray:
    return np.concatenate([answers[condition].columns["entropy"] for answers in runs.values()])


def _refusal_f1(runs: Runs, mode: str) -> float:
    """Of refusing: right where the passages do not tell, wrong where they do."""
    untold, told = (
        np.concatenate([refused(answers[f"unseen, {context}, {mode}"]) for answers in runs.values()])
        for context in ("wrong", "gold")
    )
    hits = float(untold.sum())
    return 2 * hits / (hits + len(untold) - hits + hits + told.sum()) if hits else 0.0


def risk_by_coverage(runs: Runs) -> dict[float, float]:
    """Share of wrong answers among the surest so many, half of the questions being ones that the passages do
    not tell, freely asked: coverage → risk. Sure is who has little entropy over the first word."""
    conditions = [f"unseen, {context}, free" for context in ("gold", "wrong")]
    entropy = np.concatenate([_entropy(runs, condition) for condition in conditions])
    wrong = np.concatenate([~answers[c].right for c in conditions for answers in runs.values()])
    surest = wrong[np.argsort(entropy, kind="stable")]
    return {share: float(surest[: round(share * len(surest))].mean()) for share in COVERAGES}
