"""In-context learning: more examples in the prompt, better answers, no training.

Recall: words with fresh labels in every row (Olsson et al. 2022; multi-query recall of Arora et al. 2023,
2312.04927). Chains: every row has a Markov chain of its own, whose best predictor is known (Edelman et al.
2024, 2402.11004).
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from experiments.abilities.ability import (
    TEST,
    Ability,
    Answers,
    Arm,
    Bar,
    Block,
    Finding,
    Headline,
    Model,
    Question,
    Runs,
    by_seed,
    pooled,
)
from experiments.abilities.lexicon import COLOURS, THINGS, words
from experiments.statistics import mcnemar, mean, rate

THING_WORDS, LABELS, PAIRS, SHOTS = 96, 8, 32, (0, 1, 2, 4, 8, 16)
SYMBOLS, LENGTH = 4, 64
ROWS = {4: 12_000, 8: 18_000, 16: 34_000}
"""things of a row → rows: with few, counting colours is nearly as good as looking back"""
CHAINS = 40_000
TWO, ONE, CHAIN = "two layers", "one layer", "chains"


def labelled(rng: np.random.Generator, count: int, different: int, pairs: int) -> np.ndarray:
    """(count, 2·pairs) words: things with their labels, drawn from `different` things a row."""
    things = rng.permuted(np.tile(np.arange(THING_WORDS), (count, 1)), axis=1)[:, :different]
    labels = rng.integers(0, LABELS, (count, different)) + THING_WORDS
    drawn = rng.integers(0, different, (count, pairs))
    columns = [np.take_along_axis(kind, drawn, 1) for kind in (things, labels)]
    return np.stack(columns, 2).reshape(count, 2 * pairs)


def chains(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 64) symbols, each row from transitions of its own: each of their rows uniform over all
    distributions."""
    cumulative = rng.dirichlet(np.ones(SYMBOLS), (count, SYMBOLS)).cumsum(2)
    symbols = np.empty((count, LENGTH), dtype=np.int64)
    symbols[:, 0] = rng.integers(0, SYMBOLS, count)
    every = np.arange(count)
    for place in range(1, LENGTH):
        thresholds = cumulative[every, symbols[:, place - 1]]
        above = (rng.random((count, 1)) > thresholds).sum(1)
        symbols[:, place] = np.minimum(above, SYMBOLS - 1)
    return symbols


def best_predictions(symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the best predictor and one that counts symbols alone expect of every symbol but the first, and how
    often the one before it has occurred until then: (B, 63, 4), (B, 63, 4), (B, 63). The best is Laplace's
    rule on the row of the symbol before, (count + 1) / (row + 4)."""
    count, length = symbols.shape
    transitions, seen = np.zeros((count, SYMBOLS, SYMBOLS)), np.zeros((count, SYMBOLS))
    every, best, unigram, visits = np.arange(count), [], [], []
    for place in range(length - 1):
        now, following = symbols[:, place], symbols[:, place + 1]
        seen[every, now] += 1
        row = transitions[every, now]
        best.append((row + 1) / (row.sum(1, keepdims=True) + SYMBOLS))
        unigram.append((seen + 1) / (place + 1 + SYMBOLS))
        visits.append(row.sum(1))
        transitions[every, now, following] += 1
    return np.stack(best, 1), np.stack(unigram, 1), np.stack(visits, 1)


class InContext(Ability):
    """Recall by two layers and by one, and chains."""

    name: ClassVar[str] = "in-context"
    training: ClassVar[str] = "in-context"

    def vocabulary(self) -> list[str]:
        return [*words(THINGS, self.language), *words(COLOURS, self.language)]

    def arms(self) -> list[Arm]:
        one = {"model": {"init_args": {"config": {"num_hidden_layers": 1}}}}
        return [Arm(TWO, {}), Arm(ONE, one), Arm(CHAIN, {"steps": 1300})]

    def rows(self, arm: str, seed: int) -> Iterator[Block]:
        rng = np.random.default_rng((1, seed))
        if arm == CHAIN:
            yield Block(chains(rng, CHAINS), np.arange(LENGTH) > 0)
            return
        for different, count in ROWS.items():
            yield Block(labelled(rng, count, different, PAIRS), np.arange(2 * PAIRS) % 2 == 1)

    def questions(self, arm: str) -> list[Question]:
        if arm == CHAIN:
            symbols = chains(np.random.default_rng((TEST, 1)), self.items)
            return [Question(CHAIN, symbols[:, :1], symbols[:, 1:])]
        rng = np.random.default_rng((TEST, 0))
        things = rng.permuted(np.tile(np.arange(THING_WORDS), (self.items, 1)), axis=1)[:, : max(SHOTS)]
        labels = rng.integers(0, LABELS, things.shape) + THING_WORDS
        # the thing that is asked about is the first; its example may be anywhere in the context
        place, every = rng.random(self.items), np.arange(self.items)
        questions = []
        for shots in SHOTS:
            order = np.tile(np.arange(shots), (self.items, 1))
            if shots:
                at = (place * shots).astype(int)
                order[every, 0], order[every, at] = at, 0
            examples = [np.take_along_axis(kind, order, 1) for kind in (things, labels)]
            context = np.stack(examples, 2).reshape(self.items, 2 * shots)
            questions.append(
                Question(f"{shots} examples", np.concatenate([context, things[:, :1]], 1), labels[:, :1])
            )
        return questions

    def ask(self, model: Model, arm: str) -> list[Answers]:
        return [predicted(model, *self.questions(arm))] if arm == CHAIN else super().ask(model, arm)

    def finding(self, runs: Runs) -> Finding:
        bars = []
        for arm, threshold, at_least in ((TWO, 0.95, True), (ONE, 0.45, False)):
            for shots in (shots for shots in SHOTS if shots >= 4):
                name = f"{shots} examples"
                estimate = rate(pooled(runs, arm, name))
                bars.append(Bar(f"{arm}, {name}", by_seed(runs, arm, name), estimate, threshold, at_least))
        kl = columns(runs, "kl")
        bars.append(
            Bar("KL to the best predictor", [k.mean() for k in kl], mean(np.concatenate(kl)), 0.02, False)
        )
        results: dict[str, Any] = {
            f"{arm}, {shots} examples": rate(pooled(runs, arm, f"{shots} examples"))
            for arm in (TWO, ONE)
            for shots in SHOTS
        }
        results |= {name: mean(np.concatenate(columns(runs, name))) for name in COLUMNS}
        first, second = (pooled(runs, TWO, f"{shots} examples") for shots in (4, 0))
        return Finding(Headline("4 examples", "no example", mcnemar(first, second)), bars, results)


COLUMNS = ("kl", "kl_unigram", "kl_early", "kl_late")


def columns(runs: Runs, name: str) -> list[np.ndarray]:
    """A column of the chains' answers, an array a seed."""
    return [answers[CHAIN].columns[name] for (arm, _), answers in runs.items() if arm == CHAIN]


def predicted(model: Model, question: Question) -> Answers:
    """How far a model's predictions are from the best, in nats a symbol: over whole chains, where the symbol
    before is new or was seen once, and where it was seen eight times or more; and the same of a predictor
    that only counts symbols."""
    symbols = np.concatenate([question.prompts, question.expected], 1)
    best, unigram, visits = best_predictions(symbols)
    model_log = model.logits(symbols)[:, :-1].log_softmax(-1).numpy()[..., :SYMBOLS]
    divergence = (best * (np.log(best) - model_log)).sum(2)
    early, late = visits < 2, visits >= 8
    right = model_log.argmax(2) == question.expected
    values = {
        "kl": divergence.mean(1),
        "kl_unigram": (best * np.log(best / unigram)).sum(2).mean(1),
        "kl_early": (divergence * early).sum(1) / early.sum(1),
        "kl_late": (divergence * late).sum(1) / np.maximum(1, late.sum(1)),
    }
    answers = model_log.argmax(2)
    return Answers(CHAIN, right.mean(1) > 0.5, answers, question.expected, question.prompts, values)
