"""Pieces of a row's text, the fields that they come from, and why a row may have none."""

from typing import Any, NamedTuple

from datamodules.errors import UserError

Row = dict[str, Any]
Reply = str | dict[str, Any]
"""a text, or a chat's message where it holds more than text"""


class Segment(NamedTuple):
    """A piece of a conversation's text."""

    text: str
    trained: bool
    """True: the loss is on it (a reply and the eos that ends it)"""
    special: bool = False
    """True: special tokens in it are tokens, for the template wrote them; False: they stay plain text"""
    starts_reply: bool = False
    """a reply that is not trained begins here, at which no token may span (nor where one that is begins)"""


class DropRow(UserError):
    """A row that is dropped and counted under the exception's text."""


class EmptyReply(DropRow):
    """There is nothing to train on."""


class BadRow(UserError):
    """A row that must stop the run, unless bad rows are skipped; the text is the reason."""


class StopRun(BadRow):
    """A row that stops the run in any case, since a policy says so."""


def text_of(row: Row, column: str, required: bool = True) -> str:
    """A text field of a row.

    Raises:
        BadRow: it is missing or not text.
        DropRow: it is blank, and `required`.
    """
    value = row.get(column)
    if value is None:
        raise BadRow(f"no `{column}` (it has {present_in(row)})")
    if not isinstance(value, str):
        raise BadRow(f"`{column}` is {type(value).__name__}, not text")
    if required and not value.strip():
        raise DropRow(f"empty `{column}`")
    return value


def optional_text(row: Row, column: str) -> str:
    """A field that may be missing (then empty) but must be text where it is there.

    Raises:
        BadRow: it is something else.
    """
    return "" if row.get(column) is None else text_of(row, column, required=False)


def present_in(row: Row) -> str:
    return ", ".join(f"`{key}`" for key, value in row.items() if value is not None) or "nothing"


def content_of(row: Row, separator: str) -> str:
    if row.get("instruction") is None and row.get("messages") is not None:
        raise BadRow("a conversation (`messages`) needs `template: datamodules.ChatTemplate`")
    parts = text_of(row, "instruction"), optional_text(row, "input")
    return separator.join(part for part in parts if part)


def system_of(row: Row, default: str | None) -> str:
    text = optional_text(row, "system")
    return text if text.strip() else default or ""


def reply_prefix_of(row: Row) -> list[Segment]:
    text = optional_text(row, "reply_prefix")
    return [Segment(text, False, starts_reply=True)] if text else []


def reply_of(row: Row) -> str:
    output, steps = text_of(row, "output", required=False), row.get("steps")
    if not output.strip():
        raise EmptyReply("empty `output`")
    if not (steps is None or isinstance(steps, str)):
        if not (isinstance(steps, list) and all(isinstance(step, str) for step in steps)):
            raise BadRow(f"`steps` is {type(steps).__name__}, not text or a list of texts")
        steps = "\n".join(steps)
    return f"{steps}\n{output}" if steps and steps.strip() else output


def reply(text: str, tokenizer: Any) -> list[Segment]:
    """A reply and the eos that ends it, as in `InstructionTemplate`."""
    return [Segment(text, True), Segment(tokenizer.eos_token, True, True)]
