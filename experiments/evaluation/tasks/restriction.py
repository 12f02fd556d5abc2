"""Whether a model keeps to the passages when it is told to: the same questions freely and restricted."""

import random
from collections.abc import Mapping

from experiments.evaluation.metrics import contains
from experiments.evaluation.task import Answer, Question, Row, Scores, Task, Transformer
from experiments.evaluation.tasks.facts import people, question_about
from experiments.evaluation.transformers import PASSAGES, Given, Restricted

ITEMS = 200
SAID = (
    *("unknown", "not know", "n't know", "not mention", "not say", "not contain", "no information"),
    *("not given", "not stated", "not provided", "cannot be determined", "cannot answer", "not specified"),
    *("不知道", "未知", "没有提到", "没有答案", "没有说明", "未提及", "无法回答", "没有提供", "不清楚"),
)


def refuses(reply: str) -> bool:
    """Whether a reply says that it does not know, in either language."""
    text = reply.lower()
    return any(words in text for words in SAID)


class Restriction(Task):
    """Invented people; half of the questions have their passage among three, the other half three passages
    about others. A hallucination is any answer to a question that the passages do not answer; over-refusal is
    "unknown" to one that they do."""

    name = "restriction"
    metrics = ("right", "hallucination", "over_refusal")

    def rows(self) -> list[Row]:
        rng, everybody = random.Random("restriction"), people()
        rows: dict[tuple[str, bool], Row] = {}
        while len(rows) < ITEMS:
            language = ("en", "zh")[len(rows) // 2 % 2]
            answerable = len(rows) % 2 == 0
            alike = [person for person in everybody if person["language"] == language]
            person, *others = rng.sample(alike, PASSAGES + 1)
            text, answer = question_about(person, rng)
            shown = [each["passage"] for each in [person, *others][:PASSAGES]] if answerable else []
            shown = shown or [each["passage"] for each in others]
            row = {"text": text, "answer": answer, "answerable": answerable, "language": language}
            rows[text, answerable] = {**row, "passages": rng.sample(shown, PASSAGES)}
        return list(rows.values())

    def prompt(self, row: Row) -> Question:
        return Question(row["text"], language=row["language"], max_new_tokens=24)

    def answer(self, row: Row) -> str:
        return row["answer"] if row["answerable"] else {"en": "unknown", "zh": "不知道"}[row["language"]]

    def score(self, row: Row, answer: Answer) -> Scores:
        reply, refused = answer.reply.text, refuses(answer.reply.text)
        if not row["answerable"]:
            return {"right": refused, "hallucination": not refused, "over_refusal": None}
        right = contains(reply, row["answer"]) and not refused
        return {"right": right, "hallucination": None, "over_refusal": refused}

    def variants(self) -> Mapping[str, tuple[Transformer, ...]]:
        return {"free": (Given(),), "restricted": (Given(), Restricted())}
