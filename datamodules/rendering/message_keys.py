"""What messages hold beside role and content: which of it a chat template writes, and thoughts under the name
that it reads them by."""

import re
from functools import lru_cache
from typing import Any

from datamodules.rendering.messages import Message

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""keys of what a model thought before it replied, as models' templates and servers name them"""
READ = {"role", "content", "weight", "tool_calls", "tool_call_id"}
"""keys that need no word: Trivium reads them, refuses what is lost with them, or they name a result's call"""
MARK = "Trivium-looks-for-this"
LOST = (
    "a turn's `{key}` not trained: the chat template does not write it (put it into `content`, or give the "
    "tokenizer a template that does)"
)


def extra_keys(messages: list[Any]) -> set[str]:
    """Keys beside the usual ones under which a message says something."""
    said = [{key for key, value in m.items() if value not in (None, "", [], {})} for m in messages]
    return set().union(*said) - READ


def with_thoughts(messages: list[Message], template: str) -> list[Message]:
    """Messages whose thoughts are called as the template reads them."""
    read = [key for key in THOUGHTS if _is_named(key, template)]
    if not read or not any(extra_keys([message]) & {*THOUGHTS} for message in messages):
        return messages
    return [_renamed(message, read) for message in messages]


def _renamed(message: Message, read: list[str]) -> Message:
    given = next((key for key in THOUGHTS if message.get(key)), None)
    if given is None or any(message.get(key) for key in read):
        return message
    return {**{key: value for key, value in message.items() if key != given}, read[0]: message[given]}


@lru_cache(maxsize=256)
def _is_named(key: str, template: str) -> bool:
    return re.search(rf"\.{re.escape(key)}\b|(['\"]){re.escape(key)}\1", template) is not None


@lru_cache(maxsize=256)
def may_write(key: str, template: str, tokenizer: Any) -> bool:
    """Whether a chat template reads a key of messages by name, or writes whatever they hold."""
    if _is_named(key, template):
        return True
    turn = {"content": "x", key: MARK}
    messages = [{"role": "user", **turn}, {"role": "assistant", **turn}]
    try:
        return MARK in tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    except Exception:  # as many kinds as there are templates: the rows tell what is wrong with this one
        return False
