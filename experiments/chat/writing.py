"""The text of a reply as its tokens come: no half character, no stop text, and where each token begins."""

from collections.abc import Sequence
from typing import Any, NamedTuple

WINDOW = 8
"""tokens that are read again with a new one: how it is written may depend on those before"""
UNFINISHED = "\ufffd"  # the first bytes of a character of several


class Written(NamedTuple):
    """A token of a reply."""

    token: int
    logprob: float | None
    """natural logarithm of its probability, at temperature 1; None = nothing stood before it"""
    top: list[tuple[int, float]]
    """the likeliest tokens at its place, with theirs"""
    start: int
    """where its text begins in the reply, in characters"""


class Writing:
    """A reply that is being written.

    Args:
        tokenizer: a Hugging Face tokenizer; its special tokens are left out of the text.
        stops: texts that end a reply; it ends before the one that is complete first.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()):
        self.tokenizer, self.stops = tokenizer, stops
        self.ids: list[int] = []
        self.text = ""
        """so far, without a character that is not whole yet"""
        self.sent = 0
        """characters of it that were given out"""
        self.stopped = False
        """whether a stop text ended it"""
        self._from = self._done = 0  # the window's first token; its characters that are in the text
        self._held: list[Written] = []  # tokens that were not given out

    def add(self, token: int, logprob: float = 0.0, top: Sequence[tuple[int, float]] = ()) -> None:
        """Writes the next token."""
        assert not self.stopped
        self._held.append(Written(token, logprob, list(top), len(self.text)))
        self.ids.append(token)
        self._read(finished=False)

    def take(self, finished: bool = False) -> tuple[str, list[Written]]:
        """What can be given out since the last call: the text that is surely part of the reply, and the
        tokens that begin in it; everything when it has `finished`."""
        if finished and not self.stopped:
            self._read(finished=True)
        ended = finished or self.stopped
        end = len(self.text) if ended else max(self.sent, len(self.text) - self._unsure())
        text, self.sent = self.text[self.sent : end], end
        count = len(self._held)
        if self.stopped or not finished:
            count = next((i for i, held in enumerate(self._held) if held.start >= end), count)
        taken, self._held = self._held[:count], self._held[count:]
        return text, taken

    def _read(self, finished: bool) -> None:
        """Adds to the text what is new in the window, and looks for a stop text."""
        new, before = self._decode(finished)[self._done :], len(self.text)
        self.text += new
        self._from = max(self._from, len(self.ids) - WINDOW)
        self._done = len(self._decode(finished))
        begin = max(0, before - max(map(len, self.stops), default=0) + 1)
        places = [
            (place + len(stop), place) for stop in self.stops if (place := self.text.find(stop, begin)) >= 0
        ]
        if places:  # the one that is complete first, wherever tokens are cut
            self.text, self.stopped = self.text[: min(places)[1]], True

    def _decode(self, finished: bool) -> str:
        """The window's text; its last character is left out while it may not be whole."""
        text = self.tokenizer.decode(self.ids[self._from :], skip_special_tokens=True)
        return text if finished or not text.endswith(UNFINISHED) else text[:-1]

    def _unsure(self) -> int:
        """Characters at the end that a stop text may begin with."""
        return max(
            (size for stop in self.stops for size in range(1, len(stop)) if self.text.endswith(stop[:size])),
            default=0,
        )
