"""Multiple choice by log-likelihood: kinds of things and opposites, in English and Chinese."""

import random

from experiments.evaluation.task import Answer, Question, Row, Scores, Task

KINDS = {
    "en": {
        "a fruit": ("apple", "banana", "pear", "peach", "grape", "cherry", "melon", "mango"),
        "an animal": ("horse", "dog", "rabbit", "elephant", "tiger", "sheep", "monkey", "camel"),
        "a colour": ("red", "green", "yellow", "purple", "blue", "orange", "brown", "grey"),
        "a tool": ("hammer", "saw", "drill", "screwdriver", "axe", "wrench", "shovel", "chisel"),
        "a country": ("France", "Japan", "Brazil", "Egypt", "Canada", "India", "Spain", "Norway"),
        "a vehicle": ("car", "bus", "truck", "bicycle", "train", "tram", "motorcycle", "van"),
        "a part of the body": ("knee", "elbow", "shoulder", "ankle", "finger", "nose", "chin", "wrist"),
        "a musical instrument": ("violin", "piano", "flute", "guitar", "trumpet", "drum", "cello", "harp"),
    },
    "zh": {
        "水果": ("苹果", "香蕉", "梨", "桃子", "葡萄", "樱桃", "西瓜", "芒果"),
        "动物": ("马", "狗", "兔子", "大象", "老虎", "绵羊", "猴子", "骆驼"),
        "颜色": ("红色", "绿色", "黄色", "紫色", "蓝色", "白色", "棕色", "灰色"),
        "国家": ("法国", "日本", "巴西", "埃及", "加拿大", "印度", "西班牙", "挪威"),
        "交通工具": ("汽车", "公共汽车", "卡车", "自行车", "火车", "电车", "摩托车", "地铁"),
        "乐器": ("小提琴", "钢琴", "长笛", "吉他", "小号", "鼓", "大提琴", "竖琴"),
    },
}
OPPOSITES = [
    pair.split()
    for pair in [
        "hot cold",
        "big small",
        "early late",
        "full empty",
        "high low",
        "old young",
        "rich poor",
        "fast slow",
        "wet dry",
        "strong weak",
        "open closed",
        "dark light",
    ]
]
ITEMS, SHOWN, CHOICES = 240, 4, 4


class Choices(Task):
    """The most likely of four answers in plain text, whatever its length: per byte, per token, and as it
    is."""

    name = "choices"
    metrics = ("right_per_byte", "right_per_token", "right_in_sum")

    def rows(self) -> list[Row]:
        return _items("items")[:ITEMS]

    def examples(self) -> list[Row]:
        asked = {row["text"] for row in self.rows()}
        return [row for row in _items("examples") if row["text"] not in asked][: 4 * SHOWN]

    def prompt(self, row: Row) -> Question:
        text, space = (f"问题：{row['text']}\n答案：", "") if row["language"] == "zh" else ("", " ")
        text = text or f"Question: {row['text']}\nAnswer:"
        choices = tuple(f"{space}{choice}" for choice in row["choices"])
        return Question(text, choices, instruction=False, language=row["language"], max_new_tokens=8)

    def answer(self, row: Row) -> str:
        return self.prompt(row).choices[row["right"]]

    def score(self, row: Row, answer: Answer) -> Scores:
        def likeliest(sizes: list[int]) -> bool:
            rates = [each.logprob / size for each, size in zip(answer.likelihoods, sizes, strict=True)]
            return rates.index(max(rates)) == row["right"]

        return {
            "right_per_byte": likeliest([len(choice.encode()) for choice in self.prompt(row).choices]),
            "right_per_token": likeliest([each.tokens for each in answer.likelihoods]),
            "right_in_sum": likeliest([1] * len(answer.likelihoods)),
        }


def _items(seed: str) -> list[Row]:
    rng = random.Random(f"choices {seed}")
    rows: dict[str, Row] = {}
    while len(rows) < ITEMS + 2 * SHOWN:
        language = ("en", "zh")[len(rows) % 2]
        kinds = KINDS[language]
        if language == "en" and rng.random() < 0.3:
            word, right = rng.choice(OPPOSITES)[:: rng.choice((1, -1))]
            text = f"What is the opposite of {word}?"
            others = [each for pair in OPPOSITES for each in pair if word not in pair]
        else:
            kind = rng.choice(list(kinds))
            right = rng.choice(kinds[kind])
            text = f"下面哪一个是{kind}？" if language == "zh" else f"Which of these is {kind}?"
            others = [word for other, words in kinds.items() if other != kind for word in words]
        choices = [right, *rng.sample(others, CHOICES - 1)]
        rng.shuffle(choices)
        listed = ("、" if language == "zh" else ", ").join(choices)
        text = f"{text}（{listed}）" if language == "zh" else f"{text} ({listed})"
        rows[text] = {
            "text": text, "choices": choices, "right": choices.index(right), "language": language
        }  # fmt: skip
    return list(rows.values())
