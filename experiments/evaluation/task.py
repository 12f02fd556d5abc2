"""A task: rows, what a model is asked about one, and how its answer is scored; how a question is laid out as
text."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.evaluation.metrics import final

Row = dict[str, Any]
Scores = Mapping[str, float | bool | None]
"""metric → an item's value: right or wrong, a number, or None where the item does not count for it"""


class Likelihood(NamedTuple):
    """How likely a continuation is after its context."""

    logprob: float
    """nats, the sum over its tokens"""
    tokens: int
    greedy: bool
    """whether greedy decoding would have written it"""


class Reply(NamedTuple):
    """What a model wrote."""

    text: str
    ended: bool
    """by itself, within the limit"""


class Question(NamedTuple):
    """What a model is asked about a row. One of three kinds: to write a reply; to choose, where there are
    `choices`; or how likely texts are, where there are `spans`. Transformers fill in the other fields."""

    text: str = ""
    choices: tuple[str, ...] = ()
    """continuations, of which the likeliest is the model's"""
    spans: tuple[tuple[str, str], ...] = ()
    """(context, continuation) pairs"""
    instruction: bool = True
    """goes through the tokenizer's chat template, where it has one; else it is plain text"""
    language: str = "en"
    max_new_tokens: int = 32
    examples: tuple[tuple[str, str], ...] = ()
    """(question, answer) shown before"""
    phrase: str = ""
    """how to answer, after the question"""
    thinks: bool = False
    """whether the phrase asks for steps before the answer"""
    passages: tuple[str, ...] = ()
    restriction: str | None = None
    """the wording that allows the passages alone as a source"""

    def laid_out(self) -> str:
        """The whole text: examples, passages and restriction, the question, how to answer."""
        text = self.text
        if self.passages or self.restriction:
            from experiments.retrieval.prompts import with_passages

            text = with_passages(
                text, self.passages, self.restriction, "zh" if self.language == "zh" else "en"
            )
        if self.phrase:
            text = f"{text}\n{self.phrase}" if self.instruction else f"{self.phrase} {text}"
        shown = "".join(self.example(*pair) + "\n\n" for pair in self.examples)
        return shown + text

    def example(self, question: str, answer: str) -> str:
        """A question and its answer as they are shown before another question."""
        return f"{question}\n{answer}" if self.instruction else question + answer


class Answer(NamedTuple):
    """What a model gave to a question."""

    reply: Reply = Reply("", False)
    likelihoods: tuple[Likelihood, ...] = ()
    """of each choice, or each span"""
    passages: tuple[str, ...] = ()
    """that were shown"""
    thinks: bool = False
    """whether the reply has steps before the answer"""

    def text(self) -> str:
        """What the reply answers: all of it or, after steps, what it says last."""
        return final(self.reply.text) if self.thinks else self.reply.text

    def choice(self) -> int:
        """The likeliest of the choices."""
        return max(range(len(self.likelihoods)), key=lambda i: self.likelihoods[i].logprob)


class Task(ABC):
    """A task. Its items are the same at every call, and its first metric is the one that is compared.

    A subclass of your own is named by its class path: `trivium evaluate DIR --tasks my_file.MyTask`.
    """

    name: str
    metrics: tuple[str, ...] = ("right",)
    """names of the metrics that `score` gives; models are compared by the first"""
    shots: tuple[int, ...] = (0,)
    """examples shown, where `--shots` says nothing"""

    @abstractmethod
    def rows(self) -> list[Row]:
        """The items."""

    @abstractmethod
    def prompt(self, row: Row) -> Question:
        """What is asked about a row."""

    @abstractmethod
    def answer(self, row: Row) -> str:
        """The right answer, as an example shows it; empty where there is none."""

    @abstractmethod
    def score(self, row: Row, answer: Answer) -> Scores:
        """An item's value of every metric."""

    def scoring(self) -> str:
        """The same where the same answers get the same scores: the task's code."""
        try:
            return inspect.getsource(type(self))
        except (OSError, TypeError):  # written where no file is, as in a notebook
            return type(self).__qualname__

    def note(self) -> str:
        """What the reader of a result must know, such as data that was missing."""
        return ""

    def examples(self) -> list[Row]:
        """Rows to show before a question; none of them is an item."""
        return []

    def variants(self) -> Mapping[str, tuple["Transformer", ...]]:
        """The ways in which the same items are asked: name → what is done to each question."""
        return {"": ()}


class Transformer(ABC):
    """Changes how a question is asked, whatever the task."""

    @abstractmethod
    def __call__(self, question: Question, row: Row, task: Task) -> Question:
        """The changed question."""
