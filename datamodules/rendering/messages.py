"""The messages and tools of a row, before a chat template writes them."""

import json
from typing import Any

from datamodules.rendering.segments import BadRow, DropRow, Row, content_of, present_in, reply_of

Message = dict[str, Any]


def conversation(row: Row, whole: bool) -> list[Message]:
    """A row's messages, each content a text: of `messages` or, where there are none, of `instruction`,
    `input`, `steps` and `output`. Of the whole, or without the assistant's turn at the end.

    Raises:
        DropRow: there is nothing to ask, or a message says nothing.
        BadRow: a field is missing or of another type.
    """
    messages = row.get("messages")
    if not messages and row.get("instruction") is not None:
        asked = [{"role": "user", "content": content_of(row, "\n")}]
        return [*asked, {"role": "assistant", "content": reply_of(row)}] if whole else asked
    if messages is None:
        raise BadRow(f"no `messages` (it has {present_in(row)})")
    if not isinstance(messages, list):
        raise BadRow(f"`messages` is {type(messages).__name__}, not a list")
    messages = [checked(message) for message in messages]
    messages = messages if whole else messages[: len(messages) - ends_with_answer(row)]
    if not messages:
        raise DropRow("empty `messages`" if not row["messages"] else "`messages` is an answer to nothing")
    return messages


def ends_with_answer(row: Row) -> bool:
    """Whether the assistant's turn is the last of `messages`."""
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def checked(message: Any) -> Message:
    """A message with its content as a text, or with `tool_calls` in place of it.

    Raises:
        DropRow: it has no role, or nothing in it.
        BadRow: it is something else.
    """
    if not isinstance(message, dict):
        raise BadRow(f"`messages` holds {type(message).__name__}, not role and content")
    content = message.get("content")
    if isinstance(content, list):
        message = {**message, "content": _text_of_parts(content)}
    for key in ("role", "content"):
        value = message.get(key)
        if value is None and not (key == "content" and message.get("tool_calls")):
            raise DropRow(f"a message without {key}")
        if not isinstance(value, str | None):
            raise BadRow(f"`{key}` of a message is {type(value).__name__}, not text")
    weight(message)
    return message


def weight(message: Message) -> bool:
    """Whether an assistant's turn is to be trained on: its `weight` is 1, as where it has none.

    Raises:
        BadRow: it is neither 0 nor 1.
    """
    value = message.get("weight")
    if value is not None and value not in (0, 1):
        raise BadRow(f"`weight` of a message is {value!r}: give 0 (not trained) or 1")
    return value is None or bool(value)


def says_nothing(message: Message) -> bool:
    """Whether a turn holds neither text nor a call of a tool."""
    return not ((message.get("content") or "").strip() or message.get("tool_calls"))


def tools_of(row: Row) -> list[dict[str, Any]] | None:
    """The tools that a row declares, a list or the JSON text of one.

    Raises:
        BadRow: they are something else.
    """
    tools = row.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise BadRow(f"`tools` is text but not JSON ({error.msg})") from error
    if not tools:
        return None
    if not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise BadRow("`tools` is no list of objects")
    return tools


def _text_of_parts(parts: list[Any]) -> str:
    """The texts of a content that comes in parts, one after another."""
    for part in parts:
        if not (
            isinstance(part, dict)
            and part.get("type", "text") == "text"
            and isinstance(part.get("text"), str)
        ):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise BadRow(f"`content` of a message has a part of type {kind}: only text can be trained on")
    return "".join(part["text"] for part in parts)
