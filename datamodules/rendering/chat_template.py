"""Conversations through the tokenizer's own chat template."""

from datetime import date
from functools import lru_cache
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info

from datamodules.rendering.conversation import Conversation, writes_a_date
from datamodules.rendering.message_keys import extra_keys
from datamodules.rendering.messages import (
    Message,
    checked,
    conversation,
    ends_with_answer,
    says_nothing,
    tools_of,
    weight,
)
from datamodules.rendering.segments import DropRow, EmptyReply, Reply, Row, Segment, optional_text, system_of
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
    rank_zero_info(f"The chat template ends a turn with {end} (eos is {eos}): so do replies through it.")
    return ids[end]


class ChatTemplate(Template):
    """Rows `messages` (role and content each) and `tools` through the tokenizer's own chat template. A row of
    `instruction`, `input`, `steps` and `output` is a user's message and an assistant's, which continues
    `reply_prefix`, as in `InstructionTemplate`.

    The tokens are those of the whole text that the template writes. A reply is what it writes after its
    generation prompt, up to its eos or turn end; what it writes after that is given. So is an assistant's
    turn of `weight` 0 and one that begins the conversation. Special tokens that people wrote stay plain text.
    A prompt is the conversation without the assistant's turn at its end.

    Args:
        train_on: `all` assistant turns or the `last` alone.
        system: the system message of conversations that have none; a row's column `system` goes before it.
        date: the day, as `2026-01-31`, for chat templates that write today's date; None = today, and tomorrow
            another text, so another cache.
    """

    def __init__(
        self, train_on: Literal["all", "last"] = "all", system: str | None = None, date: str | None = None
    ):
        self.train_on = train_on
        self.system = system
        self.date = date

    def __repr__(self) -> str:
        return f"ChatTemplate({self.train_on!r}, {self.system!r})"

    def key(self, tokenizer: Any) -> str:
        return f"{self!r} on {self._day()}" if writes_a_date(tokenizer) else repr(self)

    def config_errors(self) -> list[str]:
        try:
            self._day()
        except ValueError:
            return [f"data.template.date is {self.date!r}: give a day as 2026-01-31"]
        return []

    def segments(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        messages = conversation(row, whole=True)
        turns = self._trained(messages)
        prefix = "" if row.get("messages") else optional_text(row, "reply_prefix")
        return self._replies(row, messages, turns, prefix, tokenizer)

    def prompt(self, row: Row, number: int, tokenizer: Any) -> list[Segment]:
        messages = conversation(row, whole=False)
        return self._conversation(row, messages, optional_text(row, "reply_prefix"), tokenizer).prompt()

    def answered(self, row: Row, reply_text: Reply, number: int, tokenizer: Any) -> list[Segment]:
        asked = conversation(row, whole=False)
        messages = [*asked, self._message(reply_text)]
        return self._replies(row, messages, [len(asked)], optional_text(row, "reply_prefix"), tokenizer)

    def changes(self, row: Row, number: int, asked: bool) -> list[str]:
        if not row.get("messages"):
            return []
        if asked:
            return ["a chat's answer left out of its prompt"] if ends_with_answer(row) else []
        replies = [m for m in row["messages"] if m["role"] == "assistant"]
        replies = replies if self.train_on == "all" else replies[-1:]
        changes = ["an assistant's turn of weight 0 not trained"] if not all(map(weight, replies)) else []
        begins = row["messages"][0]["role"] == "assistant" and self.train_on == "all"
        return changes + (["an assistant's turn that begins a chat not trained"] if begins else [])

    def unread(self, row: Row, number: int, tokenizer: Any, reply_text: Reply | None = None) -> list[str]:
        if not extra_keys(
            [*(row.get("messages") or []), *([reply_text] if isinstance(reply_text, dict) else [])]
        ):
            return []
        messages = conversation(row, whole=reply_text is None)
        if reply_text is None:
            turns = self._trained(messages)
        else:
            messages, turns = [*messages, self._message(reply_text)], [len(messages)]
        chat = self._conversation(row, messages[: turns[-1] + 1], "", tokenizer)
        before = len(chat.messages) - turns[-1] - 1  # a system message of ours
        return chat.unread([turn + before for turn in turns])

    def _message(self, reply_text: Reply) -> Message:
        return checked(
            {"role": "assistant", "content": reply_text} if isinstance(reply_text, str) else reply_text
        )

    def _trained(self, messages: list[Message]) -> list[int]:
        """The turns to train, by their places."""
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            raise DropRow("no assistant turn")
        turns = [i for i in turns if i]
        if not turns:
            raise DropRow("the conversation begins with the assistant: nothing to reply to")
        turns = turns[-1:] if self.train_on == "last" else turns
        turns = [turn for turn in turns if weight(messages[turn])]
        if not turns:
            raise DropRow("every assistant turn has weight 0")
        return turns

    def _replies(
        self, row: Row, messages: list[Message], turns: list[int], prefix: str, tokenizer: Any
    ) -> list[Segment]:
        if any(says_nothing(messages[turn]) for turn in turns):
            raise EmptyReply("empty reply")
        end = turn_end(tokenizer)
        ends = [] if end is None else [tokenizer.convert_ids_to_tokens(end)]
        last = {**messages[turns[-1]]}
        if prefix:
            last["content"] = prefix + (last.get("content") or "")
        written = [*messages[: turns[-1]], last]
        chat = self._conversation(row, written, prefix, tokenizer)
        before = len(chat.messages) - len(written)  # a system message of ours
        return chat.replies([turn + before for turn in turns], [*ends, tokenizer.eos_token])

    def _conversation(self, row: Row, messages: list[Message], prefix: str, tokenizer: Any) -> Conversation:
        system = system_of(row, self.system)
        if system and not any(message["role"] == "system" for message in messages):
            messages = [{"role": "system", "content": system}, *messages]
        return Conversation(messages, tools_of(row), prefix, tokenizer, self._day())

    def _day(self) -> date:
        return _today() if self.date is None else date.fromisoformat(self.date)


@lru_cache(maxsize=1)
def _today() -> date:
    """The day on which this process first asked, so that all of a run's texts have one date."""
    return date.today()
