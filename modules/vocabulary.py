"""Whether a run's networks and its data have one vocabulary, compared token by token and never by size or
name."""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""what says the tokens of a tokenizer that transformers has saved"""
OTHERS = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
"""what else may be all that a directory has of a tokenizer"""
SPECIAL = ("bos_token", "eos_token")


def vocabulary_errors(parents: Sequence[tuple[str, str]], path: str, tokenizer: Any) -> list[str]:
    """The lines that refuse checkpoints whose own tokenizer is another one than the data's.

    Args:
        parents: argument and path of each; one without tokenizer files says nothing of its vocabulary.
        path: where the data's tokenizer is from.
        tokenizer: the data's.
    """
    errors, seen = [], {path}
    for name, parent in parents:
        if parent in seen or _same_files(Path(parent), Path(path)):
            continue
        seen.add(parent)
        try:
            theirs = _own_tokenizer(parent)
        except Exception as error:  # as many kinds as there are tokenizers
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            errors.append(f"model.{name}: {parent}: its tokenizer cannot be read: {reason}")
            continue
        if theirs is not None and (problem := difference(theirs, tokenizer)):
            errors.append(
                f"model.{name}: {parent} has another vocabulary than data.tokenizer {path}: {problem}: give "
                "networks and data of one tokenizer"
            )
    return errors


def vocabulary_digest(tokenizer: Any) -> str:
    """The same for tokenizers with the same tokens, ids, bos and eos, and for no others."""
    return _digest(tokenizer, len(tokenizer), *(getattr(tokenizer, name) for name in SPECIAL))


@lru_cache(maxsize=8)
def _digest(tokenizer: Any, size: int, *special: str | None) -> str:
    content = [sorted(tokenizer.get_vocab().items()), special]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def difference(theirs: Any, ours: Any) -> str | None:
    """The first token, by our ids, at which two tokenizers differ, or the special token; None where none.

    A pad token that only one of them has is no difference: no network reads it.
    """
    left, right = theirs.get_vocab(), ours.get_vocab()
    pads = {pad for pad in (theirs.pad_token, ours.pad_token) if pad not in left or pad not in right}
    tokens = {token for token, _ in left.items() ^ right.items()} - pads
    if tokens:
        beyond = len(left) + len(right)
        first = min(tokens, key=lambda token: (right.get(token, beyond), left.get(token, beyond)))
        there, here = (ids.get(first, "missing") for ids in (left, right))
        return f"token {first!r} is {there} there and {here} here"
    for name in SPECIAL:
        there, here = getattr(theirs, name), getattr(ours, name)
        if there != here:
            return f"{name} is {there!r} there and {here!r} here"
    return None


def _same_files(left: Path, right: Path) -> bool:
    """Whether two directories hold a tokenizer's files with the same content; far quicker than loading."""
    if not (left / FILES[0]).is_file() or not (right / FILES[0]).is_file():
        return False
    contents = [[_bytes(folder / name) for name in FILES] for folder in (left, right)]
    return contents[0] == contents[1]


def _bytes(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _own_tokenizer(path: str) -> Any:
    """A checkpoint's own tokenizer; None where it has none."""
    folder = Path(path)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in (*FILES, *OTHERS)):
            return None
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    try:  # a hub name
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError):
        return None
