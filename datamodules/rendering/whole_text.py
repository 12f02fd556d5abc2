"""A row's segments → one text → token ids, with the trained tokens found by their places in the text."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any, NamedTuple

import numpy as np

from datamodules.rendering.backends import (
    MARKS,
    Backend,
    Offsets,
    marked_backend,
    marks,
    probe,
    special_backend,
)
from datamodules.rendering.segments import Segment
from datamodules.rendering.special_tokens import special_tokens


class Tokens(NamedTuple):
    """A row's tokens."""

    ids: np.ndarray
    """(T,) int32"""
    trained: np.ndarray
    """(T,) bool: the loss is on it"""


class WholeText(NamedTuple):
    """A row's text and what is said of its characters."""

    text: str
    turns: list[tuple[int, bool]]
    """from this character on it is trained, or not"""
    starts: list[int]
    """characters at which a reply begins after something else; the text's length: one would begin after it"""

    @property
    def uniform(self) -> bool:
        """Whether nothing has to be found in it."""
        return len(self.turns) < 2 and not self.starts

    @property
    def is_prompt(self) -> bool:
        """Whether a reply would follow."""
        return self.starts[-1:] == [len(self.text)]


def encode_batch(tokenizer: Any, rows: Sequence[Sequence[Segment]]) -> list[Tokens]:
    """The ids of every row's whole text, no token added.

    They are those of `tokenizer(text, add_special_tokens=False)` on the text of all segments together, but a
    special token in a segment that is not `special` is plain text, and what a reply continues has the ids
    that it has in front of any reply, so that replies are sampled from what is trained. Where a row's own
    would be others, as a token spans the beginning of the reply, the text is cut there, and nothing is put in
    front of the rest. A row without a trained segment is a prompt, what a reply continues. Any other token is
    trained if its first character is.
    """
    read = [_read(tokenizer, row) for row in rows]
    groups: dict[Backend, list[int]] = {}
    for number, (backend, _) in enumerate(read):
        groups.setdefault(backend, []).append(number)
    tokens: dict[int, Tokens] = {}
    for backend, numbers in groups.items():
        tokens |= zip(numbers, _encoded(backend, [read[number][1] for number in numbers]), strict=True)
    return [tokens[number] for number in range(len(rows))]


def _read(tokenizer: Any, row: Sequence[Segment]) -> tuple[Backend, WholeText]:
    """A row's text, and who reads its special tokens rightly."""
    pattern, text = special_tokens(tokenizer), _joined(row, [segment.text for segment in row])
    written = any(segment.special for segment in row)
    if written and _all_special(row, [match.span() for match in pattern.finditer(text.text)]):
        return special_backend(tokenizer), text
    salt = next(salt for salt in count() if MARKS.format(salt, "")[:-1] not in text.text)
    if not written:
        return marked_backend(tokenizer, salt), text
    names = marks(tokenizer, salt)
    parts = [pattern.sub(lambda match: names[match[0]], s.text) if s.special else s.text for s in row]
    return marked_backend(tokenizer, salt), _joined(row, parts)


def _joined(row: Sequence[Segment], parts: list[str]) -> WholeText:
    turns: list[tuple[int, bool]] = []
    starts: list[int] = []
    at, before = 0, False
    for segment, part in zip(row, parts, strict=True):
        if not turns or segment.trained != before:
            turns.append((at, segment.trained))
        if at and (segment.starts_reply or (segment.trained and not before)):
            starts.append(at)
        at, before = at + len(part), segment.trained
    if at and not any(segment.trained for segment in row):
        starts.append(at)
    return WholeText("".join(parts), turns, starts)


def _all_special(row: Sequence[Segment], spans: list[tuple[int, int]]) -> bool:
    """Whether every special token in the text, at these places, is in a segment of special tokens."""
    stretches = iter(row)
    start = end = 0
    special = False
    for first, last in spans:
        while first >= end:
            segment = next(stretches)
            start, end, special = end, end + len(segment.text), segment.special
        if not (special and start <= first and last <= end):
            return False
    return True


def _encoded(backend: Backend, texts: list[WholeText]) -> list[Tokens]:
    uniform = iter(backend.ids([text.text for text in texts if text.uniform]))
    others = [text for text in texts if not text.uniform]
    prompts = [_prompts(backend, text) for text in others]
    different = list({prompt: None for row in prompts for prompt in row})
    known = dict(zip(different, backend.prompt_ids(different), strict=True))
    probed = [text.text + (probe(text.text) if text.is_prompt else "") for text in others]
    full = iter(zip(backend.encodings(probed), prompts, strict=True))
    tokens = []
    for text in texts:
        if text.uniform:
            flat = np.array(next(uniform), np.int32)
            tokens.append(Tokens(flat, np.full(len(flat), bool(text.turns) and text.turns[0][1])))
            continue
        encoding, before = next(full)
        ids, offsets = encoding.ids, encoding.offsets
        cuts = [
            start
            for start, prompt in zip(text.starts, before, strict=True)
            if not _keeps(ids, offsets, start, known[prompt], len(prompt) == start)
        ]
        if cuts:
            ids, offsets = backend.in_pieces(text.text, cuts, text.is_prompt)
        tokens.append(_masked(ids, offsets, [*text.turns, (len(text.text), False)]))
    return tokens


def _prompts(backend: Backend, text: WholeText) -> list[str]:
    """What each reply continues, from the last special token on, for there a tokenizer begins anew."""
    begins = [0, *(match.start() for match in backend.special.finditer(text.text))]
    return [text.text[begins[bisect_left(begins, start) - 1] : start] for start in text.starts]


def _keeps(ids: list[int], offsets: Offsets, start: int, prompt: list[int], from_begin: bool) -> bool:
    """Whether the ids before a start of a reply are the prompt's."""
    place = bisect_left(offsets, (start, -1))
    if place and offsets[place - 1][1] > start:
        return False
    return ids[max(0, place - len(prompt)) : place] == prompt and (not from_begin or place == len(prompt))


def _masked(ids: list[int], offsets: Offsets, turns: list[tuple[int, bool]]) -> Tokens:
    """The tokens of a text; the last of the turns is its end."""
    places = [bisect_left(offsets, (character, -1)) for character, _ in turns]
    trained = np.zeros(places[-1], bool)
    for (start, end), (_, on) in zip(pairwise(places), turns, strict=False):
        trained[start:end] = on
    return Tokens(np.array(ids[: places[-1]], np.int32), trained)
