"""Instructions that a program can check, alone and two at a time: a small IFEval in English and Chinese."""

import random

from experiments.evaluation.constraints import CONSTRAINTS, HELD_OUT, follows, loosened
from experiments.evaluation.task import Answer, Question, Row, Scores, Task

ITEMS = 240
ABOUT = {"en": "Tell me about {}.", "zh": "请介绍一下{}。"}
TOPICS = {
    "en": ("rain", "cats", "trains", "the sun", "bread", "music", "football", "schools", "tea", "winter"),
    "zh": ("雨", "猫", "火车", "太阳", "面包", "音乐", "足球", "学校", "茶", "冬天"),
}
YES_NO = {
    "en": ("Is the sun hot?", "Can fish fly?", "Is bread food?", "Do cats drink water?", "Is winter warm?"),
    "zh": ("太阳热吗？", "鱼会飞吗？", "面包是食物吗？", "猫喝水吗？", "冬天暖和吗？"),
}


class Instructions(Task):
    """Twelve constraints; three items of five have one, the others a held-out pair of them.

    `strict` and `loose` say whether all constraints of an item are followed (IFEval's prompt level);
    `followed` is the share of an item's constraints (its instruction level).
    """

    name = "instructions"
    metrics = ("strict", "loose", "followed", "strict_single", "strict_combined")

    def rows(self) -> list[Row]:
        rng = random.Random("instructions")
        rows: dict[str, Row] = {}
        singles = list(CONSTRAINTS)
        while len(rows) < ITEMS:
            number = len(rows)
            language = ("en", "zh")[number % 2]
            names = (rng.choice(singles),) if number % 5 < 3 else rng.choice(HELD_OUT)
            asked = ABOUT[language].format(rng.choice(TOPICS[language]))
            if "yes_no" in names:
                asked = rng.choice(YES_NO[language])
            told = [(name, rng.choice(CONSTRAINTS[name].arguments[language])) for name in names]
            wordings = [CONSTRAINTS[name].wordings[language].format(argument) for name, argument in told]
            text = ("" if language == "zh" else " ").join([asked, *wordings])
            rows[text] = {"text": text, "asked": asked, "constraints": told, "language": language}
        return list(rows.values())

    def prompt(self, row: Row) -> Question:
        return Question(row["text"], language=row["language"], max_new_tokens=64)

    def answer(self, row: Row) -> str:
        return ""

    def score(self, row: Row, answer: Answer) -> Scores:
        reply = answer.reply.text
        constraints = [(name, argument, row["asked"]) for name, argument in row["constraints"]]
        kept = [follows(name, reply, *others) for name, *others in constraints]
        loose = [
            any(follows(name, text, *others) for text in loosened(reply)) for name, *others in constraints
        ]
        strict, single = all(kept), len(kept) == 1
        return {
            "strict": strict,
            "loose": all(loose),
            "followed": sum(kept) / len(kept),
            "strict_single": strict if single else None,
            "strict_combined": None if single else strict,
        }
