"""The world of the two experiments on hallucination: people with a city, a job, a year and a food.

Some people are known to the weights, from questions without a passage; others occur in passages only; a third
part is never seen in training. A question is put freely, or in wordings that ask to answer from the passages
alone. The people with four attributes are those of Houliston et al. 2025 (2508.20755).
"""

from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from experiments.abilities.ability import TEST, Ability, Arm, Block, Question
from experiments.abilities.lexicon import (
    ATTRIBUTES,
    FIRST,
    LAST,
    MODES,
    PASSAGES,
    UNKNOWN,
    attribute_values,
    words,
)

NAMES, VALUES, KNOWN, UNSEEN = 64, 50, 500, 1000
PEOPLE, KINDS = NAMES * NAMES, 4
LAST_NAME, ATTRIBUTE, VALUE = NAMES, 2 * NAMES, 2 * NAMES + KINDS  # the first number of each kind of word
MODE = VALUE + KINDS * VALUES
SOURCE = MODE + 4
EQUALS, STOP, UNKNOWN_WORD = SOURCE + 3, SOURCE + 4, SOURCE + 5
WORDINGS = {
    "free": ((0, 0), (0, 1), (0, 2)),
    "restricted": ((1, 0), (2, 1), (3, 2), (1, 2)),
    "held-out": ((2, 0), (3, 1)),
}
"""which of `MODES` and `PASSAGES` a question begins with; of those held out only the words are trained on"""
PASSAGE, QUESTION = 2 + 2 * KINDS + 1, 7
"""tokens of a person's passage, and of a question with its answer"""
Group = Literal["known", "unseen"]
Context = Literal["none", "gold", "wrong", "counterfactual"]


class World:
    """Who lives in it, and what is true of them; the same for every model."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        people = rng.permutation(PEOPLE)
        self.facts = rng.integers(0, VALUES, (PEOPLE, KINDS))
        self.known, self.unseen = people[:KNOWN], people[KNOWN : KNOWN + UNSEEN]
        self.read = people[KNOWN + UNSEEN :]  # occur in passages only
        self.is_unseen = np.isin(np.arange(PEOPLE), self.unseen)

    def value(self, people: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """The word that answers a question."""
        return value_word(kinds, self.facts[people, kinds])


def value_word(kinds: np.ndarray, values: np.ndarray) -> np.ndarray:
    return VALUE + kinds * VALUES + values


def passages(people: np.ndarray, facts: np.ndarray) -> np.ndarray:
    """(B, k) people and (B, k, 4) facts → (B, 11k) words: name, attributes with values, full stop."""
    count, several = people.shape
    text = np.empty((count, several, PASSAGE), dtype=np.int64)
    text[..., 0], text[..., 1] = people // NAMES, LAST_NAME + people % NAMES
    for kind in range(KINDS):
        text[..., 2 + 2 * kind] = ATTRIBUTE + kind
        text[..., 3 + 2 * kind] = value_word(np.asarray(kind), facts[..., kind])
    text[..., -1] = STOP
    return text.reshape(count, several * PASSAGE)


def asked(wordings: np.ndarray, people: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """(B, 2) wordings, (B,) people and (B,) attributes → (B, 6) words: how, who, what, `=`."""
    equals = np.full(len(people), EQUALS)
    name = people // NAMES, LAST_NAME + people % NAMES
    return np.stack([*wordings.T, *name, ATTRIBUTE + kinds, equals], 1)


def worded(rng: np.random.Generator, restricted: np.ndarray) -> np.ndarray:
    """(B,) bool → (B, 2) words of how a question is put in training."""
    drawn = [rng.choice(WORDINGS[mode], len(restricted)) for mode in ("restricted", "free")]
    return np.where(restricted[:, None], *drawn) + (MODE, SOURCE)


def different(rng: np.random.Generator, pool: np.ndarray, count: int, several: int) -> np.ndarray:
    """(count, several) people of a pool, no one twice in a row."""
    people = rng.choice(pool, (count, several))
    while True:
        ordered = np.sort(people, 1)
        twice = (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if not twice.any():
            return people
        people[twice] = rng.choice(pool, (int(twice.sum()), several))


class Knowledge(Ability):
    """What the two experiments share: the world, the model, its training rows and its questions."""

    training: ClassVar[str] = "knowledge"

    @cached_property
    def world(self) -> World:
        return World()

    def vocabulary(self) -> list[str]:
        language = self.language
        values = [value for of_kind in attribute_values(language) for value in of_kind]
        names = [*words(FIRST, language), *words(LAST, language), *ATTRIBUTES[language]]
        how = [*words(MODES, language), *words(PASSAGES, language)]
        return [*names, *values, *how, "=", "." if language == "en" else "。", UNKNOWN[language]]

    def arms(self) -> list[Arm]:
        return [Arm("reader", {})]

    def rows(self, arm: str, seed: int) -> Iterator[Block]:
        rng = np.random.default_rng((1, seed))
        for several, count in READING.items():
            yield self._reading(rng, count, several)
        yield self._closed_book(rng, CLOSED_BOOK)

    def _reading(self, rng: np.random.Generator, count: int, several: int) -> Block:
        """Passages of several people, then ten questions about them and about others."""
        world = self.world
        of_known = rng.random((count, 1)) < 0.3
        inside = np.where(
            of_known, different(rng, world.known, count, several), different(rng, world.read, count, several)
        )
        parts = [passages(inside, world.facts[inside])]
        for _ in range(ASKED):
            people, is_inside = self._somebody(rng, inside)
            kinds, restricted = rng.integers(0, KINDS, count), rng.random(count) < 0.5
            refused = restricted & ~is_inside
            parts += [
                asked(worded(rng, restricted), people, kinds),
                np.where(refused, UNKNOWN_WORD, world.value(people, kinds))[:, None],
            ]
        return Block(np.concatenate(parts, 1), _answered(PASSAGE * several, ASKED))

    def _somebody(self, rng: np.random.Generator, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A person for each row to ask about, 60 % of them of its passages; of the others, half share a name
        with somebody in them, so that a name alone tells nothing."""
        world, (count, several) = self.world, inside.shape
        of_inside = inside[np.arange(count), rng.integers(0, several, count)]
        outside = np.where(
            rng.random(count) < 0.3, rng.choice(world.known, count), rng.choice(world.read, count)
        )
        same_first = rng.random(count) < 0.5
        alike = np.where(
            same_first,
            of_inside // NAMES * NAMES + outside % NAMES,
            outside // NAMES * NAMES + of_inside % NAMES,
        )
        fits = ~(alike[:, None] == inside).any(1) & ~world.is_unseen[alike] & (rng.random(count) < 0.5)
        outside = np.where(fits, alike, outside)
        is_inside = (rng.random(count) < 0.6) | (outside[:, None] == inside).any(1)
        return np.where(is_inside, of_inside, outside), is_inside

    def _closed_book(self, rng: np.random.Generator, count: int) -> Block:
        """Questions about known people without any passage."""
        parts = []
        for _ in range(ASKED):
            people, kinds = rng.choice(self.world.known, count), rng.integers(0, KINDS, count)
            restricted = rng.random(count) < 0.15
            answers = np.where(restricted, UNKNOWN_WORD, self.world.value(people, kinds))
            parts += [asked(worded(rng, restricted), people, kinds), answers[:, None]]
        return Block(np.concatenate(parts, 1), _answered(0, ASKED))

    def asked_about(self, group: Group) -> tuple[np.ndarray, np.ndarray]:
        """Whom and what a group's questions ask about: (items,) people and (items,) attributes."""
        rng = np.random.default_rng((TEST, ("known", "unseen").index(group)))
        return rng.choice(getattr(self.world, group), self.items), rng.integers(0, KINDS, self.items)

    def question(self, group: Group, context: Context, mode: str, several: int = 3) -> Question:
        """A condition: whom is asked about, what the passages hold, in which words it is asked. The questions
        of a group are the same in all its conditions.

        Args:
            mode: `free`, `restricted`, or `held-out` for wordings of the restriction never trained on.
        """
        world = self.world
        people, kinds = self.asked_about(group)
        wordings = np.resize(WORDINGS[mode], (self.items, 2)) + (MODE, SOURCE)
        rng = np.random.default_rng((TEST, 2, several))
        pool = world.unseen if group == "unseen" else world.read
        around = different(rng, pool, self.items, several + 1)
        for row, person in zip(around, people, strict=True):  # the person asked about is not among the others
            row[:several] = row[row != person][:several]
        around = around[:, :several]
        place, moved = rng.integers(0, several, self.items), rng.integers(1, VALUES, (self.items, KINDS))
        every, expected = np.arange(self.items), world.value(people, kinds)
        facts = world.facts[around].copy()
        if context in ("gold", "counterfactual"):
            around[every, place] = people
            facts[every, place] = world.facts[people]
        if context == "counterfactual":
            facts[every, place] = (facts[every, place] + moved) % VALUES
            expected = value_word(kinds, facts[every, place, kinds])
        given = np.zeros((self.items, 0), dtype=np.int64) if context == "none" else passages(around, facts)
        if mode != "free" and context in ("none", "wrong"):
            expected = np.full(self.items, UNKNOWN_WORD)
        prompts = np.concatenate([given, asked(wordings, people, kinds)], 1)
        return Question(f"{group}, {context}, {mode}", prompts, expected[:, None])


ASKED = 10
"""questions of a training row"""
READING = {1: 30_000, 2: 15_000, 3: 25_000, 4: 10_000, 5: 10_000}
"""passages of a row → training rows"""
CLOSED_BOOK = 40_000


def _answered(start: int, questions: int) -> np.ndarray:
    """(T,) bool: the answers of so many questions after `start` given tokens."""
    answers = np.zeros(start + questions * QUESTION, dtype=bool)
    answers[start + QUESTION - 1 :: QUESTION] = True
    return answers
