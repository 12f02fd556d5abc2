"""Seeded sums and stories with one number as the answer, asked directly and with steps."""

import random
from collections.abc import Mapping

from experiments.evaluation.metrics import last_number
from experiments.evaluation.task import Answer, Question, Row, Scores, Task, Transformer
from experiments.evaluation.transformers import STEPS, Phrase

ITEMS, SHOWN = 200, 8
DIRECT = {"en": "Answer with the number alone.", "zh": "只回答数字。"}
NAMES = {"en": ("Anna", "Ben", "Carla", "Omar", "Maria"), "zh": ("小明", "小红", "小刚", "小丽", "小华")}
THINGS = {
    "en": ("apples", "books", "coins", "pencils", "cards"),
    "zh": ("个苹果", "本书", "枚硬币", "支铅笔", "张卡片"),
}


class Maths(Task):
    """One to three operations; half of the questions in Chinese, half told as a story. The last number of a
    reply is its answer."""

    name = "maths"

    def rows(self) -> list[Row]:
        return _problems("items", ITEMS)

    def examples(self) -> list[Row]:
        asked = {row["text"] for row in self.rows()}
        return [row for row in _problems("examples", 2 * SHOWN) if row["text"] not in asked]

    def prompt(self, row: Row) -> Question:
        return Question(row["text"], language=row["language"], max_new_tokens=24)

    def answer(self, row: Row) -> str:
        return str(row["answer"])

    def score(self, row: Row, answer: Answer) -> Scores:
        return {"right": last_number(answer.reply.text) == row["answer"]}

    def variants(self) -> Mapping[str, tuple[Transformer, ...]]:
        """Each phrase is put to all questions, whatever their language."""
        phrases = {f"steps-{name}": ({"en": phrase}, True) for name, phrase in STEPS.items()}
        return {"direct": (Phrase(DIRECT),)} | {name: (Phrase(*how),) for name, how in phrases.items()}


def _problems(seed: str, count: int) -> list[Row]:
    rng = random.Random(f"maths {seed}")
    rows: dict[str, Row] = {}
    while len(rows) < count:
        language = ("en", "zh")[len(rows) % 2]
        make = _story if len(rows) % 4 >= 2 else _sum
        text, answer = make(language, rng)
        rows[text] = {"text": text, "answer": answer, "language": language}
    return list(rows.values())


def _sum(language: str, rng: random.Random) -> tuple[str, int]:
    a, b, c = rng.randint(2, 60), rng.randint(2, 60), rng.randint(2, 12)
    expression, answer = rng.choice(
        (
            (f"{a} + {b}", a + b),
            (f"{a + b} - {b}", a),
            (f"{a} + {b} - {c}", a + b - c),
            (f"{a % 12 + 2} * {c}", (a % 12 + 2) * c),
            (f"{a % 12 + 2} * {c} + {b}", (a % 12 + 2) * c + b),
        )
    )
    return (f"{expression} 等于多少？" if language == "zh" else f"What is {expression}?"), answer


def _story(language: str, rng: random.Random) -> tuple[str, int]:
    name, thing = rng.choice(NAMES[language]), rng.choice(THINGS[language])
    have, bags, each = rng.randint(3, 30), rng.randint(2, 6), rng.randint(2, 9)
    gone = rng.randint(1, have)
    answer = have + bags * each - gone
    if language == "zh":
        unit = thing[0]
        return (
            f"{name}有{have}{thing}，又买了{bags}盒，每盒{each}{unit}，然后送出{gone}{unit}。现在有多少{thing}？",
            answer,
        )
    return (
        f"{name} has {have} {thing}, buys {bags} boxes of {each} and gives away {gone}. "
        f"How many {thing} are there now?"
    ), answer
