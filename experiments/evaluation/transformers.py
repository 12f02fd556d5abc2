"""What can be done to a question of any task: examples before it, steps, passages, a restriction to them."""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

from experiments.cli.user_errors import UserError
from experiments.evaluation.task import Question, Row, Task, Transformer

STEPS = {"en": "Let's think step by step.", "zh": "先分析，再给答案。"}
"""Kojima et al. 2022 (2205.11916), and the Chinese phrase of the tutorial that is followed here"""
THINKING = 96  # tokens of a reply with steps, at most
PASSAGES = 3  # shown with a question


class FewShot(Transformer):
    """Shows the task's first examples in the question's language."""

    def __init__(self, count: int):
        self.count = count

    def __call__(self, question: Question, row: Row, task: Task) -> Question:
        shown = [pair for language, *pair in _examples(task) if language == question.language]
        if len(shown) < self.count:
            raise UserError(
                f"--shots is {self.count}, but {task.name} has {len(shown)} examples"
                f"{' in ' + question.language if shown else ''}: give {len(shown)} or fewer"
            )
        return question._replace(examples=tuple((text, answer) for text, answer in shown[: self.count]))


@lru_cache(maxsize=16)
def _examples(task: Task) -> list[tuple[str, str, str]]:
    """Language, question and answer of a task's examples; some tasks draw theirs anew at every call."""
    asked = [(row, task.prompt(row)) for row in task.examples()]
    return [(question.language, question.text, task.answer(row)) for row, question in asked]


class Phrase(Transformer):
    """Says how to answer, in the question's language.

    Args:
        words: by language.
        thinks: whether they ask for steps.
    """

    def __init__(self, words: dict[str, str], thinks: bool = False):
        self.words, self.thinks = words, thinks

    def __call__(self, question: Question, row: Row, task: Task) -> Question:
        phrase = self.words.get(question.language, self.words["en"])
        tokens = max(THINKING, question.max_new_tokens) if self.thinks else question.max_new_tokens
        return question._replace(phrase=phrase, thinks=self.thinks, max_new_tokens=tokens)


class Given(Transformer):
    """Shows the passages that a row has itself."""

    def __call__(self, question: Question, row: Row, task: Task) -> Question:
        return question._replace(passages=tuple(row["passages"]))


class Retrieved(Transformer):
    """Shows the passages that BM25 finds for the question.

    Args:
        passages: gives all there are, as texts or as `retrieval.passages.Passage`; called at the first use.
        count: shown with a question.
    """

    def __init__(self, passages: Callable[[], Sequence[Any]], count: int = PASSAGES):
        self.passages, self.count = passages, count

    def __call__(self, question: Question, row: Row, task: Task) -> Question:
        (hits,) = self.index.search([question.text], self.count)
        return question._replace(passages=tuple(hit.passage.text for hit in hits))

    @cached_property
    def index(self) -> Any:
        from experiments.retrieval.index import BM25
        from experiments.retrieval.passages import Passage

        given = self.passages()
        return BM25([each if isinstance(each, Passage) else Passage(each, "") for each in given])


class Restricted(Transformer):
    """Allows the passages alone as a source, by one of the known wordings."""

    def __init__(self, wording: int = 0):
        self.wording = wording

    def __call__(self, question: Question, row: Row, task: Task) -> Question:
        from experiments.retrieval.prompts import RESTRICTIONS

        wordings = RESTRICTIONS["zh" if question.language == "zh" else "en"]
        return question._replace(restriction=wordings[self.wording].wording)


def named_transformer(name: str, documents: Sequence[str]) -> Transformer:
    """What `--tasks TASK+NAME` does to a task's questions.

    Raises:
        UserError: there is no such name, or retrieval has no documents.
    """
    if name == "steps":
        return Phrase(STEPS, thinks=True)
    if name == "restricted":
        return Restricted()
    if name == "retrieval":
        if not documents:
            raise UserError("--tasks: `+retrieval` has nothing to look in: give --documents PATH…")
        return Retrieved(lambda: _documents(documents))
    raise UserError(f"--tasks: there is no `+{name}`: give +steps, +retrieval or +restricted")


def _documents(paths: Sequence[str]) -> Sequence[Any]:
    from experiments.retrieval.passages import read_passages

    return read_passages(paths)
