"""Classification: is a review positive or negative? In English and Chinese."""

import json
import random
from functools import cached_property
from pathlib import Path

from experiments.evaluation.task import Answer, Question, Row, Scores, Task

HELD_OUT = Path("runs/quickstart/data/instructions/val.jsonl")
LABELS = {"en": ("Positive", "Negative"), "zh": ("好评", "差评")}
ASKED = {
    "en": "Is this movie review positive or negative? Answer with one word.",
    "zh": "这条评论是好评还是差评？",
}
SHOWN = 8  # rows of a language that are examples
ITEMS = 200
SUBJECTS = {
    "en": ("The plot", "The acting", "The music", "The ending", "The camera work", "The dialogue"),
    "zh": ("剧情", "演技", "音乐", "结局", "画面", "对白"),
}
PRAISE = {
    "en": ("wonderful", "moving", "clever", "a joy", "brilliant", "full of life"),
    "zh": ("非常好", "很感人", "很精彩", "令人愉快", "非常出色", "充满活力"),
}
BLAME = {
    "en": ("boring", "a mess", "terrible", "far too long", "lifeless", "a waste of time"),
    "zh": ("很无聊", "一团糟", "很糟糕", "太长了", "毫无生气", "浪费时间"),
}


class Sentiment(Task):
    """Reviews that people rated, of the quickstart's held-out rows; where they are not there, seeded
    sentences. The likelier of two words is the model's answer."""

    name = "sentiment"
    shots = (0, 4)

    def note(self) -> str:
        return (
            "" if HELD_OUT.is_file() else f"{HELD_OUT} is not here: seeded sentences in place of its reviews"
        )

    @cached_property
    def split(self) -> tuple[list[Row], list[Row]]:
        """Examples, whose labels alternate, and items, whose languages do."""
        parts = []
        for language in LABELS:
            rows = _held_out(language) if HELD_OUT.is_file() else _seeded(language)
            kinds = [[row for row in rows if row["label"] == label] for label in LABELS[language]]
            shown = [row for pair in zip(*kinds, strict=False) for row in pair][:SHOWN]
            parts.append((shown, [row for row in rows if row not in shown]))
        examples = [row for shown, _ in parts for row in shown]
        return examples, [row for pair in zip(*(rest for _, rest in parts), strict=False) for row in pair]

    def rows(self) -> list[Row]:
        return self.split[1]

    def examples(self) -> list[Row]:
        return self.split[0]

    def prompt(self, row: Row) -> Question:
        language = row["language"]
        text = f"{ASKED[language]}\n{row['text']}"
        return Question(text, choices=LABELS[language], language=language, max_new_tokens=4)

    def answer(self, row: Row) -> str:
        return row["label"]

    def score(self, row: Row, answer: Answer) -> Scores:
        return {"right": LABELS[row["language"]][answer.choice()] == row["label"]}


def _held_out(language: str) -> list[Row]:
    with HELD_OUT.open(encoding="utf-8") as lines:  # `splitlines` would cut within a string, at U+2028
        rows = [json.loads(line) for line in lines]
    wanted = [row for row in rows if row["task"] == "sentiment" and row["language"] == language]
    return [{"text": row["input"], "label": row["output"], "language": language} for row in wanted]


def _seeded(language: str) -> list[Row]:
    rng = random.Random(f"sentiment {language}")
    rows: dict[str, Row] = {}
    while len(rows) < ITEMS:
        good = rng.random() < 0.5
        first, second = rng.sample(SUBJECTS[language], 2)
        one, other = rng.sample((PRAISE if good else BLAME)[language], 2)
        text = f"{first}{one}，{second}{other}。"
        if language == "en":
            text = f"{first} is {one}, and {second.lower()} is {other}."
        rows[text] = {"text": text, "label": LABELS[language][0 if good else 1], "language": language}
    return list(rows.values())
