"""Translation between English and Chinese, of short seeded sentences with one right translation."""

import itertools
import random
from functools import cached_property

from experiments.evaluation.metrics import chrf, same
from experiments.evaluation.task import Answer, Question, Row, Scores, Task

SUBJECTS = (("I", "我"), ("You", "你"), ("We", "我们"), ("They", "他们"))
TIMES = (
    ("every day", "每天"),
    ("every morning", "每天早上"),
    ("every evening", "每天晚上"),
    ("today", "今天"),
)
ACTIONS = (
    ("drink tea", "喝茶"),
    ("read books", "看书"),
    ("eat rice", "吃米饭"),
    ("write letters", "写信"),
    ("play football", "踢足球"),
    ("learn Chinese", "学中文"),
    ("drink coffee", "喝咖啡"),
    ("go to school", "去学校"),
    ("listen to music", "听音乐"),
    ("buy apples", "买苹果"),
    ("watch films", "看电影"),
    ("go home", "回家"),
)
ASKED = {"zh": "Translate into Chinese.", "en": "翻译成英文。"}  # by the language of the translation
SHOWN = 8


class Translation(Task):
    """Both directions in turn. chrF compares characters, so that half a right sentence counts half."""

    name = "translation"
    metrics = ("chrf", "exact")
    shots = (0, 4)

    def note(self) -> str:
        return "the quickstart's data holds no translations: seeded sentences"

    @cached_property
    def shuffled(self) -> list[Row]:
        """All sentences in a seeded order, both directions of a pair never in a row."""
        rows = []
        pairs = list(itertools.product(SUBJECTS, TIMES, ACTIONS))
        random.Random("translation").shuffle(pairs)
        for number, (subject, time, action) in enumerate(pairs):
            english = f"{subject[0]} {action[0]} {time[0]}."
            chinese = f"{subject[1]}{time[1]}{action[1]}。"
            into = ("zh", "en")[number % 2]
            text, answer = (english, chinese) if into == "zh" else (chinese, english)
            rows.append({"text": text, "answer": answer, "into": into})
        return rows

    def rows(self) -> list[Row]:
        return self.shuffled[2 * SHOWN :]

    def examples(self) -> list[Row]:
        return self.shuffled[: 2 * SHOWN]

    def prompt(self, row: Row) -> Question:
        into = row["into"]
        asked_in = "zh" if into == "en" else "en"
        return Question(f"{ASKED[into]}\n{row['text']}", language=asked_in, max_new_tokens=24)

    def answer(self, row: Row) -> str:
        return row["answer"]

    def score(self, row: Row, answer: Answer) -> Scores:
        reply = answer.text().strip().split("\n")[0]
        return {"chrf": chrf(reply, row["answer"]), "exact": same(reply, row["answer"])}
