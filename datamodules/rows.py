"""Encoded rows: tokenised once, cached by `datasets`, with what the step plan needs known ahead."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from datamodules.receipt import Receipt, count
from datamodules.sources import first_bad_line

INTS = List(Value("int32"))
Encode = Callable[[dict[str, Any]], dict[str, Any]]
REFUSED = "refused: "  # a status that stops the run instead of dropping the row
VERSION = 1  # of the encoding: a change here makes old caches stale
SAMPLE_TOKENS = 400


class Refused(ValueError):
    """A row that must not be dropped silently."""


class Dropped(ValueError):
    """A row that is left out and counted under the exception's text."""


class Rows:
    """Encoded rows of one source that were kept; a split of its own where there is one source.

    Args:
        data: their columns; `length` and `weight` are read ahead.
        receipt: what became of all of them.
        ids: (rows,) the number of each kept row in its source, from 0.
    """

    def __init__(self, data: Dataset, receipt: Receipt, ids: np.ndarray):
        self.data = data.with_format("numpy")
        self.receipt = receipt
        self.ids = ids
        self.lengths = np.array(data["length"][:])
        self.weights = np.array(data["weight"][:])

    @property
    def receipts(self) -> list[Receipt]:
        return [self.receipt]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.data[int(row)]


def encode_rows(
    rows: Dataset, encode: Encode, columns: dict[str, Any], key: str, name: str, path: Any, tokenizer: Any
) -> Rows:
    """Encodes every row, drops what cannot be used, and counts.

    Args:
        rows: the source.
        encode: a row → `columns`, `length` (tokens), `weight` (what it adds to the normalizer), `truncated`;
            raises `Dropped` or `Refused` with the reason.
        columns: features of the encoded columns.
        key: everything but rows and tokenizer that the encoding depends on.
        name: the source's name, for receipt and messages.
        path: where it came from, for messages.
        tokenizer: its content is part of the cache's key.

    Raises:
        ValueError: a row was refused, with its number, or no row is left.
    """

    def encode_one(row: dict[str, Any]) -> dict[str, Any]:
        try:
            encoded = encode(row)
            status = "truncated" if encoded.pop("truncated", False) else "kept"
            return {**encoded, "status": status}
        except Refused as reason:
            status = REFUSED + str(reason)
        except Dropped as reason:
            status = str(reason)
        return {**dict.fromkeys(columns), "length": 0, "weight": 0, "status": status}

    features = Features(
        {**columns, "length": Value("int32"), "weight": Value("int32"), "status": Value("string")}
    )
    try:
        encoded = rows.map(
            encode_one,
            remove_columns=rows.column_names,
            features=features,
            new_fingerprint=_fingerprint(rows, key, tokenizer),
            desc=f"tokenising {name}",
        )
    except UnicodeDecodeError as error:
        files = [file for file in ([path] if isinstance(path, str) else path) if Path(file).is_file()]
        raise ValueError(f"{name}: {first_bad_line(files) or f'{path} is not UTF-8'}") from error
    status = encoded["status"][:]
    refused = [(i, s.removeprefix(REFUSED)) for i, s in enumerate(status, 1) if s.startswith(REFUSED)]
    if refused:
        more = f" (and {len(refused) - 1} more rows)" if len(refused) > 1 else ""
        raise ValueError(f"{name}: {path}, row {refused[0][0]}: {refused[0][1]}{more}")
    kept = np.flatnonzero([s in ("kept", "truncated") for s in status])
    receipt = count(name, status, 0, 0, [])
    if not len(kept):
        reasons = ", ".join(f"{reason} ({n})" for reason, n in receipt.dropped.items())
        raise ValueError(f"{name}: {path}: none of its {len(status)} rows can be trained on: {reasons}")
    result = Rows(encoded if len(kept) == len(status) else encoded.select(kept), receipt, kept)
    receipt.tokens, receipt.trained = int(result.lengths.sum()), int(result.weights.sum())
    return result


def sample(tokenizer: Any, ids: Any, trained: Any) -> list[tuple[str, bool]]:
    """(text, trained) of a row's tokens; runs of one kind are decoded together, so that no character is
    torn."""
    pieces: list[tuple[list[int], bool]] = []
    for token, flag in zip(list(ids)[:SAMPLE_TOKENS], list(trained)[:SAMPLE_TOKENS], strict=True):
        if not pieces or pieces[-1][1] != bool(flag):
            pieces.append(([], bool(flag)))
        pieces[-1][0].append(int(token))
    return [(tokenizer.decode(part), flag) for part, flag in pieces]


def text_of(row: dict[str, Any], column: str, required: bool = True) -> str:
    """A text field of a row.

    Raises:
        Refused: it is missing or not text.
        Dropped: it is blank.
    """
    value = row.get(column)
    if value is None:
        present = ", ".join(f"`{key}`" for key, v in row.items() if v is not None) or "nothing"
        raise Refused(f"no `{column}` (it has {present})")
    if not isinstance(value, str):
        raise Refused(f"`{column}` is {type(value).__name__}, not text")
    if required and not value.strip():
        raise Dropped(f"empty `{column}`")
    return value


def check_optional(row: dict[str, Any], *columns: str) -> None:
    """Refuses fields that may be missing but, where they are there, must be text.

    Raises:
        Refused: one is something else.
    """
    for column in columns:
        if row.get(column) is not None and not isinstance(row[column], str):
            raise Refused(f"`{column}` is {type(row[column]).__name__}, not text")


def _fingerprint(rows: Dataset, key: str, tokenizer: Any) -> str:
    parts = [rows._fingerprint, key, str(VERSION), tokenizer.backend_tokenizer.to_str()]
    parts += [json.dumps(tokenizer.special_tokens_map, sort_keys=True), str(tokenizer.chat_template)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
