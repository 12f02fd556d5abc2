"""A tokenizer that can end a sequence and pad it, and what its special tokens say of a row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from datamodules.errors import UserError
from datamodules.rendering.whole_text import Tokens


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


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text on its own: nothing is added, and special tokens written in it stay plain text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def double_bos(ids: Sequence[int] | np.ndarray, tokenizer: Any) -> bool:
    """Whether a sequence begins with two bos tokens, such as a template's and a tokenizer's."""
    bos = tokenizer.bos_token_id
    return bos is not None and len(ids) > 1 and bool(ids[0] == bos and ids[1] == bos)


def missing_eos(tokens: Tokens, tokenizer: Any, turn_end: int | None = None) -> np.ndarray:
    """The places at which an eos, or the end of a turn, is missing, since a run of trained tokens ends before
    them without one."""
    last = np.flatnonzero(tokens.trained & ~np.append(tokens.trained[1:], False))
    ids = tokens.ids[last]
    return last[(ids != tokenizer.eos_token_id) & (ids != (-1 if turn_end is None else turn_end))] + 1
