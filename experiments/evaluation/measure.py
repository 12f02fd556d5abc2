"""A model on one task in one way: its items are asked, answered, scored and summed up."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from experiments.evaluation.engine import Model, NoRoom, Tick, nobody
from experiments.evaluation.registry import Asked
from experiments.evaluation.task import Answer, Question, Row, Scores, Task, Transformer
from experiments.evaluation.transformers import FewShot
from experiments.statistics import Estimate, mean, rate

STEPS_END = {"en": "\nSo the answer is", "zh": "\n所以答案是"}  # before choices, after the steps


class Unit(NamedTuple):
    """A task asked in one way: what is measured at a time, and never again."""

    task: Task
    variant: str
    transformers: tuple[Transformer, ...]
    shots: int
    limit: int | None

    @property
    def label(self) -> str:
        """As tables and files name it, such as `maths/direct, 4-shot`."""
        name = f"{self.task.name}/{self.variant}" if self.variant else self.task.name
        return f"{name}, {self.shots}-shot" if self.shots else name

    def rows(self) -> list[Row]:
        """The items."""
        return list(islice(self.task.rows(), self.limit))

    def questions(self, rows: Sequence[Row]) -> list[Question]:
        """What is asked about each."""
        transformers = [*self.transformers, *([FewShot(self.shots)] if self.shots else [])]
        questions = []
        for row in rows:
            question = self.task.prompt(row)
            for transformer in transformers:
                question = transformer(question, row, self.task)
            questions.append(question)
        return questions


class Identity(NamedTuple):
    """What was measured on, by content."""

    items: str
    """sha256 of the items, and of how they are asked and scored"""
    rows: str
    """sha256 of the items alone"""


class Measured(NamedTuple):
    """What was measured."""

    metrics: dict[str, Estimate]
    items: list[dict[str, Any]]
    """of each item: `item`, `question`, `expected`, `reply` or `likelihoods`, `scores`"""
    seconds: float


def units(tasks: Sequence[Asked], shots: Sequence[int] | None, limit: int | None) -> list[Unit]:
    """All that is to be measured of a model. `shots` None: each task's own; a task without examples is asked
    without."""
    wanted = []
    for task, variants in tasks:
        counts = (0,) if not task.examples() else task.shots if shots is None else tuple(shots)
        for variant, transformers in variants.items():
            wanted += [Unit(task, variant, transformers, count, limit) for count in counts]
    return wanted


def identity(unit: Unit) -> Identity:
    """What is asked, and about what."""
    rows = unit.rows()
    asked = [[question.laid_out(), *question[1:]] for question in unit.questions(rows)]
    answers = [unit.task.answer(row) for row in rows]
    return Identity(_sha256([rows, answers, asked, unit.task.scoring()]), _sha256(rows))


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, default=str).encode()).hexdigest()


def check_room(model: Model, unit: Unit) -> None:
    """Refuses a task that a model has no positions for, before anything is computed.

    Raises:
        NoRoom: with the task's name.
    """
    try:
        for question in unit.questions(unit.rows()):
            written = question.max_new_tokens if question.thinks or not _likely(question) else 0
            texts = [(question.laid_out(), choice) for choice in question.choices or ("",)]
            instruction = question.instruction and not question.spans
            tokens = [sum(map(len, model.request_ids(each, instruction))) for each in question.spans or texts]
            model.check_room(max(tokens), written)
    except NoRoom as error:
        raise NoRoom(f"--tasks: {unit.label}: {error}") from error


def measure(model: Model, unit: Unit, tick: Tick = nobody) -> Measured:
    """Asks a model all items of a task in one way.

    Args:
        model: the model.
        unit: the task, and the way.
        tick: told of items as they are answered.
    """
    began = time.perf_counter()
    rows = unit.rows()
    questions = unit.questions(rows)
    answers = list(_answers(model, questions, tick))
    items, scores = [], []
    for number, (row, question, answer) in enumerate(zip(rows, questions, answers, strict=True)):
        scores.append(unit.task.score(row, answer))
        kept: dict[str, Any] = {"item": number, "question": question.laid_out()}
        kept |= {"expected": unit.task.answer(row)}
        if question.thinks or not _likely(question):
            kept |= {"reply": answer.reply.text, "ended": answer.reply.ended}
        if _likely(question):
            kept |= {"choices": question.choices, "likelihoods": answer.likelihoods}
        items.append({**kept, "scores": scores[-1]})
    return Measured(summary(unit.task.metrics, scores), items, round(time.perf_counter() - began, 2))


def summary(names: Sequence[str], scores: Sequence[Scores]) -> dict[str, Estimate]:
    """Each metric over the items that count for it: a rate with Wilson's interval where items are right or
    wrong, else a mean. A metric that no item counts for is left out."""
    estimates = {}
    for name in names:
        values = [value for score in scores if (value := score[name]) is not None]
        if values:
            flags = all(isinstance(value, bool) for value in values)
            estimates[name] = rate([bool(value) for value in values]) if flags else mean(values)
    return estimates


def _likely(question: Question) -> bool:
    """Whether it asks how likely texts are."""
    return bool(question.choices or question.spans)


def _answers(model: Model, questions: Sequence[Question], tick: Tick) -> Iterator[Answer]:
    """The answers in order; questions with the same limits are asked together."""
    thinks = any(question.thinks for question in questions)
    replies = dict(_replies(model, questions, nobody if thinks and _likely(questions[0]) else tick))
    likelihoods = dict(_likelihoods(model, questions, {i: reply.text for i, reply in replies.items()}, tick))
    for number, question in enumerate(questions):
        answer = Answer(passages=question.passages, thinks=question.thinks)
        answer = answer._replace(likelihoods=likelihoods.get(number, ()))
        yield answer._replace(reply=replies[number]) if number in replies else answer


def _replies(model: Model, questions: Sequence[Question], tick: Tick) -> Iterator[tuple[int, Any]]:
    written = [i for i, question in enumerate(questions) if question.thinks or not _likely(question)]
    for length in sorted({questions[i].max_new_tokens for i in written}):
        numbers = [i for i in written if questions[i].max_new_tokens == length]
        # plain text with examples goes on with the next example
        stops = ("\n\n",) if not model.tokenizer.chat_template and questions[numbers[0]].examples else ()
        texts = [questions[i].laid_out() for i in numbers]
        yield from zip(numbers, model.replies(texts, length, stops, tick), strict=True)


def _likelihoods(
    model: Model, questions: Sequence[Question], thoughts: dict[int, str], tick: Tick
) -> Iterator[tuple[int, Any]]:
    """Of the choices of each question, after the steps that the model has written where it was asked for
    them; or of its spans."""
    for instruction in (True, False):
        numbers = [
            i
            for i, q in enumerate(questions)
            if _likely(q) and (q.instruction and not q.spans) == instruction
        ]
        requests: list[tuple[str, str]] = []
        for i in numbers:
            question, text = questions[i], questions[i].laid_out()
            if i in thoughts:
                text += f"\n{thoughts[i]}{STEPS_END.get(question.language, STEPS_END['en'])}"
            requests += question.spans or [(text, choice) for choice in question.choices]
        parts = [len(questions[i].spans or questions[i].choices) for i in numbers]
        per_item = max(parts, default=1)
        given = iter(model.loglikelihoods(requests, instruction, _shared(tick, per_item)))
        for i, count in zip(numbers, parts, strict=True):
            yield i, tuple(islice(given, count))


def _shared(tick: Tick, requests: int) -> Callable[[int], Any]:
    """Tells of an item once so many requests are answered."""
    answered = 0

    def told(count: int) -> None:
        nonlocal answered
        before, answered = answered // requests, answered + count
        tick(answered // requests - before)

    return told
