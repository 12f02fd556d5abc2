"""A tokenizer that can end a sequence and pad it, and what its special tokens say of a row."""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from transformers import AutoTokenizer

from datamodules.errors import UserError
from datamodules.rendering.whole_text import Tokens

REMEDY = ": give a directory with tokenizer.json, or make one with `trivium tokenizer`"
SPARE = [
    re.compile(names, re.I) for names in ("pad", "reserved|unused|placeholder|dummy", "^<unk>$|^\\[unk\\]$")
]
"""names of special tokens that may pad, the best first"""


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a Hugging Face directory or cached hub name, with a pad token: its own, another that
    is spare, or its eos. Batches may be padded with any token, since documents say what is none.

    Raises:
        UserError: it cannot be loaded, has no fast backend or no eos token.
    """
    if Path(path).is_file():
        raise UserError(f"data.tokenizer: {path} is a file: give the directory that holds it")
    try:
        # `False`: transformers would ask on the terminal whether to run a directory's own code
        tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # as many kinds as there are tokenizers
        raise UserError(f"data.tokenizer: {path} {_trouble(Path(path), error)}{REMEDY}") from error
    if not tokenizer.is_fast:
        name = type(tokenizer).__name__
        raise UserError(f"data.tokenizer: {path}: transformers has no fast backend for {name}{REMEDY}")
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"data.tokenizer: {path} has no eos token, so no reply could ever end: "
            'name one as `eos_token` in its tokenizer_config.json, for example "</s>"'
        )
    given = tokenizer.pad_token
    if given is None or given == tokenizer.eos_token or given in written_by_template(tokenizer):
        tokenizer.pad_token = _spare_token(tokenizer)
        _tell(
            f"data.tokenizer: {path} has {f'{given} as' if given else 'no'} pad token: "
            f"{tokenizer.pad_token} pads in its place."
        )
    return tokenizer


@lru_cache(maxsize=64)
def _tell(line: str) -> None:
    """Logs a line the first time."""
    rank_zero_info(line)


def _trouble(folder: Path, error: Exception) -> str:
    if not folder.is_dir():
        return "is no directory and not in the local hub cache"
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        return "has no tokenizer"
    return f"has a tokenizer that cannot be read ({' '.join(str(error).split())[:200]})"


def _spare_token(tokenizer: Any) -> str:
    """A special token that is there to pad or reserved for what comes, and that no chat writes; else the
    eos."""
    taken = {tokenizer.eos_token, tokenizer.bos_token, *written_by_template(tokenizer)}
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    spare = [token for token in special if token not in taken]
    for names in SPARE:
        if tokens := [token for token in spare if names.search(token)]:
            return min(tokens)
    return tokenizer.eos_token


def written_by_template(tokenizer: Any) -> set[str]:
    """The special tokens that stand in a tokenizer's chat template, or that it puts together."""
    template = tokenizer.chat_template
    if not template:
        return set()
    chat = [{"role": role, "content": "text"} for role in ("system", "user", "assistant", "user")]
    texts = [str(template)]
    for messages in (chat, chat[1:]):  # some refuse a system message
        with suppress(Exception):  # as many kinds as there are templates; the rows tell what is wrong with it
            texts += tokenizer.apply_chat_template([messages], tokenize=False, add_generation_prompt=True)
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {token for token in special for text in texts if token in text}


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the largest id; where ids have holes, that is more than the number of tokens."""
    return max(tokenizer.get_vocab().values()) + 1


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
