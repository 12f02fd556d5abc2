"""What an experiment consists of: arms that are trained, questions that are put to them, and what follows."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from experiments.abilities.lexicon import Language
from experiments.statistics import Estimate, Paired

ITEMS = 1000
"""test items of a condition"""
TEST = 71
"""seed of the test items: recipes were settled on others"""
END, PAD = "<end>", "<pad>"
"""words that no row has, but a tokenizer needs"""
CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "abilities"


class Arm(NamedTuple):
    """A model of an experiment: what it changes in the experiment's YAML, nested as there."""

    name: str
    config: Mapping[str, Any]
    more_seeds: bool = False
    """needs five seeds where others take three: it succeeds with some and fails with others"""


class Block(NamedTuple):
    """Training rows of one length and layout."""

    ids: np.ndarray
    """(rows, tokens) int: words by their number in the vocabulary"""
    answers: np.ndarray
    """(tokens,) bool: what is trained on"""


class Question(NamedTuple):
    """A condition of a test: items of one length."""

    condition: str
    prompts: np.ndarray
    """(items, P) int"""
    expected: np.ndarray
    """(items, A) int: the answers"""
    judged: int = 0
    """an item is right where its answer is, from this token on"""


class Answers(NamedTuple):
    """What a model answered to a question, item by item."""

    condition: str
    right: np.ndarray
    """(items,) bool"""
    answers: np.ndarray
    """(items, A) int"""
    expected: np.ndarray
    """(items, A) int"""
    prompts: np.ndarray
    """(items, P) int"""
    columns: Mapping[str, np.ndarray]
    """name → (items,) float: `nll`, nats a token of the expected answer; `entropy` of the first, in nats"""


class Model(Protocol):
    """A trained arm, as an experiment asks it."""

    def answer(self, question: Question) -> Answers: ...

    def logits(self, ids: np.ndarray) -> Any:
        """(items, T) words → (items, T, V) tensor."""


Runs = Mapping[tuple[str, int], Mapping[str, Answers]]
"""(arm, seed) → condition → answers"""


class Bar(NamedTuple):
    """A value that must be reached for the claim to count as shown."""

    name: str
    values: list[float]
    """one a seed"""
    estimate: Estimate
    """over all seeds"""
    threshold: float
    at_least: bool

    @property
    def met(self) -> bool:
        return (
            self.estimate.value >= self.threshold if self.at_least else self.estimate.value <= self.threshold
        )

    @property
    def excluded(self) -> bool:
        """Whether the interval lies on the wrong side of it altogether."""
        return self.estimate.high < self.threshold if self.at_least else self.estimate.low > self.threshold


class Headline(NamedTuple):
    """The headline comparison of an experiment: two arms or prompts on the same items."""

    first: str
    """the one that the claim says is better"""
    second: str
    paired: Paired


class Finding(NamedTuple):
    """What an experiment came to."""

    test: Headline
    bars: list[Bar]
    results: dict[str, Any]
    """figures by name: of `--json` and the report"""


class Ability(ABC):
    """An experiment of `trivium abilities`."""

    name: ClassVar[str]
    training: ClassVar[str]
    """name of the YAML, and of the folder of its runs: experiments may share a model"""

    def __init__(self, language: Language = "en", items: int = ITEMS):
        self.language: Language = language
        self.items = items

    @abstractmethod
    def vocabulary(self) -> list[str]:
        """The words, by number."""

    @abstractmethod
    def arms(self) -> list[Arm]:
        """The models, the most telling first."""

    @abstractmethod
    def rows(self, arm: str, seed: int) -> Iterator[Block]:
        """An arm's training rows; shuffled when they are trained on."""

    @abstractmethod
    def questions(self, arm: str) -> list[Question]:
        """The test of an arm, the same for every seed."""

    def ask(self, model: Model, arm: str) -> list[Answers]:
        """Puts the test of an arm to its model."""
        return [model.answer(question) for question in self.questions(arm)]

    @abstractmethod
    def finding(self, runs: Runs) -> Finding:
        """What the answers of all arms and seeds come to."""

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        """Words by their numbers, as a reader sees them."""
        words = [*self.vocabulary(), END, PAD]
        return " ".join(words[i] for i in ids)


def pooled(runs: Runs, arm: str, condition: str) -> np.ndarray:
    """Which items are right, of all seeds one after another."""
    return np.concatenate([answers[condition].right for (name, _), answers in runs.items() if name == arm])


def by_seed(runs: Runs, arm: str, condition: str) -> list[float]:
    """The share of right items, a value a seed."""
    return [float(answers[condition].right.mean()) for (name, _), answers in runs.items() if name == arm]
