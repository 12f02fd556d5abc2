"""How a reply is held against the right answer."""

import re
import unicodedata
from collections import Counter

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
ANSWERS = re.compile(r"(?:answer is|answer:|答案是|答案为|答案：|答案:)", re.I)
ORDER, BETA = 6, 2  # of chrF: character n-grams up to 6, recall counts twice


def plain(text: str) -> str:
    """A text in lower case, without punctuation, its words one space apart."""
    kept = (" " if unicodedata.category(character)[0] in "PSZ" else character for character in text.lower())
    return " ".join("".join(kept).split())


def final(text: str) -> str:
    """What a reply with steps says last: what follows "the answer is", else its last line."""
    told = ANSWERS.split(text)
    lines = [line for line in (told[-1] if len(told) > 1 else text).splitlines() if line.strip()]
    return (lines[0] if len(told) > 1 else lines[-1]) if lines else ""


def same(reply: str, answer: str) -> bool:
    """Whether a reply is the answer, case and punctuation apart."""
    return plain(reply) == plain(answer)


def contains(reply: str, answer: str) -> bool:
    """Whether the answer stands in a reply; in a script with spaces as whole words."""
    wanted = plain(answer)
    if not wanted.isascii():
        return wanted in plain(reply)
    return f" {wanted} " in f" {plain(reply)} "


def last_number(text: str) -> float | None:
    """The last number in a text, thousands' commas left out."""
    numbers = NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def chrf(reply: str, answer: str) -> float:
    """Character n-gram F-score from 0 to 1 (chrF, Popović 2015: n = 1 … 6, β = 2, spaces left out), the mean
    of precision and of recall over the orders that either text has."""
    texts = ["".join(text.split()) for text in (reply, answer)]
    precisions, recalls = [], []
    for n in range(1, ORDER + 1):
        there, right = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in texts)
        common = (there & right).total()
        if there or right:
            precisions.append(common / there.total() if there else 0.0)
            recalls.append(common / right.total() if right else 0.0)
    if not precisions or not sum(precisions):
        return float(not any(texts))
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)
