"""A row's segments → one text → token ids, with the trained tokens found by their places in the text."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any, NamedTuple

import numpy as np

from datamodules.rendering.backends import (
    MARKS,
    Backend,
    marked_backend,
    marks,
    plain_backend,
    special_backend,
)
from datamodules.rendering.segments import Segment
from datamodules.rendering.special_tokens import special_tokens

Offsets = Sequence[tuple[int, int]]


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
    """characters at which a reply begins after something else, which no token may span"""


def encode_batch(tokenizer: Any, rows: Sequence[Sequence[Segment]]) -> list[Tokens]:
    """The ids of every row's whole text, no token added.

    They are those of `tokenizer(text, add_special_tokens=False)` on the text of all segments together, except
    that a special token in a segment that is not `special` is plain text, and that no token spans the beginning of
    a reply: the text before it has the ids that it has alone, for that is what a reply is sampled from. Where the
    tokenizer would give others it is cut there, and nothing is put in front of the rest. Any other token is
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
    parts = [segment.text for segment in row]
    if not any(segment.special for segment in row):
        return plain_backend(tokenizer), _joined(row, parts)
    pattern, text = special_tokens(tokenizer), _joined(row, parts)
    if _all_special(row, [match.span() for match in pattern.finditer(text.text)]):
        return special_backend(tokenizer), text
    salt = next(salt for salt in count() if MARKS.format(salt, "")[:-1] not in text.text)
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
    return WholeText("".join(parts), turns, starts)


def _all_special(row: Sequence[Segment], spans: list[tuple[int, int]]) -> bool:
    """Whether every special token in the text, at these places, is in a segment of special tokens."""
    ends = np.cumsum([len(segment.text) for segment in row])
    return all(
        row[i].special and end <= ends[i]
        for (_, end), i in zip(spans, np.searchsorted(ends, [s for s, _ in spans], "right"), strict=True)
    )


def _encoded(backend: Backend, texts: list[WholeText]) -> list[Tokens]:
    uniform = [text.text for text in texts if len(text.turns) < 2 and not text.starts]
    quick = iter(backend.ids(uniform))
    others = [text for text in texts if len(text.turns) > 1 or text.starts]
    full = iter(backend.encodings([text.text for text in others]))
    tails = [_tails(backend, text) for text in others]
    alone = list({tail: None for row in tails for tail in row})
    ids_alone = dict(zip(alone, backend.ids(alone), strict=True))
    tails_of = iter(tails)
    tokens = []
    for text in texts:
        if len(text.turns) < 2 and not text.starts:
            ids = np.array(next(quick), np.int32)
            tokens.append(Tokens(ids, np.full(len(ids), bool(text.turns) and text.turns[0][1])))
            continue
        encoding = next(full)
        ids, offsets = encoding.ids, encoding.offsets
        cuts = [
            start
            for start, tail in zip(text.starts, next(tails_of), strict=True)
            if not _keeps(ids, offsets, start, ids_alone[tail], len(tail) == start)
        ]
        if cuts:
            ids, offsets = backend.in_pieces(text.text, cuts)
        tokens.append(_masked(ids, offsets, text.turns))
    return tokens


def _tails(backend: Backend, text: WholeText) -> list[str]:
    """What is before each start of a reply, from the last special token on, for there a tokenizer begins anew."""
    found = backend.special.finditer(text.text) if text.starts and backend.special else ()
    begins = [0, *(match.start() for match in found)]
    return [text.text[begins[bisect_left(begins, start) - 1] : start] for start in text.starts]


def _keeps(ids: list[int], offsets: Offsets, start: int, alone: list[int], from_begin: bool) -> bool:
    """Whether the ids before a start of a reply are those that the text before it has alone."""
    place = bisect_left(offsets, (start, -1))
    if place and offsets[place - 1][1] > start:
        return False
    return ids[max(0, place - len(alone)) : place] == alone and (not from_begin or place == len(alone))


def _masked(ids: list[int], offsets: Offsets, turns: list[tuple[int, bool]]) -> Tokens:
    trained = np.zeros(len(ids), bool)
    places = [bisect_left(offsets, (character, -1)) for character, _ in turns] + [len(ids)]
    for (start, end), (_, on) in zip(pairwise(places), turns, strict=True):
        trained[start:end] = on
    return Tokens(np.array(ids, np.int32), trained)
