"""Questions about facts: capitals, which a model may know, and invented people, whom it cannot; closed-book
and with passages."""

import random
from collections.abc import Mapping
from functools import cached_property

from experiments.evaluation.metrics import contains
from experiments.evaluation.task import Answer, Question, Row, Scores, Task, Transformer
from experiments.evaluation.transformers import PASSAGES, Given, Retrieved

CAPITALS = """
France Paris 法国 巴黎, Japan Tokyo 日本 东京
Italy Rome 意大利 罗马, Spain Madrid 西班牙 马德里
Egypt Cairo 埃及 开罗, Russia Moscow 俄罗斯 莫斯科
China Beijing 中国 北京, Germany Berlin 德国 柏林
Greece Athens 希腊 雅典, Austria Vienna 奥地利 维也纳
Poland Warsaw 波兰 华沙, Norway Oslo 挪威 奥斯陆
Sweden Stockholm 瑞典 斯德哥尔摩, Cuba Havana 古巴 哈瓦那
Peru Lima 秘鲁 利马, Thailand Bangkok 泰国 曼谷
Vietnam Hanoi 越南 河内, Kenya Nairobi 肯尼亚 内罗毕
Portugal Lisbon 葡萄牙 里斯本, Ireland Dublin 爱尔兰 都柏林
Chile Santiago 智利 圣地亚哥, Turkey Ankara 土耳其 安卡拉
Iran Tehran 伊朗 德黑兰, Iraq Baghdad 伊拉克 巴格达
Hungary Budapest 匈牙利 布达佩斯, Finland Helsinki 芬兰 赫尔辛基
Canada Ottawa 加拿大 渥太华, Australia Canberra 澳大利亚 堪培拉
Denmark Copenhagen 丹麦 哥本哈根, Belgium Brussels 比利时 布鲁塞尔
"""
"""country and capital in English, then in Chinese"""
FIRST = ("Mara", "Tobin", "Elsa", "Rurik", "Nadia", "Corin", "Lena", "Osric", "Petra", "Silvan")
LAST = ("Holt", "Verrick", "Anders", "Quill", "Morrow", "Tarn", "Beck", "Lowell", "Strand", "Fenn")
CHINESE = ("欧阳", "司马", "诸葛", "慕容", "上官", "东方", "夏侯", "皇甫", "尉迟", "公孙")
GIVEN = ("明远", "雪梅", "子轩", "若兰", "天佑", "思琪", "文博", "静怡", "浩然", "晓彤")
CITIES = (
    ("Lyon", "里昂"),
    ("Porto", "波尔图"),
    ("Bergen", "卑尔根"),
    ("Kyoto", "京都"),
    ("Graz", "格拉茨"),
    ("Turin", "都灵"),
)
JOBS = (
    ("baker", "面包师"),
    ("pilot", "飞行员"),
    ("painter", "画家"),
    ("nurse", "护士"),
    ("farmer", "农民"),
    ("judge", "法官"),
)
ANIMALS = (
    ("parrot", "鹦鹉"),
    ("tortoise", "乌龟"),
    ("rabbit", "兔子"),
    ("horse", "马"),
    ("goat", "山羊"),
    ("snake", "蛇"),
)
PEOPLE = 100
ATTRIBUTES = {
    "city": (CITIES, {"en": "In which city was {} born?", "zh": "{}出生在哪个城市？"}),
    "job": (JOBS, {"en": "What is the job of {}?", "zh": "{}的职业是什么？"}),
    "animal": (ANIMALS, {"en": "Which animal does {} keep?", "zh": "{}养什么动物？"}),
}
LIVES = {
    "en": "{name} was born in {city}, works as a {job} and keeps a {animal}.",
    "zh": "{name}出生在{city}，职业是{job}，养了一只{animal}。",
}


def people() -> list[Row]:
    """Invented people: name, attributes, the passage about each, and its language."""
    rng = random.Random("people")
    rows: dict[str, Row] = {}
    while len(rows) < PEOPLE:
        column = len(rows) % 2
        language = ("en", "zh")[column]
        names = (
            rng.choice(CHINESE) + rng.choice(GIVEN) if column else f"{rng.choice(FIRST)} {rng.choice(LAST)}"
        )
        person = {name: rng.choice(values)[column] for name, (values, _) in ATTRIBUTES.items()}
        passage = LIVES[language].format(name=names, **person)
        rows[names] = {"name": names, **person, "passage": passage, "language": language}
    return list(rows.values())


def question_about(person: Row, rng: random.Random) -> tuple[str, str]:
    """A question about a person, and its answer."""
    attribute = rng.choice(list(ATTRIBUTES))
    return ATTRIBUTES[attribute][1][person["language"]].format(person["name"]), person[attribute]


def capitals() -> list[Row]:
    """A question for each capital and language, with its passage."""
    rows = []
    for line in CAPITALS.strip().replace(", ", "\n").splitlines():
        country, capital, country_zh, capital_zh = line.split()
        english = {"text": f"What is the capital of {country}?", "answer": capital, "language": "en"}
        chinese = {"text": f"{country_zh}的首都是哪里？", "answer": capital_zh, "language": "zh"}
        rows.append({**english, "passage": f"{capital} is the capital of {country}."})
        rows.append({**chinese, "passage": f"{capital_zh}是{country_zh}的首都。"})
    return rows


class Facts(Task):
    """Known and invented facts in turn: closed-book, with the right passage among three, and with three that
    BM25 finds among all."""

    name = "facts"
    metrics = ("right", "right_known", "right_invented", "passage_shown")

    @cached_property
    def all_rows(self) -> list[Row]:
        """Items, then examples; each with the right passage and two others in a random order."""
        rng = random.Random("facts")
        known = [{**row, "kind": "known"} for row in capitals()]
        invented = []
        for person in people():
            text, answer = question_about(person, rng)
            row = {"text": text, "answer": answer, "language": person["language"], "kind": "invented"}
            invented.append({**row, "passage": person["passage"]})
        rng.shuffle(known)
        rng.shuffle(invented)
        rows = [row for pair in zip(known, invented, strict=False) for row in pair]
        for row in rows:
            alike = [
                each for each in rows if (each["kind"], each["language"]) == (row["kind"], row["language"])
            ]
            others = rng.sample([each["passage"] for each in alike if each is not row], PASSAGES - 1)
            row["passages"] = rng.sample([row["passage"], *others], PASSAGES)
        return rows

    def rows(self) -> list[Row]:
        return self.all_rows[:-16]

    def examples(self) -> list[Row]:
        return self.all_rows[-16:]

    def prompt(self, row: Row) -> Question:
        return Question(row["text"], language=row["language"], max_new_tokens=24)

    def answer(self, row: Row) -> str:
        return row["answer"]

    def score(self, row: Row, answer: Answer) -> Scores:
        right, known = contains(answer.reply.text, row["answer"]), row["kind"] == "known"
        return {
            "right": right,
            "right_known": right if known else None,
            "right_invented": None if known else right,
            "passage_shown": row["passage"] in answer.passages if answer.passages else None,
        }

    def variants(self) -> Mapping[str, tuple[Transformer, ...]]:
        found = Retrieved(lambda: [row["passage"] for row in capitals() + people()])
        return {"closed-book": (), "passage": (Given(),), "retrieved": (found,)}
