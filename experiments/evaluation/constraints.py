"""Twelve instructions that a program can check, in English and Chinese, strictly and loosely (after IFEval,
Zhou et al. 2311.07911)."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

HAN = re.compile(r"[\u4e00-\u9fff]")
FENCE = re.compile(r"^```\w*\n(.*)\n```$", re.DOTALL)
Check = Callable[[str, str, str], bool]
"""whether a reply follows, given the reply, the constraint's argument and the question"""


class Constraint(NamedTuple):
    """An instruction that a program can check."""

    wordings: Mapping[str, str]
    """by language; `{}` is the argument"""
    check: Check
    arguments: Mapping[str, tuple[str, ...]] = {"en": ("",), "zh": ("",)}
    """what may stand for `{}`, by language"""


def length(text: str) -> int:
    """Chinese characters and words in other scripts."""
    return len(HAN.findall(text)) + len(HAN.sub(" ", text).split())


def _is_json(reply: str) -> bool:
    text = reply.strip()
    fenced = FENCE.match(text)
    try:
        return isinstance(json.loads(fenced[1] if fenced else text), dict | list)
    except ValueError:
        return False


def _bullets(reply: str) -> int:
    return len(re.findall(r"^\s*[*\-•]\s+\S", reply, re.MULTILINE))


def _paragraphs(reply: str) -> int:
    return len([part for part in re.split(r"\n\s*\n", reply.strip()) if part.strip()])


def _yes_or_no(reply: str) -> bool:
    return re.sub(r"\W", "", reply).lower() in ("yes", "no", "是", "否")


CONSTRAINTS: dict[str, Constraint] = {
    "length": Constraint(
        {"en": "Use at most {} words.", "zh": "最多使用{}个字。"},
        lambda reply, most, _: 0 < length(reply) <= int(most),
        {"en": ("10", "20", "30"), "zh": ("20", "30", "40")},
    ),
    "lower_case": Constraint(
        {"en": "Write in lower case letters only.", "zh": "不要使用任何大写字母。"},
        lambda reply, *_: reply == reply.lower(),
    ),
    "begin": Constraint(
        {"en": 'Begin with the words "{}".', "zh": "以“{}”开头。"},
        lambda reply, words, _: reply.strip().startswith(words),
        {"en": ("In short", "I think", "Of course"), "zh": ("总之", "我认为", "当然")},
    ),
    "full_stop": Constraint(
        {"en": "End with a full stop.", "zh": "以句号结尾。"},
        lambda reply, *_: reply.strip().endswith((".", "。")),
    ),
    "yes_no": Constraint(
        {"en": "Answer only yes or no.", "zh": "只回答“是”或“否”。"}, lambda reply, *_: _yes_or_no(reply)
    ),
    "word": Constraint(
        {"en": 'Include the word "{}".', "zh": "使用“{}”这个词。"},
        lambda reply, word, _: word in reply.lower(),
        {"en": ("people", "always", "world"), "zh": ("人们", "总是", "世界")},
    ),
    "bullets": Constraint(
        {
            "en": 'Give exactly {} bullet points, each on a line that begins with "- ".',
            "zh": "给出{}个要点，每行以“- ”开头。",
        },
        lambda reply, count, _: _bullets(reply) == int(count),
        {"en": ("2", "3"), "zh": ("2", "3")},
    ),
    "language": Constraint(
        {"en": "Answer in Chinese.", "zh": "用英文回答。"},
        lambda reply, wanted, _: bool(HAN.search(reply)) == (wanted == "zh") and length(reply) > 0,
        {"en": ("zh",), "zh": ("en",)},
    ),
    "json": Constraint(
        {"en": "Give the answer as a JSON object and nothing else.", "zh": "只用一个JSON对象回答。"},
        lambda reply, *_: _is_json(reply),
    ),
    "repeat": Constraint(
        {"en": "First repeat this request word for word, then answer.", "zh": "先逐字重复这个问题，再回答。"},
        lambda reply, _, asked: reply.strip().lower().startswith(asked.lower()),
    ),
    "no_comma": Constraint(
        {"en": "Do not use any commas.", "zh": "不要使用逗号。"},
        lambda reply, *_: bool(reply.strip()) and not re.search("[,，、]", reply),
    ),
    "paragraphs": Constraint(
        {"en": "Write two paragraphs, with an empty line between them.", "zh": "写两段，中间空一行。"},
        lambda reply, *_: _paragraphs(reply) == 2,
    ),
}  # fmt: skip

HELD_OUT = (
    ("length", "lower_case"), ("begin", "no_comma"), ("full_stop", "word"), ("bullets", "lower_case"),
    ("word", "paragraphs"), ("repeat", "full_stop"), ("length", "word"), ("json", "lower_case"),
    ("begin", "full_stop"), ("language", "no_comma"),
)  # fmt: skip
"""pairs that no training row of ours may combine; each can be followed together"""


def follows(name: str, reply: str, argument: str, asked: str) -> bool:
    """Whether a reply follows a constraint to the letter; an empty reply follows none."""
    return bool(reply.strip()) and CONSTRAINTS[name].check(reply, argument, asked)


def loosened(reply: str) -> Iterator[str]:
    """A reply as IFEval's loose accuracy takes it: without its first line, its last line, both, and each of
    these without asterisks."""
    lines = reply.split("\n")
    for part in (lines, lines[1:], lines[:-1], lines[1:-1]):
        text = "\n".join(part).strip()
        yield text
        yield text.replace("*", "")
