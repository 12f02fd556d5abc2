"""Special tokens that people wrote: they must stay text where a template's own become tokens."""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import Any

from datamodules.rendering.segments import Segment

PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


class Disguise:
    """Characters in place of the special tokens that people wrote, while a template writes its own.

    Each is of Unicode's private use and occurs nowhere in the conversation, so none of it is changed: neither
    in `texts`, which people wrote, nor in `others`, what else will be in it.
    """

    def __init__(self, tokenizer: Any, texts: list[str], others: list[str]):
        self.special = special_tokens(tokenizer)
        written = sorted({token for text in texts for token in self.special.findall(text)})
        self.texts = [*texts, *others, self.special.pattern]
        self.free = self._free()
        self.characters = dict(zip(written, self.free, strict=False))
        self.tokens = {character: token for token, character in self.characters.items()}

    def unused(self) -> str:
        """Another such character, which hides nothing."""
        return next(self.free)

    def _free(self) -> Iterator[str]:
        taken = "".join(self.texts)
        return (chr(code) for code in chain(*PRIVATE_USE) if chr(code) not in taken)

    def put_on(self, text: str) -> str:
        """A text of people with its special tokens hidden."""
        return self.special.sub(lambda token: self.characters[token[0]], text)

    def segments(self, text: str, trained: bool) -> list[Segment]:
        """A finished text: what was hidden comes back as plain text, what is not hidden is the template's."""
        if not self.tokens:
            return [Segment(text, trained, True)] if text else []
        parts: list[str] = [part for part in re.split(f"([{''.join(self.tokens)}])", text) if part]
        return [Segment(self.tokens.get(part, part), trained, part not in self.tokens) for part in parts]


def special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Matches any special token of a tokenizer, or nothing where it has none."""
    return _pattern(tokenizer, len(tokenizer))  # its size, since tokens may have been added


@lru_cache(maxsize=8)
def _pattern(tokenizer: Any, size: int) -> re.Pattern[str]:
    tokens = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))  # as the tokenizer reads them
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
