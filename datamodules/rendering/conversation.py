"""One conversation as the tokenizer's chat template writes it, and where in that text its replies are."""

import os
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError

from datamodules.rendering.message_keys import THOUGHTS, extra_keys, may_write, with_thoughts
from datamodules.rendering.messages import Message
from datamodules.rendering.segments import BadRow, DropRow, Segment
from datamodules.rendering.special_tokens import Disguise

NOW = "strftime_now("  # what transformers gives templates to write a date with
REWRITTEN = (
    "the chat template changes earlier turns, so the reply's boundary is unknown: train_on: last may do"
)


class Reply(NamedTuple):
    """Where a reply is in a text."""

    start: int
    end: int
    """where its end token begins, if it has one"""
    stop: int
    """where it is over"""


class Conversation:
    """Messages, hidden special tokens of people in them, and the template that writes them.

    Args:
        messages: with texts as contents.
        tools: that the template is given, or None.
        prefix: the given start of a last reply, or nothing.
        tokenizer: with a chat template.
        day: in place of today.

    Raises:
        BadRow: the tokenizer has no chat template, or one that computes how it writes the time.
    """

    def __init__(
        self,
        messages: list[Message],
        tools: list[dict[str, Any]] | None,
        prefix: str,
        tokenizer: Any,
        day: date,
    ):
        if not tokenizer.chat_template:
            raise BadRow("the tokenizer has no chat template: use InstructionTemplate, or give it one")
        self.tokenizer = tokenizer
        self.template = _dated(tokenizer.get_chat_template(None, tools), day)
        messages = with_thoughts(messages, self.template)
        texts: list[str] = []
        _mapped([messages, tools, prefix], texts.append)
        self.disguise = Disguise(tokenizer, texts, [self.template])
        hide = self.disguise.put_on if self.disguise.tokens else str
        self.messages: list[Message] = _mapped(messages, hide)
        self.tools: list[dict[str, Any]] | None = _mapped(tools, hide)
        self.prefix = hide(prefix)

    def replies(self, turns: Sequence[int], ends: Sequence[str]) -> list[Segment]:
        """The text up to the end of the last reply.

        Args:
            turns: the messages that are trained; the last begins with the prefix.
            ends: tokens that end a reply, the first that is there counts.

        Raises:
            DropRow: the template cannot write it, or where a reply is in it is unknown.
        """
        earlier = self._assistants(turns[-1])
        texts = self._written([self.messages[:turn] for turn in earlier], True)
        opened = dict(zip(earlier, texts, strict=True))
        closed = self._written([self.messages[: turn + 1] for turn in turns], False)
        whole = closed[-1]
        self._check_tools(self.messages[: turns[-1] + 1], whole, False)
        replies = []
        for turn, text in zip(turns, closed, strict=True):
            before = self._prefixed(turn) if self.prefix and turn == turns[-1] else opened[turn]
            if not text.startswith(before):
                raise DropRow(self._mismatch(turn, before, text))
            reply = _reply(text, len(before), ends)
            if not whole.startswith(text[: reply.stop]):
                raise DropRow(REWRITTEN)
            replies.append(reply)
        starts = [len(text) for text in opened.values() if whole.startswith(text)]
        return self._segments(whole[: replies[-1].stop], starts, replies)

    def prompt(self) -> list[Segment]:
        """What a reply to all messages continues, with its given start. Errors as of `replies`."""
        turns = [*self._assistants(len(self.messages) - 1), len(self.messages)]
        opened = self._written([self.messages[:turn] for turn in turns], True)
        whole = self._prefixed(turns[-1]) if self.prefix else opened[-1]
        self._check_tools(self.messages, opened[-1], True)
        starts = [len(text) for text in opened if whole.startswith(text) and len(text) < len(whole)]
        return self._segments(whole, starts, [])

    def unread(self, turns: Sequence[int]) -> list[str]:
        """Keys under which messages say something that the template does not write: of thoughts each of these
        turns, of any other a message at least. Errors as of `replies`."""
        extra = extra_keys(self.messages) - {*THOUGHTS}
        unread = [key for key in sorted(extra) if not may_write(key, self.template, self.tokenizer)]
        for turn in turns:
            message, before = self.messages[turn], self.messages[:turn]
            for key in (key for key in THOUGHTS if message.get(key)):
                without = {name: value for name, value in message.items() if name != key}
                if (
                    not may_write(key, self.template, self.tokenizer)
                    or len({*self._written([[*before, message], [*before, without]], False)}) < 2
                ):
                    unread.append(key)
        return unread

    def _assistants(self, last: int) -> list[int]:
        """The assistant's turns up to this message that follow another message."""
        roles = [message["role"] for message in self.messages[: last + 1]]
        return [turn for turn, role in enumerate(roles) if turn and role == "assistant"]

    def _prefixed(self, turn: int) -> str:
        """The text up to the end of a reply's given start; the template may write things in front of that."""
        mark = self.disguise.unused()
        start = {"role": "assistant", "content": self.prefix + mark}
        (text,) = self._written([[*self.messages[:turn], start]], False)
        if text.count(mark) != 1:
            raise DropRow("the chat template changes what a reply says: where `reply_prefix` ends is unknown")
        return text.partition(mark)[0]

    def _check_tools(self, messages: list[Message], text: str, open_reply: bool) -> None:
        """Refuses a template that leaves tools out."""
        if self.tools and self._written([messages], open_reply, tools=False) == [text]:
            raise DropRow(
                "the chat template does not write the row's `tools`: leave the column out, or give the "
                "tokenizer a template that does"
            )
        if any(message.get("tool_calls") for message in messages):
            without = [{**m, "content": m.get("content") or "", "tool_calls": []} for m in messages]
            if self._written([without], open_reply) == [text]:
                raise DropRow(
                    "the chat template does not write `tool_calls`: give the tokenizer one that does"
                )

    def _written(self, conversations: list[list[Message]], open_reply: bool, tools: bool = True) -> list[str]:
        if not conversations:
            return []
        try:
            return self.tokenizer.apply_chat_template(
                conversations,
                tools=self.tools if tools else None,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=open_reply,
            )
        except Exception as error:  # what a template computes can fail in any way
            reason = " ".join(str(error).split())
            if type(error) is TemplateError:  # it refuses, as it may a role that it does not know
                raise DropRow(reason) from error
            if any(message.get("content") is None for message in conversations[-1]):
                raise DropRow(f"the chat template cannot write `content: null`: {reason}") from error
            raise BadRow(f"the chat template fails: {type(error).__name__}: {reason}") from error

    def _mismatch(self, turn: int, before: str, after: str) -> str:
        """Why a turn does not begin as its generation prompt says."""
        (asked,) = self._written([self.messages[:turn]], False)
        same = len(os.path.commonprefix([before, after]))
        if not before.startswith(asked) or same < len(asked):
            return REWRITTEN
        return (
            f"the chat template opens a reply with {before[same:]!r} but writes an assistant's turn without "
            "it, so what is sampled would not be what is trained: give the tokenizer a template whose turns "
            "begin as its generation prompt does"
        )

    def _segments(self, text: str, starts: list[int], replies: list[Reply]) -> list[Segment]:
        """Alternating given and trained text; a given reply begins a segment of its own."""
        segments: list[Segment] = []
        trained = {reply.start: reply for reply in replies}
        done, begins = 0, False

        def give(until: int) -> None:
            given = self.disguise.segments(text[done:until], False)
            segments.extend(given[:1] if not begins else [s._replace(starts_reply=True) for s in given[:1]])
            segments.extend(given[1:])

        for place in sorted({*starts, *trained}):
            if place < done:
                continue
            give(place)
            done, begins = place, True
            if place in trained:
                _, end, stop = trained[place]
                segments += self.disguise.segments(text[place:end], True)
                segments += [Segment(text[end:stop], True, True)] if stop > end else []
                done, begins = stop, False
        give(len(text))
        return segments


def writes_a_date(tokenizer: Any) -> bool:
    """Whether the chat template's texts depend on the day."""
    return NOW in str(tokenizer.chat_template)


@lru_cache(maxsize=8)
def _dated(template: str, day: date) -> str:
    """A chat template with the day in place of the current time."""
    moment = datetime.combine(day, time())
    pattern = re.escape(NOW) + r"""\s*(['"])([^'"]*)\1\s*\)"""
    dated = re.sub(pattern, lambda call: repr(moment.strftime(call[2])), template)
    if NOW in dated:
        raise BadRow(
            "the chat template writes the time in a format that it computes, so the text would change from "
            f"run to run: give the tokenizer one that calls {NOW}'...') with a plain text"
        )
    return dated


def _reply(text: str, start: int, ends: Sequence[str]) -> Reply:
    for token in ends:
        place = text.rfind(token, start)
        if place >= 0:
            return Reply(start, place, place + len(token))
    return Reply(start, len(text), len(text))


def _mapped(value: Any, change: Callable[[str], Any]) -> Any:
    """The same lists and dicts with every text in them changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return {key: _mapped(item, change) for key, item in value.items()} if isinstance(value, dict) else value
