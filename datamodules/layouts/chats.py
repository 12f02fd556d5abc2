"""Conversations as ShareGPT, OpenAI and others write them → `messages` of role and content."""

import json
import re
from typing import Any

from datamodules.rendering.segments import BadRow, Row

ROLES = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "bot"), "assistant"),
    **dict.fromkeys(("observation", "function", "function_response", "tool_response"), "tool"),
}
CALLS = ("function_call", "tool_call")


def from_json(value: Any) -> Any:
    """A list that a column holds as JSON text, as CSV does; any other value as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def messages_of(turns: list[Any]) -> tuple[list[Any], bool]:
    """Turns as messages of role and content, and whether they were written in another way. What is neither
    is left as it is, for whoever checks messages.

    Raises:
        BadRow: a call of a function that is no JSON of name and arguments.
    """
    messages = [_message(turn) if isinstance(turn, dict) else turn for turn in turns]
    return messages, messages != turns


def _message(turn: dict[str, Any]) -> dict[str, Any]:
    role_key = "from" if turn.get("role") is None and "from" in turn else "role"
    text_key = "value" if turn.get("content") is None and "value" in turn else "content"
    role = turn.get(role_key)
    if not isinstance(role, str):
        return turn
    known = role.strip().lower()
    other = {key: value for key, value in turn.items() if key not in (role_key, text_key)}
    content = turn.get(text_key)
    if known in CALLS:
        return {**other, "role": "assistant", "content": "", "tool_calls": _calls(content, known)}
    message = {**other, "role": ROLES.get(known, role if role_key == "role" else known), "content": content}
    if text_key not in turn:
        del message["content"]
    if isinstance(call := turn.get("function_call"), dict):  # as OpenAI wrote it before tools
        del message["function_call"]
        message["tool_calls"] = [{"type": "function", "function": call}]
    return message


def _calls(content: Any, role: str) -> list[dict[str, Any]]:
    try:
        calls = json.loads(content) if isinstance(content, str) else content
    except ValueError:
        calls = None
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and "name" in call for call in calls):
        raise BadRow(f"a turn from `{role}` is no JSON of name and arguments")
    return [{"type": "function", "function": call} for call in calls]


def tools_from(row: Row) -> Row:
    """`tools` out of `functions`, as OpenAI called them before."""
    functions = from_json(row.get("functions"))
    if not isinstance(functions, list) or row.get("tools") is not None:
        return {}
    return {"tools": [{"type": "function", "function": function} for function in functions]}


def is_transcript(text: Any) -> bool:
    """Whether a text is a conversation as HH-RLHF writes it."""
    return (
        isinstance(text, str)
        and text.lstrip().startswith(("Human:", "Assistant:"))
        and text.startswith("\n\n")
        and "\n\nAssistant:" in text
    )


def transcript(text: str) -> list[dict[str, str]]:
    """The messages of a transcript; an answer that is still to come at its end is none."""
    _, *parts = re.split(r"\n\n(Human|Assistant):", text)
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [
        {"role": roles[role], "content": content.strip()}
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]
    return messages[:-1] if messages[-1] == {"role": "assistant", "content": ""} else messages
