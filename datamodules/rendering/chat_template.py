"""Conversations through the tokenizer's own chat template."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

from jinja2 import TemplateError
from lightning.pytorch.utilities import rank_zero_info

from datamodules.rendering.segments import (
    BadRow,
    DropRow,
    EmptyReply,
    Row,
    Segment,
    content_of,
    present_in,
    reply_of,
    reply_prefix_of,
    system_of,
)
from datamodules.rendering.special_tokens import Disguise
from datamodules.rendering.templates import Template

PROBE = ("Tell-Trivium-this", "Trivium-says-this")  # a question and its answer, that no template trims


def turn_end(tokenizer: Any) -> int | None:
    """The id of the token with which the chat template ends an assistant's turn where that is not the
    tokenizer's eos, such as ChatML's `<|im_end|>` on a base model; None where it is, where no token ends a
    turn, and without a template. Found by rendering a conversation; told once in the log."""
    return _turn_end(tokenizer, len(tokenizer), str(tokenizer.chat_template), tokenizer.eos_token)


@lru_cache(maxsize=8)
def _turn_end(tokenizer: Any, size: int, chat_template: str, eos: str) -> int | None:
    if not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": PROBE[0]}, {"role": "assistant", "content": PROBE[1]}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # as many kinds as there are templates: the rows tell what is wrong with this one
        return None
    rest = text.rpartition(PROBE[1])[2] if PROBE[1] in text else ""
    ids = {str(token): token_id for token_id, token in tokenizer.added_tokens_decoder.items()}
    written = [token for token in [*ids, eos] if token in rest]
    end = min(written, key=lambda token: (rest.index(token), -len(token)), default=eos)
    if end == eos:
        return None
    rank_zero_info(f"The chat template ends a turn with {end} (eos is {eos}): so does every reply.")
    return ids[end]


class ChatTemplate(Template):
    """Rows `messages` (a list of role and content) through the tokenizer's own chat template; a row of
    `instruction`, `input`, `steps` and `output` is a user's message and an assistant's (which continues
    `reply_prefix`, as in `InstructionTemplate`).

    A reply ends at the template's eos, what the template writes after it is given; where the template writes
    none, no segment of eos follows the reply. Special tokens that people wrote stay plain text.

    Args:
        train_on: `all` assistant turns or the `last` alone.
        system: the system message of conversations that have none; a row's column `system` goes before it.
    """

    def __init__(self, train_on: Literal["all", "last"] = "all", system: str | None = None):
        self.train_on = train_on
        self.system = system

    def __repr__(self) -> str:
        return f"ChatTemplate({self.train_on!r}, {self.system!r})"

    def segments(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        messages = self._messages(row, whole=True)
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        turns = turns[-1:] if self.train_on == "last" else turns
        if not turns:
            raise DropRow("no assistant turn")
        if turns[0] == 0:
            raise DropRow("the conversation begins with the assistant: nothing to reply to")
        hidden, disguise = _hidden(messages, tokenizer)
        before = _render(tokenizer, [hidden[:turn] for turn in turns], True)
        after = _render(tokenizer, [hidden[: turn + 1] for turn in turns], False)
        if not all(messages[turn]["content"].strip() for turn in turns):
            raise EmptyReply("empty reply")
        segments = _cut(before, after, disguise, tokenizer.eos_token)
        if row.get("messages"):
            return segments
        start = [segment.trained for segment in segments].index(True)
        return segments[:start] + reply_prefix_of(row) + segments[start:]

    def prompt(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        messages = self._messages(row, whole=False)
        hidden, disguise = _hidden(messages, tokenizer)
        (text,) = _render(tokenizer, [hidden], True)
        return disguise.segments(text, False) + reply_prefix_of(row)

    def _messages(self, row: Row, whole: bool) -> list[dict[str, Any]]:
        messages = _conversation(row, whole)
        system = system_of(row, self.system)
        if not system or any(message["role"] == "system" for message in messages):
            return messages
        return [{"role": "system", "content": system}, *messages]


def _conversation(row: Row, whole: bool) -> list[dict[str, Any]]:
    """A row's messages; `whole`: with the reply where they come from `instruction` and `output`."""
    messages = row.get("messages")
    if not messages and row.get("instruction") is not None:
        asked = [{"role": "user", "content": content_of(row, "\n")}]
        return [*asked, {"role": "assistant", "content": reply_of(row)}] if whole else asked
    if messages is None:
        raise BadRow(f"no `messages` (it has {present_in(row)})")
    if not isinstance(messages, list):
        raise BadRow(f"`messages` is {type(messages).__name__}, not a list")
    if not messages:
        raise DropRow("empty `messages`")
    for message in messages:
        _check_message(message)
    return messages


def _check_message(message: Any) -> None:
    if not isinstance(message, dict):
        raise BadRow(f"`messages` holds {type(message).__name__}, not role and content")
    for key in ("role", "content"):
        if message.get(key) is None:
            raise DropRow(f"a message without {key}")
        if not isinstance(message[key], str):
            raise BadRow(f"`{key}` of a message is {type(message[key]).__name__}, not text")


def _hidden(messages: list[dict[str, Any]], tokenizer: Any) -> tuple[list[dict[str, Any]], Disguise]:
    texts: list[str] = []
    _mapped(messages, texts.append)
    disguise = Disguise(tokenizer, texts, [str(tokenizer.chat_template)])
    return (_mapped(messages, disguise.put_on) if disguise.tokens else messages), disguise


def _render(tokenizer: Any, conversations: list[list[dict[str, Any]]], open_reply: bool) -> list[str]:
    if not tokenizer.chat_template:
        raise BadRow("the tokenizer has no chat template: use InstructionTemplate, or give it one")
    try:
        return tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=open_reply)
    except (TemplateError, TypeError) as error:  # a template raises on roles that it does not know
        raise DropRow(str(error)) from error


def _cut(before: list[str], after: list[str], disguise: Disguise, eos: str) -> list[Segment]:
    """Alternating given and trained text, from each reply's conversation `before` and `after` it."""
    segments, done = [], ""
    for given, all_of_it in zip(before, after, strict=True):
        if not (given.startswith(done) and all_of_it.startswith(given)):
            raise DropRow("the chat template changes earlier turns, so the reply's boundary is unknown")
        text, end, rest = all_of_it[len(given) :].rpartition(eos)
        text, rest = (text, rest) if end else (rest, "")
        segments += disguise.segments(given[len(done) :], False) + disguise.segments(text, True)
        segments += [Segment(eos, True, True)] if end else []
        done = all_of_it[: len(all_of_it) - len(rest)]
    return segments


def _mapped(value: Any, change: Callable[[str], Any]) -> Any:
    """The same lists and dicts with every text in them changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return {key: _mapped(item, change) for key, item in value.items()} if isinstance(value, dict) else value
