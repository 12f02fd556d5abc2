"""Builds the quickstart's instruction, preference and prompt rows out of reviews, docstrings and seeded sums.

Every function takes the texts of one split and knows nothing of the others: the caller keeps splits apart.
"""

import random
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from experiments.quickstart.raw_texts import ChineseReview, Module, Review, prose

REVIEW_PROMPT = "Write a movie review in one sentence."
WORDS = 40  # longest English reply
CHARACTERS = 30  # longest Chinese reply
REPLIES = 4  # to a prompt, that people have rated
OPENINGS = (2, 3, 4)  # words of a review's beginning, for PPO
SENTENCE_END = re.compile(r"""(?<=[\w)"'*][\w)"'*][.!?])\s+(?=[A-Z])""")


class Instruction(NamedTuple):
    """One row of instruction tuning; `input` may be empty. Its prompt is (instruction, input)."""

    instruction: str
    input: str
    output: str
    task: str
    language: str


class Texts(NamedTuple):
    """What one split's instructions are built from; `sums` as `raw_texts.sum_problems` gives them."""

    reviews: Sequence[Review]
    chinese: Sequence[ChineseReview]
    modules: Sequence[Module]
    sums: Sequence[tuple[str, str, str]]


def instructions(texts: Texts, sizes: dict[tuple[str, str], int], rng: random.Random) -> list[Instruction]:
    """Shuffled rows, at most `sizes[task, language]` each; no prompt appears twice but `REVIEW_PROMPT`."""
    builders = {
        ("review", "en"): _review,
        ("review_opening", "en"): _review_opening,
        ("review_opening", "zh"): _review_opening_chinese,
        ("sentiment", "en"): _sentiment,
        ("sentiment", "zh"): _sentiment_chinese,
        ("docs", "en"): _docs,
        ("sums", "en"): _sums,
        ("sums", "zh"): _sums_chinese,
    }
    rows: list[Instruction] = []
    for (task, language), size in sizes.items():
        distinct: dict[tuple[str, str], Instruction] = {}
        for instruction, given, output in builders[task, language](texts, rng):
            key = (output, "") if task == "review" else (instruction, given)
            distinct.setdefault(key, Instruction(instruction, given, output, task, language))
        rows += rng.sample(list(distinct.values()), min(size, len(distinct)))
    rng.shuffle(rows)
    return rows


def preferences(reviews: Sequence[Review], passes: int, rng: random.Random) -> Iterator[dict[str, object]]:
    """Groups of rated reviews as replies to the common prompt; each review is in at most `passes` groups."""
    for _ in range(passes):
        order = rng.sample(reviews, len(reviews))
        for start in range(0, len(order) - REPLIES + 1, REPLIES):
            group = order[start : start + REPLIES]
            texts, ratings = [review.text for review in group], [review.rating for review in group]
            yield {"instruction": REVIEW_PROMPT, "replies": texts, "ratings": ratings}


def openings(reviews: Sequence[Review], rng: random.Random, per_review: int = 1) -> list[str]:
    """The first words of reviews, as many as one of `OPENINGS`, at least 4 more to come; each only once."""
    distinct: dict[str, None] = {}
    for review in reviews:
        words = review.text.split()
        for length in rng.sample(OPENINGS, per_review):
            opening = " ".join(words[:length])
            if len(words) >= length + 4 and opening[0].isalnum() and opening[-1] not in "–.(":
                distinct.setdefault(opening)
    return list(distinct)


Triples = Iterator[tuple[str, str, str]]  # instruction, input, output


def _short(review: Review) -> bool:
    return len(review.text.split()) <= WORDS


def _review(texts: Texts, rng: random.Random) -> Triples:
    for review in filter(_short, texts.reviews):
        yield REVIEW_PROMPT, "", review.text


def _review_opening(texts: Texts, rng: random.Random) -> Triples:
    for review in filter(_short, texts.reviews):
        words = review.text.split()
        given = rng.randint(3, 6)
        if len(words) >= given + 3:
            opening = " ".join(words[:given])
            yield "Write a movie review that begins with the words given.", opening, review.text


def _review_opening_chinese(texts: Texts, rng: random.Random) -> Triples:
    for review in texts.chinese:
        given = re.sub(r"[^\w》”]+$", "", review.text[: rng.randint(4, 8)])
        if 14 <= len(review.text) <= CHARACTERS and len(given) >= 3:
            yield "写一条评论，以给出的文字开头。", given, review.text


def _sentiment(texts: Texts, rng: random.Random) -> Triples:
    for review in filter(_short, texts.reviews):
        if abs(review.rating) >= 1:
            answer = "Positive" if review.rating > 0 else "Negative"
            yield "Is this movie review positive or negative? Answer with one word.", review.text, answer


def _sentiment_chinese(texts: Texts, rng: random.Random) -> Triples:
    for review in texts.chinese:
        if len(review.text) <= CHARACTERS:
            yield "这条评论是好评还是差评？", review.text, "好评" if review.good else "差评"


def _docs(texts: Texts, rng: random.Random) -> Triples:
    questions = ("What does `{}` do in Python?", "What is `{}` for?", "Explain `{}` in one sentence.")
    replies: set[str] = set()
    for module in texts.modules:
        for name, docstring in module.docstrings:
            private = any(part.startswith("_") for part in name.split(".")) or name.startswith("idlelib")
            paragraphs = prose(docstring)
            if private or not paragraphs or not docstring.startswith(paragraphs[0][:10]):
                continue
            sentence = SENTENCE_END.split(paragraphs[0].split("\n")[0])[0]
            sentence = sentence if sentence[-1] in ".!?" else sentence + "."
            odd = re.search(r"[:;,]\.$|->|::", sentence) or sentence in replies
            if 4 <= len(sentence.split()) <= 25 and not odd:
                replies.add(sentence)
                yield rng.choice(questions).format(name), "", sentence


def _sums(texts: Texts, rng: random.Random) -> Triples:
    for _, expression, steps in texts.sums:
        answer = steps.rpartition(" ")[2]
        output = f"{steps.replace(';', '.')}. The answer is {answer}."
        if rng.random() < 0.5 or "1" in expression.split():  # "1 apples"
            yield f"What is {expression}?", "", output
        else:
            yield "Solve the problem step by step.", _story(expression, rng), output


def _sums_chinese(texts: Texts, rng: random.Random) -> Triples:
    for _, expression, steps in texts.sums:
        answer = steps.rpartition(" ")[2]
        yield f"{expression} 等于多少？请写出步骤。", "", f"{steps.replace('; ', '；')}。答案是 {answer}。"


def _story(expression: str, rng: random.Random) -> str:
    """A sum told in words: its numbers stay in their order."""
    name = rng.choice(("Anna", "Ben", "Carla", "David", "Emma", "Li Wei", "Maria", "Omar"))
    things = rng.choice(("apples", "books", "cards", "coins", "pencils", "shells", "stamps"))
    first, *others = re.findall(r"\d+", expression)
    story = f"{name} has {first} {things}"
    if " - " in expression:
        story += f" and gives away {others[0]}"
    elif len(others) == 1:
        story += f" and gets {others[0]} more"
    else:
        story += f", finds {others[0]} and buys {others[1]}"
    return f"{story}. How many {things} are there now?"
