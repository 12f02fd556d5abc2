"""Conversations as ShareGPT, OpenAI and others write them → `messages` of role and content."""

import ast
import json
import re
from itertools import cycle
from typing import Any

from datamodules.layouts.gemini import gemini_messages, gemini_tools
from datamodules.layouts.moss import moss_turns
from datamodules.layouts.parts import CALLED, declared, item_messages, part_messages
from datamodules.layouts.vocabulary import QUESTIONS, REPLIES
from datamodules.layouts.written import without_speakers, written_turns
from datamodules.rendering.segments import BadRow, Row

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "chatbot", "model"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response", "tool_response"), "tool"),
    "system": "system",
}
ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
TEXT_KEYS = ("content", "value", "text", "message", "utterance")
TURNS = (
    *((user, bot) for user in ("human", "user") for bot in ("assistant", "gpt", "bot", "chatbot")),
    ("input", "output"),
    ("instruction", "output"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("query", "response"),
    ("q", "a"),
    ("Q", "A"),
    ("ask", "answer"),
    ("message_1", "message_2"),
)
"""keys of a turn that says what is asked and what is answered"""
CHATS = ("messages", "conversations", "conversation")
ALSO_CHATS = (
    *("dialog", "dialogue", "turns", "chat", "contents", "items", "data", "context", "plain_text", "input"),
    *("context_messages", "trajectory"),
)
"""columns of conversations, and those that may hold something else"""
WRITTEN = ("chat", "transcript", "sample", "text", "dialogue")
"""columns that may hold a conversation in one text, where nothing else in the row asks"""
NOT_TRAINED = ("train", "loss")
"""keys that say of an assistant's turn whether it is to be trained on, as OpenAI's `weight` does"""
IN_TURN = ("conversations", "conversation", "data", "history")
"""columns in which texts alone are the user's and the assistant's in turn"""
TREE = ("text", "replies")
"""keys of a message in an OpenAssistant tree"""
CALLS = ("function_call", "tool_call")


def from_json(value: Any) -> Any:
    """A list that a column holds as JSON text, as CSV does, or one of objects as Python prints it; any other
    value as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return _printed(value)
    return value


def _printed(text: str) -> Any:
    """What pandas writes of a list of objects into a CSV; any other text as it is."""
    if re.match(r"\s*\[\s*\{\s*'", text) is None:
        return text
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def turns_of(row: Row, column: str) -> Any:
    """What a column holds as a list of turns; any other value as it is."""
    value = from_json(row.get(column))
    if turns := moss_turns(value, row):
        return turns
    alone = column == "input" and not any(row.get(name) is not None for name in (*QUESTIONS, *REPLIES))
    if isinstance(value, str) and (alone or column in (*CHATS, *WRITTEN)):
        return written_turns(value) or value
    if isinstance(value, dict):
        return _transposed(value)
    if column in IN_TURN and isinstance(value, list) and all(isinstance(turn, str) for turn in value):
        said = zip(without_speakers(value), cycle(("user", "assistant")), strict=False)
        return [{"role": role, "content": text} for text, role in said]
    return value


def _transposed(value: dict[str, Any]) -> Any:
    """Turns that come as a list of speakers and one of texts, as `datasets` stores them; any other value as
    it is."""
    keys = [next((key for key in names if key in value), "") for names in (ROLE_KEYS, TEXT_KEYS)]
    lists = [value[key] for key in keys if isinstance(value.get(key), list)]
    if len(lists) < 2 or len(lists[0]) != len(lists[1]):
        return value
    return [dict(zip(keys, turn, strict=True)) for turn in zip(*lists, strict=True)]


def chat_columns(row: Row) -> list[str]:
    """The columns of a row that hold conversations."""
    sure = [column for column in CHATS if row.get(column) is not None]
    return sure + [column for column in ALSO_CHATS if row.get(column) is not None and _is_chat(row, column)]


def written_column(row: Row) -> str | None:
    """The column that holds a conversation in one text, of a row in which nothing else asks."""
    texts = (column for column in WRITTEN if isinstance(row.get(column), str))
    return next((column for column in texts if _is_chat(row, column)), None)


def _is_chat(row: Row, column: str) -> bool:
    try:
        return has_turns(turns_of(row, column))
    except BadRow:  # a conversation of which a turn cannot be read, as whoever reads it says
        return True


def has_turns(value: Any) -> bool:
    """Whether a value is a list of turns of which each says who speaks."""
    if not isinstance(value, list) or not value:
        return False
    messages, known = messages_of(value)[0], [*ROLES.values()]  # a role may be no text at all
    return all(isinstance(message, dict) and message.get("role") in known for message in messages)


def messages_of(turns: list[Any]) -> tuple[list[Any], bool]:
    """Turns as messages of role and content, and whether they were written in another way. What is neither
    is left as it is, for whoever checks messages.

    Raises:
        BadRow: a call of a function that is no JSON of name and arguments.
    """
    messages = [message for turn in turns for message in _messages(turn)]
    return messages, messages != turns


def _messages(turn: Any) -> list[Any]:
    """The messages of a turn: one, or a question and its answer."""
    if isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn):
        turn = dict(zip(("user", "assistant"), turn, strict=True))
    if not isinstance(turn, dict):
        return [turn]
    if turn.get("parts") is not None:
        role = str(turn.get("role") or "user").strip().lower()
        return gemini_messages(turn, ROLES.get(role, role))
    if turn.get("type") in CALLED:
        return item_messages(turn)
    if any(turn.get(key) is not None for key in ROLE_KEYS):
        return part_messages(message := _message(turn)) or [message]
    if pair := asked_and_answered(turn):
        said = {"system": turn.get("system") or None, "user": turn[pair[0]], "assistant": turn[pair[1]]}
        return [{"role": role, "content": text} for role, text in said.items() if text is not None]
    if len(turn) == 1 and ROLES.get((key := next(iter(turn))).strip().lower()):
        return [_message({"role": key, "content": turn[key]})]
    return [turn]


def asked_and_answered(row: Row) -> tuple[str, str] | None:
    """The columns, or keys of a turn, that hold a question and its answer."""
    return next((pair for pair in TURNS if all(row.get(key) is not None for key in pair)), None)


def _message(turn: dict[str, Any]) -> dict[str, Any]:
    role_key = next(key for key in ROLE_KEYS if turn.get(key) is not None)
    text_key = next((key for key in TEXT_KEYS if turn.get(key) is not None), "content")
    role = turn[role_key]
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
    for key in NOT_TRAINED:
        if isinstance(turn.get(key), bool):
            message["weight"] = int(message.pop(key))
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
    """`tools` out of `functions`, as OpenAI called them before, or out of Gemini's, Anthropic's or
    Bedrock's."""
    tools = from_json(row.get("tools"))
    if (other := gemini_tools(tools) or declared(tools)) is not None:
        return {"tools": other}
    functions = from_json(row.get("functions"))
    if not isinstance(functions, list) or row.get("tools") is not None:
        return {}
    return {"tools": [{"type": "function", "function": function} for function in functions]}


def is_transcript(text: Any) -> bool:
    """Whether a text is a conversation as HH-RLHF writes it, or, on lines, BELLE."""
    if not isinstance(text, str) or not text.lstrip().startswith(("Human:", "Assistant:")):
        return False
    if text.startswith("\n\n"):
        return "\n\nAssistant:" in text
    return text.startswith("Human:") and text.rstrip().endswith("\nAssistant:")


def transcript(text: str) -> list[dict[str, str]]:
    """The messages of a transcript; an answer that is still to come at its end is none."""
    mark = r"\n\n(Human|Assistant):" if text.startswith("\n\n") else r"(?:^|\n)(Human|Assistant):"
    _, *parts = re.split(mark, text)
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [
        {"role": roles[role], "content": content.strip()}
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]
    return messages[:-1] if messages[-1] == {"role": "assistant", "content": ""} else messages


def is_tree(value: Any) -> bool:
    """Whether a value is the first message of an OpenAssistant tree."""
    return isinstance(value, dict) and all(key in value for key in TREE)


def best_path(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation of a tree that people liked best: at every message its reply of the first rank, up to
    an answer."""
    messages: list[dict[str, Any]] = []
    node: dict[str, Any] | None = tree
    while node is not None:
        messages.append(_message({"role": node.get("role"), "content": node.get("text")}))
        node = next(iter(ranked(node)), None)
    return messages if len(messages) == 1 or messages[-1]["role"] == "assistant" else messages[:-1]


def ranked(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The replies to a message of a tree, the best first; those that nobody ranked are last."""
    replies = [reply for reply in node.get("replies") or () if is_tree(reply) and not reply.get("deleted")]
    return sorted(replies, key=lambda reply: (reply.get("rank") is None, reply.get("rank") or 0))


def is_flat(row: Row) -> bool:
    """Whether a row is one message of an OpenAssistant tree."""
    return {"message_id", "parent_id", "role", "text"} <= {*row} and row.get("replies") is None
