"""Rows whose question, choices or answer lie in an object, or under names of one dataset's own → columns as
`read_asked` and `read_answer` know them."""

from typing import Any

from datamodules.layouts.choices import read_choices
from datamodules.layouts.layout import Layout
from datamodules.rendering.segments import BadRow, Row

PICTURES = ("image", "images", "video", "videos", "audio", "audios")
PLACES = ("<image>", "<video>", "<audio>")
INSTANCES = ("Instances", "instances", "Instance", "instance")
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
    _read_task(layout)
    if COIG[2] in row:
        _read_exam(layout)
    if not str(row.get("instruction", "x")).strip() and str(row.get("input") or "").strip():
        layout.take("input", "instruction")
    read_choices(layout)


def _read_task(layout: Layout) -> None:
    """Natural Instructions: a `definition` of what is to be done and one of the task's instances, in columns
    or in an object; Self-Instruct's `instruction` with its instance.

    Raises:
        BadRow: there are several instances, of which each is to be a row.
    """
    row = layout.row
    column = next((name for name in INSTANCES if row.get(name) is not None), None)
    asks = any(row.get(name) is not None for name in ("definition", "instruction"))
    if column is not None and asks:
        instance = row[column][0] if isinstance(row[column], list) and len(row[column]) == 1 else row[column]
        if not isinstance(instance, dict):
            raise BadRow(
                f"`{column}` are several, and a row has one: give each task a `.json` file of its own, or "
                f"name one with `columns: {{input: {column}.0.input, output: {column}.0.output}}`"
            )
        layout.drop(column)
        row |= {name: value for name, value in instance.items() if name not in row}
    definition = row.get("definition")
    if isinstance(definition, list) and all(isinstance(text, str) for text in definition):
        definition = "\n".join(definition)
    asked = next((name for name in ("inputs", "input") if row.get(name) is not None), None)
    if isinstance(definition, str) and asked and not layout.has("instruction"):
        layout.take("definition", "instruction", definition)
        layout.take(asked, "input")


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
