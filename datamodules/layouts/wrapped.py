"""Rows whose question, choices or answer lie in an object, or under names of one dataset's own → columns as
`read_asked` and `read_answer` know them."""

import string
from typing import Any

from datamodules.layouts.layout import Layout
from datamodules.rendering.segments import BadRow, Row

LETTERS = string.ascii_uppercase
ANSWERS = ("answerKey", "answer_idx", "answer")
"""columns that say which of several choices is right"""
PICTURES = ("image", "images", "video", "videos", "audio", "audios")
PLACES = ("<image>", "<video>", "<audio>")
COIG = ("textbox_q_instruction", "textbox_q_context", "textbox_question", "textbox_answer")


def unwrap(layout: Layout) -> None:
    """Lays out the columns of a row that has them in objects or under other names: logs of OpenAI's API,
    exams of COIG, P3, tasks with a `definition`, questions with choices."""
    row = layout.row
    for column in ("request", "input", "body"):
        asked = row.get(column)
        if isinstance(asked, dict) and isinstance(asked.get("messages"), list):
            layout.drop(column)
            row |= {name: asked[name] for name in ("messages", "tools") if asked.get(name)}
    for column in ("response", "completion", "choices"):
        if (message := _completed(row, column)) is not None:
            layout.drop(column)
            row["output"] = [message]
    if row.get("inputs_pretokenized") is not None:
        layout.drop("inputs", "targets")  # the same as ids of another model's tokens
    if isinstance(row.get("definition"), str) and row.get("inputs") is not None:
        layout.take("definition", "instruction")
        layout.take("inputs", "input")
    if COIG[2] in row:
        _read_exam(layout)
    if not str(row.get("instruction", "x")).strip() and str(row.get("input") or "").strip():
        layout.take("input", "instruction")
    _read_choices(layout)


def _completed(row: Row, column: str) -> dict[str, Any] | None:
    """The message of a completion of OpenAI's API."""
    value = row.get(column)
    choices = value.get("choices") if isinstance(value, dict) else value if column == "choices" else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return message if isinstance(message, dict) else None


def _read_exam(layout: Layout) -> None:
    """COIG's exams: what is to be done, the text that it is about, the question; the answer and why."""
    row = layout.row
    task, about, question, answer = (row.get(name) for name in COIG)
    asked = [text for text in (about, question) if isinstance(text, str) and text.strip()]
    why = row.get("textbox_answer_analysis")
    reply = [text for text in (answer, why) if isinstance(text, str) and text.strip()]
    layout.drop(*COIG, "textbox_answer_analysis")
    first = [task] if isinstance(task, str) and task.strip() else [asked.pop(0)] if asked else []
    row |= {"instruction": "".join(first), "input": "\n".join(asked), "output": "\n".join(reply)}
    layout.moves |= {COIG[0]: "instruction", COIG[2]: "input", COIG[3]: "output"}


def _read_choices(layout: Layout) -> None:
    """The choices of a question under it, a letter each, and the letter of the right one as its answer:
    `choices` and a number (MMLU), `choices` of text and label (ARC), `options` (RACE, MedQA), a column a
    letter (C-Eval).

    Raises:
        BadRow: the answer is none of them, or they have not a label each.
    """
    row = layout.row
    if not isinstance(row.get("question"), str):
        return
    answer = next((row[name] for name in ANSWERS if row.get(name) is not None), None)
    column = "choices" if row.get("choices") is not None else "options"
    choices, used = row.get(column), [column]
    labels: list[Any] = [*LETTERS]
    if isinstance(choices, dict) and isinstance(choices.get("text"), list):
        labels, choices = choices.get("label") or labels, choices["text"]
    elif isinstance(choices, dict):
        labels, choices = [*choices], [*choices.values()]
    if choices is None and answer in (*"ABCDE",) and all(row.get(letter) is not None for letter in "ABCD"):
        used = [letter for letter in "ABCDE" if row.get(letter) is not None]
        choices = [str(row[letter]) for letter in used]
    if not isinstance(choices, list) or not choices or not all(isinstance(text, str) for text in choices):
        return
    if len(choices) > len(labels):
        raise BadRow(f"{len(choices)} choices, but {len(labels)} labels for them")
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        answer = labels[answer]
    if answer in choices and answer not in labels:
        answer = labels[choices.index(answer)]
    if answer is not None and answer not in labels[: len(choices)]:
        raise BadRow(f"the answer {answer!r} is none of the {len(choices)} choices")
    listed = "\n".join(f"{label}. {text}" for label, text in zip(labels, choices, strict=False))
    row["question"] = f"{row['question']}\n{listed}"
    layout.drop(*used, *ANSWERS)
    if answer is not None:
        row["answer"] = answer
    layout.changes.append("choices written under the question")


def refuse_pictures(layout: Layout) -> None:
    """Refuses a conversation about a picture, a film or a sound.

    Raises:
        BadRow: with the column.
    """
    column = next((column for column in PICTURES if layout.row.get(column)), None)
    messages = layout.row.get("messages")
    if column is None or not isinstance(messages, list):
        return
    texts = [turn.get("content") for turn in messages if isinstance(turn, dict)]
    if any(isinstance(text, str) and any(place in text for place in PLACES) for text in texts):
        raise BadRow(f"a conversation about what is in `{column}`: only text can be trained on")
