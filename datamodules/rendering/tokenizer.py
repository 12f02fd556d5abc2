"""A tokenizer that can end a sequence and pad it, and many rows' segments → token ids on all cores."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from datamodules.errors import UserError
from datamodules.rendering.segments import Segment


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a Hugging Face directory or cached hub name, with a pad token that is not its eos
    token.

    Raises:
        UserError: it cannot be loaded, has no eos token, or has nothing to pad with.
    """
    if Path(path).is_file():
        raise UserError(f"data.tokenizer: {path} is a file: give the directory that holds it")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        where = (
            "has no tokenizer" if Path(path).is_dir() else "is no directory and not in the local hub cache"
        )
        raise UserError(
            f"data.tokenizer: {path} {where}: give a directory with tokenizer.json, or make one with "
            "`trivium tokenizer`"
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"data.tokenizer: {path} has no eos token, so no reply could ever end: "
            'name one as `eos_token` in its tokenizer_config.json, for example "</s>"'
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = _spare_token(tokenizer, path)
    return tokenizer


def _spare_token(tokenizer: Any, path: str) -> str:
    """A special token that ends or begins nothing, to pad with instead of eos."""
    taken = {tokenizer.eos_token, tokenizer.bos_token, "<|im_start|>", "<|im_end|>"}
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    spare = [token for token in special if token not in taken]
    if not spare:
        raise UserError(
            f"data.tokenizer: {path} has no pad token apart from its eos: "
            "add one as `pad_token` to its tokenizer_config.json (and to the vocabulary)"
        )
    return min(spare, key=lambda token: ("pad" not in token.lower(), token))


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the largest id; where ids have holes, that is more than the number of tokens."""
    return max(tokenizer.get_vocab().values()) + 1


def stop_tokens(tokenizer: Any) -> tuple[int, ...]:
    """What ends a reply: the eos, then the chat template's turn end where that is another token."""
    ends = [tokenizer.eos_token_id]
    return tuple(dict.fromkeys(end for end in ends if end is not None))


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text on its own: nothing is added, and special tokens written in it stay plain text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


class Tokens(NamedTuple):
    """A row's tokens."""

    ids: np.ndarray
    """(T,) int32"""
    trained: np.ndarray
    """(T,) bool: the loss is on it"""


def encode_batch(tokenizer: Any, rows: Sequence[Sequence[Segment]]) -> list[Tokens]:
    """The ids of every row, each segment on its own and no token added.

    They are those of `tokenizer(text, add_special_tokens=False, split_special_tokens=not special)` on each
    segment, but all come from two calls of the fast tokenizer, whose threads share the texts.
    """
    plain = [segment.text for row in rows for segment in row if not segment.special]
    special = list(dict.fromkeys(segment.text for row in rows for segment in row if segment.special))
    plain_ids = iter(encode_texts(tokenizer, plain))
    special_ids = dict(zip(special, encode_texts(tokenizer, special, special=True), strict=True))
    tokens = []
    for row in rows:
        ids = [special_ids[segment.text] if segment.special else next(plain_ids) for segment in row]
        trained, end = np.empty(sum(map(len, ids)), bool), 0
        for segment, part in zip(row, ids, strict=True):  # few and short: `np.repeat` would cost more
            start, end = end, end + len(part)
            trained[start:end] = segment.trained
        tokens.append(Tokens(np.fromiter(chain(*ids), np.int32, end), trained))
    return tokens


def double_bos(ids: Sequence[int] | np.ndarray, tokenizer: Any) -> bool:
    """Whether a sequence begins with two bos tokens, such as a template's and a tokenizer's."""
    bos = tokenizer.bos_token_id
    return bos is not None and len(ids) > 1 and bool(ids[0] == bos and ids[1] == bos)


def missing_eos(tokens: Tokens, tokenizer: Any) -> np.ndarray:
    """The places at which an eos is missing, since a run of trained tokens ends before them without one."""
    ends = np.flatnonzero(tokens.trained & ~np.append(tokens.trained[1:], False))
    return ends[tokens.ids[ends] != tokenizer.eos_token_id] + 1


def encode_texts(tokenizer: Any, texts: list[str], special: bool = False) -> list[list[int]]:
    """The ids of every text, nothing added, cut or padded; safe to call from several threads. Special tokens
    written in them stay plain text unless `special`."""
    backend = _backend(tokenizer, len(tokenizer), special)
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


@lru_cache(maxsize=8)
def _backend(tokenizer: Any, size: int, special: bool) -> Tokenizer:
    """A copy of the tokenizer's backend with settings of its own, so that no other use can disturb it;
    another where tokens have been added since, so that the tokenizer's size differs."""
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.encode_special_tokens = not special
    copy.no_truncation()
    copy.no_padding()
    return copy
