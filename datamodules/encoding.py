"""From segments of text to token ids, many rows at once on all cores."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from datamodules.rendering import Segment


class Encoded(NamedTuple):
    """A row's tokens."""

    ids: np.ndarray
    """(T,) int32"""
    trained: np.ndarray
    """(T,) bool: the loss is on it"""


def encode_batch(tokenizer: Any, rows: Sequence[Sequence[Segment]]) -> list[Encoded]:
    """The ids of every row, each segment on its own and no token added.

    They are those of `tokenizer(text, add_special_tokens=False, split_special_tokens=not special)` on each
    segment, but all come from two calls of the fast tokenizer, whose threads share the texts.

    Args:
        tokenizer: a fast Hugging Face tokenizer; its settings are as before afterwards.
        rows: segments of each row.
    """
    backend = tokenizer.backend_tokenizer
    plain = [segment.text for row in rows for segment in row if not segment.special]
    special = list(dict.fromkeys(segment.text for row in rows for segment in row if segment.special))
    with _as_written(backend):
        plain_ids = iter(_ids(backend, plain, True))
        special_ids = dict(zip(special, _ids(backend, special, False), strict=True))
    return [
        _joined(row, [special_ids[segment.text] if segment.special else next(plain_ids) for segment in row])
        for row in rows
    ]


def double_bos(ids: Sequence[int] | np.ndarray, tokenizer: Any) -> bool:
    """Whether a sequence begins with two bos tokens, such as a template's and a tokenizer's."""
    bos = tokenizer.bos_token_id
    return bos is not None and len(ids) > 1 and bool(ids[0] == bos and ids[1] == bos)


def ends_with_eos(encoded: Encoded, tokenizer: Any) -> bool:
    """Whether every run of trained tokens ends with eos (so, too, where nothing is trained)."""
    last = encoded.trained & ~np.append(encoded.trained[1:], False)
    return bool((encoded.ids[last] == tokenizer.eos_token_id).all())


def _joined(row: Sequence[Segment], ids: list[list[int]]) -> Encoded:
    trained = np.repeat([segment.trained for segment in row], [len(part) for part in ids])
    return Encoded(np.fromiter(chain(*ids), np.int32, len(trained)), trained.astype(bool))


def _ids(backend: Any, texts: list[str], special_stay_text: bool) -> list[list[int]]:
    backend.encode_special_tokens = special_stay_text
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


@contextmanager
def _as_written(backend: Any) -> Iterator[None]:
    """Nothing cut, nothing padded; the tokenizer's settings come back at the end."""
    split, truncation, padding = backend.encode_special_tokens, backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    try:
        yield
    finally:
        backend.encode_special_tokens = split
        if truncation:
            backend.enable_truncation(**truncation)
        if padding:
            backend.enable_padding(**padding)
