"""Chain of thought: what cannot be answered at once can be answered in steps.

A program of n numbered operations mod 11, its lines shuffled, is asked for its result: at once, after its
steps, or after as many dots. The idea of such tests: Feng et al. 2023 (2305.15408), Nye et al. 2021
(2112.00114); of dots: Pfau et al. 2024 (2404.15758).
"""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

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

MODULUS, OPERAND, LENGTHS = 11, 5, (2, 4, 6, 8)
LONGEST = max(LENGTHS)
OPERATIONS = [f"{sign}{number}" for sign in "+-*" for number in range(1, OPERAND + 1)]
LABEL, OPERATION = MODULUS, MODULUS + LONGEST  # the first number of each kind of word
ASK, AT_ONCE, IN_STEPS, DOTTED, DOT = range(OPERATION + len(OPERATIONS), OPERATION + len(OPERATIONS) + 5)
ROWS = 64_000
"""training rows of each format"""
DIRECT_STEPS = 3600
"""of the arm trained on direct answers alone: its rows are 14 tokens, those of the others 25, on average"""


class Program(NamedTuple):
    """Programs of one length n."""

    lines: np.ndarray
    """(B, 2n) words: label and value or operation of each line, shuffled"""
    values: np.ndarray
    """(B, n): the result after each line, in order"""
    steps: np.ndarray
    """(B, 3n) words: label, value or operation, result of each line, in order"""
    operations: np.ndarray
    """(B, n): which of `OPERATIONS`; of the first line nothing"""


def programs(rng: np.random.Generator, count: int, length: int) -> Program:
    """Random programs of `length` lines, of which the first gives a value."""
    operations = rng.integers(0, len(OPERATIONS), (count, length))
    values = np.empty((count, length), dtype=np.int64)
    values[:, 0] = rng.integers(0, MODULUS, count)
    for line in range(1, length):
        values[:, line] = applied(operations[:, line], values[:, line - 1])
    payload = operations + OPERATION
    payload[:, 0] = values[:, 0]
    labels = np.broadcast_to(np.arange(length) + LABEL, payload.shape)
    order = rng.permuted(np.tile(np.arange(length), (count, 1)), axis=1)[:, :, None]
    lines = np.take_along_axis(np.stack([labels, payload], 2), order, 1).reshape(count, -1)
    steps = np.stack([labels, payload, values], 2).reshape(count, -1)
    return Program(lines, values, steps, operations)


def applied(operations: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The results of operations on values, mod 11."""
    kind, operand = operations // OPERAND, operations % OPERAND + 1
    return np.choose(kind, [values + operand, values - operand, values * operand]) % MODULUS


def asked(program: Program, how: int) -> np.ndarray:
    """A program's lines, the label that is asked for, and how."""
    count, length = program.values.shape
    end = np.broadcast_to([ASK, LABEL + length - 1, how], (count, 3))
    return np.concatenate([program.lines, end], 1)


def block(program: Program, how: int) -> Block:
    """Training rows of a format: the answer at once, after the steps, or after dots that are given."""
    prompt, result = asked(program, how), program.values[:, -1:]
    count, length = program.values.shape
    equals = np.full((count, 1), AT_ONCE)
    between = {
        AT_ONCE: [],
        IN_STEPS: [program.steps, equals],
        DOTTED: [np.full((count, 3 * length), DOT), equals],
    }
    ids = np.concatenate([prompt, *between[how], result], 1)
    answers = np.zeros(ids.shape[1], dtype=bool)
    answers[prompt.shape[1] if how == IN_STEPS else -1 :] = True
    return Block(ids, answers)


class ChainOfThought(Ability):
    """Direct answers against answers in steps, with dots and a direct-only model as controls."""

    name: ClassVar[str] = "chain-of-thought"
    training: ClassVar[str] = "chain-of-thought"

    def vocabulary(self) -> list[str]:
        values = [str(value) for value in range(MODULUS)]
        return [*values, *"ABCDEFGH", *OPERATIONS, "?", "=", ":", "#", "."]

    def arms(self) -> list[Arm]:
        # a direct answer alone is shorter: as many more steps make the tokens, and so the FLOPs, the same
        return [Arm("both", {}), Arm("dots", {}), Arm("direct", {"steps": DIRECT_STEPS})]

    def rows(self, arm: str, seed: int) -> Iterator[Block]:
        rng = np.random.default_rng((1, seed))
        formats = {"both": (AT_ONCE, IN_STEPS), "dots": (AT_ONCE, DOTTED), "direct": (AT_ONCE, AT_ONCE)}[arm]
        for how in formats:
            for length, share in zip(LENGTHS, SHARES[how], strict=True):
                yield block(programs(rng, int(ROWS * share), length), how)

    def questions(self, arm: str) -> list[Question]:
        questions = []
        for length in LENGTHS:
            rng = np.random.default_rng((TEST, length))
            program = programs(rng, self.items, length)
            result = program.values[:, -1:]
            equals = np.full((self.items, 1), AT_ONCE)
            questions.append(Question(f"direct {length}", asked(program, AT_ONCE), result))
            if arm == "both":
                whole = np.concatenate([program.steps, equals, result], 1)
                questions.append(Question(f"steps {length}", asked(program, IN_STEPS), whole, 3 * length + 1))
                questions.append(corrupted(rng, program))
            if arm == "dots":
                dots = np.full((self.items, 3 * length), DOT)
                prompt = np.concatenate([asked(program, DOTTED), dots, equals], 1)
                questions.append(Question(f"dots {length}", prompt, result))
        return questions

    def finding(self, runs: Runs) -> Finding:
        n = LONGEST
        conditions = {f"steps {n}": ("both", 0.95, True), f"direct {n}": ("both", 0.20, False)}
        conditions[f"dots {n}"] = ("dots", 0.20, False)
        bars = [
            Bar(name, by_seed(runs, arm, name), rate(pooled(runs, arm, name)), bar, at_least)
            for name, (arm, bar, at_least) in conditions.items()
        ]
        only = f"direct {n}, no steps trained"
        direct = pooled(runs, "direct", f"direct {n}")
        bars.append(Bar(only, by_seed(runs, "direct", f"direct {n}"), rate(direct), 0.20, False))
        first, second = (pooled(runs, "both", f"{kind} {n}") for kind in ("steps", "direct"))
        results = {
            f"{arm}: {name}": rate(pooled(runs, arm, name))
            for arm, names in self._conditions(runs).items()
            for name in names
        }
        return Finding(Headline(f"steps {n}", f"direct {n}", mcnemar(first, second)), bars, results)

    @staticmethod
    def _conditions(runs: Runs) -> dict[str, list[str]]:
        return {arm: list(answers) for (arm, _), answers in runs.items()}


SHARES = {
    AT_ONCE: (0.25, 0.25, 0.25, 0.25),
    IN_STEPS: (0.15, 0.15, 0.15, 0.55),
    DOTTED: (0.25, 0.25, 0.25, 0.25),
}
"""of a format's rows, by `LENGTHS`: many steps in a row let the model find out sooner how to look lines up"""


def corrupted(rng: np.random.Generator, program: Program) -> Question:
    """The steps so far with a wrong result in the middle: right is what follows from the wrong one, where
    that is another answer."""
    count, length = program.values.shape
    middle = length // 2
    wrong = (program.values[:, middle - 1] + rng.integers(1, MODULUS, count)) % MODULUS
    follows = wrong
    by_line = program.steps.copy().reshape(count, length, 3)
    by_line[:, middle - 1, 2] = wrong
    for line in range(middle, length):
        follows = applied(program.operations[:, line], follows)
        by_line[:, line, 2] = follows
    steps = by_line.reshape(count, -1)
    given = 3 * middle
    equals = np.full((count, 1), AT_ONCE)
    prompt = np.concatenate([asked(program, IN_STEPS), steps[:, :given]], 1)
    expected = np.concatenate([steps[:, given:], equals, follows[:, None]], 1)
    differs = follows != program.values[:, -1]
    return Question(f"corrupted {length}", prompt[differs], expected[differs], 3 * length - given + 1)
