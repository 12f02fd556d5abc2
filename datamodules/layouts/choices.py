"""A question with several answers to choose from → the choices under it, and which of them is right."""

import re
import string
from typing import Any

from datamodules.layouts.layout import Layout
from datamodules.layouts.vocabulary import RATINGS, REPLIES
from datamodules.rendering.segments import BadRow, Row

LETTERS = string.ascii_uppercase
ASKING = ("question", "query", "problem", "question_stem", "input", "prompt", "instruction")
CHOICES = ("choices", "options", "choice", "option")
ANSWERS = ("answerKey", "answer_idx", "answer")
"""columns that say which of several choices is right: its label, its text or its place from 0"""
ALSO_ANSWERS = ("correct", "correct_option", "correct_answer_id", "answer_index", "label", "target")
"""the same, where neither these nor another reply is there"""
OTHER_REPLIES = {*REPLIES} - {*ANSWERS, *ALSO_ANSWERS, "answers"}
FROM_ONE = "answer_number"
"""our name for a column that counts the choices from 1"""
UNSURE = "cop"
"""MedMCQA's, which counts from 0 on the hub and from 1 in the files of its authors"""


def read_choices(layout: Layout) -> None:
    """Writes the choices of a question under it, a letter each, and has the letter of the right one as its
    answer: `choices` and a number (MMLU), `choices` of text and label (ARC), `options` (RACE, MedQA, LogiQA),
    `answers` and the place of one (QuAIL), a column a letter (C-Eval, MedMCQA).

    Raises:
        BadRow: the answer is none of them, they have not a label each, or cannot be read.
    """
    row = layout.row
    asking = next((name for name in ASKING if isinstance(row.get(name), str) and row[name].strip()), None)
    used, given = _given(row)
    if asking is None or given is None:
        return
    labels, choices = _labelled(given)
    by = _answer_column(row, labels, choices)
    answer = row.get(by)
    if not by and asking != "question":
        return
    if isinstance(given, str):
        listed = given  # all of them in one text
    elif choices is None:
        if by in ANSWERS and (isinstance(answer, int) or _is_letters(answer)):
            raise BadRow(f"`{used[0]}` is no list of texts, of which `{by}` says which is right")
        return
    elif len(choices) > len(labels):
        raise BadRow(f"{len(choices)} choices, but {len(labels)} labels for them")
    else:
        listed = _listed(labels, choices)
        answer = _label_of(answer, labels[: len(choices)], choices, int(by == FROM_ONE))
    row[asking] = f"{row[asking]}\n{listed}"
    layout.drop(*used, FROM_ONE, *ANSWERS, *([by] if by else []))
    if answer is not None:
        row["answer"] = answer
    layout.changes.append("choices written under the question")


def _given(row: Row) -> tuple[list[str], Any]:
    """The columns that hold the choices, and what they hold; None where there are none."""
    columns = [f"op{letter}" for letter in "abcd"]  # MedMCQA's
    if all(isinstance(row.get(column), str) for column in columns):
        return columns, [row[column] for column in columns]
    if (column := next((name for name in CHOICES if row.get(name) is not None), None)) is not None:
        return [column], row[column]
    several = None if any(isinstance(row.get(name), list) for name in RATINGS) else row.get("answers")
    if isinstance(several, list) and _answer_column(row, [*LETTERS], several) in ALSO_ANSWERS:
        return ["answers"], several
    columns = [letter for letter in "ABCDE" if row.get(letter) is not None]
    if {*"AB"} <= {*columns} and any(_is_letters(row.get(name)) for name in (*ANSWERS, *ALSO_ANSWERS)):
        return columns, [str(row[letter]) for letter in columns]
    return [], None


def _is_letters(value: Any) -> bool:
    """Whether a value is a letter of a choice, or those of several."""
    return isinstance(value, str) and 0 < len(value) == len({*value}) and {*value} <= {*LETTERS}


def _answer_column(row: Row, labels: list[Any], choices: list[str] | None) -> str:
    """The column that says which choice is right; an empty text where there is none."""
    if (sure := next((name for name in (FROM_ONE, *ANSWERS) if row.get(name) is not None), None)) is not None:
        return sure
    for name in () if any(row.get(reply) is not None for reply in OTHER_REPLIES) else ALSO_ANSWERS:
        value = row.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices or ()):
            return name
        if isinstance(value, str) and (value in labels or value in (choices or ()) or _is_letters(value)):
            return name
    return ""


def _labelled(given: Any) -> tuple[list[Any], list[str] | None]:
    """The labels of choices, and their texts; None where they are none."""
    labels: list[Any] = [*LETTERS]
    if isinstance(given, dict) and isinstance(given.get("text"), list):
        labels, given = given.get("label") or labels, given["text"]
    elif isinstance(given, dict):
        labels, given = [*given], [*given.values()]
    elif isinstance(given, list) and all(
        isinstance(each, dict) and {"key", "value"} <= {*each} for each in given
    ):
        labels, given = [each["key"] for each in given], [each["value"] for each in given]
    if not (isinstance(labels, list) and all(isinstance(label, str | int) for label in labels)):
        return [*LETTERS], None
    if not isinstance(given, list) or not given or not all(isinstance(text, str) for text in given):
        return labels, None
    return labels, given


def _listed(labels: list[Any], choices: list[str]) -> str:
    """A line each; choices that begin with their labels as they are."""
    pairs = [*zip(labels, choices, strict=False)]
    if all(re.match(rf"\s*[(（]?\s*{re.escape(str(label))}\s*[)）.．:：、]", text) for label, text in pairs):
        return "\n".join(choices)
    return "\n".join(f"{label}. {text}" for label, text in pairs)


def _label_of(answer: Any, labels: list[Any], choices: list[str], first: int) -> Any:
    """The label of the right choice, or those of several (`ABD`).

    Raises:
        BadRow: it is none of them.
    """
    if isinstance(answer, list) and all(isinstance(label, str) for label in answer):
        answer = "".join(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer - first < len(choices):
        return labels[answer - first]
    if answer is None or answer in labels:
        return answer
    if answer in choices:
        return labels[choices.index(answer)]
    if _is_letters(answer) and {*answer} <= {*labels}:
        return answer
    raise BadRow(f"the answer {answer!r} is none of the {len(choices)} choices")
