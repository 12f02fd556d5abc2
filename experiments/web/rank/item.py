"""What people rank: a prompt and K replies to it, each with the model and the seed that it came from."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datamodules.rendering.messages import conversation
from datamodules.rendering.segments import Row

PROMPT = ("system", "instruction", "input", "messages", "tools")
"""columns of a row that say what is asked"""
FEWEST, MOST = 2, 9  # replies to a prompt: a page has a digit for each


@dataclass(frozen=True)
class Item:
    """A prompt and its replies."""

    prompt: Row
    """its columns, as `PreferenceData` reads them"""
    replies: tuple[str, ...]
    models: tuple[str | None, ...]
    """the name of what wrote each; None = not known"""
    seeds: tuple[int | None, ...]
    """of each reply's sampling"""

    @cached_property
    def id(self) -> str:
        """The same for the same prompt with the same replies."""
        return digest([self.prompt, self.replies])

    @cached_property
    def cards(self) -> tuple[int, ...]:
        """The replies that people see: the first of each text. What differs in white space alone is one
        text, as it is to `PreferenceData`; its copies are tied with it."""
        return tuple(dict.fromkeys(self.card_of))

    @cached_property
    def card_of(self) -> tuple[int, ...]:
        """The card on which each reply is seen."""
        first: dict[str, int] = {}
        return tuple(first.setdefault(same(reply), place) for place, reply in enumerate(self.replies))

    @cached_property
    def turns(self) -> list[dict[str, str]]:
        """The prompt as people read it: `role` and `text` of each message."""
        turns = [] if not self.prompt.get("system") else [{"role": "system", "text": self.prompt["system"]}]
        for message in conversation(self.prompt, whole=False):
            content = message.get("content")
            text = content if isinstance(content, str) else json.dumps(message, ensure_ascii=False)
            turns.append({"role": message["role"], "text": text})
        return turns


def item_of(line: dict[str, Any]) -> Item:
    """What a line of a rank file ranks."""
    prompt = {column: line[column] for column in PROMPT if column in line}
    return Item(prompt, tuple(line["replies"]), tuple(line["models"]), tuple(line["seeds"]))


def same(reply: str) -> str:
    """A text without what does not tell it from another."""
    return " ".join(reply.split())


def prompt_of(row: Row) -> Row:
    """The columns of a row that say what is asked; of a conversation without the answer at its end.

    Raises:
        BadRow: a column is missing or of another type.
        DropRow: there is nothing to ask.
    """
    prompt = {column: row[column] for column in PROMPT if row.get(column) not in (None, "", [])}
    asked = conversation(prompt, whole=False)
    return {**prompt, "messages": asked} if prompt.get("messages") else prompt


def digest(value: Any) -> str:
    """Sixteen signs that are the same for equal data."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def seed_of(*parts: Any) -> int:
    """A seed below 2**32 that is a function of these."""
    return int(digest(list(parts))[:8], 16)


def distinct(items: Sequence[Item]) -> list[Item]:
    """Each item once, those left out in which there is nothing to rank."""
    return [item for item in {item.id: item for item in items}.values() if len(item.cards) >= FEWEST]
