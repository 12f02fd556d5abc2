"""From a row to the segments of a conversation: which text is given, which is trained on."""

import re
from typing import Any, NamedTuple

from datamodules.tokenizer import bos, tokenize

HIDDEN = 0xE000  # the first private-use character


class Segment(NamedTuple):
    """A piece of a conversation, tokenised on its own so that no token spans a boundary."""

    ids: list[int]
    """token ids; a trained segment ends with eos"""
    trained: bool
    """True for a reply"""


class InstructionTemplate:
    """Rows `instruction`, `input` (optional), `output` in one fixed format.

    Args:
        prompt: the format; `{content}` is the instruction followed by the input.
        separator: between instruction and input.
    """

    columns: tuple[str, ...] = ("instruction", "output")

    def __init__(
        self, prompt: str = "### Instruction:\n{content}\n\n### Response:\n", separator: str = "\n"
    ) -> None:
        self.format = prompt
        self.separator = separator

    def problems(self) -> list[str]:
        """What makes the template impossible, a line each."""
        if "{content}" in self.format:
            return []
        return ["data.template.prompt has no {content}: the instruction would be lost"]

    def __repr__(self) -> str:
        return f"InstructionTemplate({self.format!r}, {self.separator!r})"

    def prompt(self, row: dict[str, Any], tokenizer: Any) -> list[int]:
        """The ids that a reply continues; `reply_prefix` of the row, if any, is the given start of the
        reply."""
        content = self.separator.join(part for part in (row["instruction"], row.get("input")) if part)
        before, after = self.format.split("{content}", 1)
        ids = bos(tokenizer) + tokenize(tokenizer, before + content + after)
        return ids + tokenize(tokenizer, row.get("reply_prefix") or "")

    def segments(self, row: dict[str, Any], tokenizer: Any) -> list[Segment]:
        """Prompt, then the reply with its eos."""
        reply = tokenize(tokenizer, row["output"])
        return [Segment(self.prompt(row, tokenizer), False), Segment([*reply, tokenizer.eos_token_id], True)]


class ChatTemplate:
    """Rows `messages` (a list of role and content) through the tokenizer's own chat template; every assistant
    turn is trained on."""

    columns: tuple[str, ...] = ("messages",)

    def problems(self) -> list[str]:
        """What makes the template impossible, a line each."""
        return []

    def __repr__(self) -> str:
        return "ChatTemplate()"

    def prompt(self, row: dict[str, Any], tokenizer: Any) -> list[int]:
        """The ids that a reply continues: all messages, with the opening of an assistant turn."""
        messages = row["messages"] if row.get("messages") else _one_turn(row)
        text = _render(tokenizer, _hidden(tokenizer, messages), True)
        return _ids(tokenizer, text) + tokenize(tokenizer, row.get("reply_prefix") or "")

    def segments(self, row: dict[str, Any], tokenizer: Any) -> list[Segment]:
        """Alternating given and trained text; a reply ends at the template's eos, or with one of its own.

        Raises:
            ValueError: no messages, no assistant turn, an empty reply, or a template that rewrites what it
                rendered before.
        """
        if not row["messages"]:
            raise ValueError("empty `messages`")
        messages, segments, done = _hidden(tokenizer, row["messages"]), [], ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            if not (message["content"] or "").strip():
                raise ValueError("empty reply")
            before = _render(tokenizer, messages[:index], True)
            after = _render(tokenizer, messages[: index + 1], False)
            if not (before.startswith(done) and after.startswith(before)):
                raise ValueError(
                    "the chat template changes earlier turns, so the reply's boundary is unknown"
                )
            reply = after[len(before) :]
            end = reply.rfind(tokenizer.eos_token)
            reply, rest = (reply, "") if end < 0 else (reply[:end], reply[end + len(tokenizer.eos_token) :])
            segments.append(Segment(_ids(tokenizer, before[len(done) :]), False))
            segments.append(Segment([*_ids(tokenizer, reply), tokenizer.eos_token_id], True))
            done = after[: len(after) - len(rest)]
        if not segments:
            raise ValueError("no assistant turn")
        return segments


Template = InstructionTemplate | ChatTemplate


def _one_turn(row: dict[str, Any]) -> list[dict[str, str]]:
    content = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return [{"role": "user", "content": content}]


def _special(tokenizer: Any) -> list[str]:
    return sorted({str(token) for token in tokenizer.added_tokens_decoder.values() if token.special})


def _hidden(tokenizer: Any, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with special tokens that people wrote replaced by private-use characters, so that only the
    template's own become special."""

    def hide(text: Any) -> Any:
        for place, token in enumerate(_special(tokenizer)):
            text = text.replace(token, chr(HIDDEN + place)) if isinstance(text, str) else text
        return text

    return [{**message, "content": hide(message.get("content"))} for message in messages]


def _render(tokenizer: Any, messages: list[dict[str, Any]], open_reply: bool) -> str:
    if any(message["content"] is None for message in messages):
        raise ValueError("a message without content")
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_reply)


def _ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of rendered text; what was hidden comes back as plain text."""
    special, ids = _special(tokenizer), []
    for part in re.split(r"([\ue000-\uf8ff])", text):
        place = ord(part) - HIDDEN if len(part) == 1 else -1
        if 0 <= place < len(special):
            ids += tokenize(tokenizer, special[place])
        elif part:
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids
