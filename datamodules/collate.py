"""Batches: plain dicts of tensors. Their keys, shapes and dtypes are documented here and nowhere else.

Every training micro-batch also has, from the step sampler: `normalizer` () float64, what the loss of the
whole optimizer step is divided by; `rows` (B,) int64, global row ids (−1 = fills up an evaluation batch,
counts for nothing); `step` () int64, the optimizer step (PPO: the iteration).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

Batch = dict[str, Any]
IGNORED = -100  # torch's own `ignore_index`


def pad(
    sequences: list[np.ndarray], value: int, width: int | None = None, left: bool = False
) -> torch.Tensor:
    """(B, T) int64: the sequences padded to the longest, or to `width`."""
    width = width or max(len(sequence) for sequence in sequences)
    padded = np.full((len(sequences), width), value, dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        start = width - len(sequence) if left else 0
        row[start : start + len(sequence)] = sequence
    return torch.from_numpy(padded)


def documents_in_rows(rows: Sequence[Sequence[np.ndarray]], pad_id: int) -> Batch:
    """Each row a list of documents, one after another: `input_ids` (B, T) int64; `position_ids` (B, T) int64,
    from 0 in each document; `document_ids` (B, T) int64, counted from 0 in each row, −1 = padding."""
    positions = [np.concatenate([np.arange(len(ids)) for ids in row]) for row in rows]
    owners = [np.repeat(np.arange(len(row)), [len(ids) for ids in row]) for row in rows]
    return {
        "input_ids": pad([np.concatenate(row) for row in rows], pad_id),
        "position_ids": pad(positions, 0),
        "document_ids": pad(owners, -1),
    }


def token_rows(
    input_ids: Sequence[Sequence[np.ndarray]],
    labels: Sequence[Sequence[np.ndarray]],
    source: list[int],
    pad_id: int,
) -> Batch:
    """Pretraining documents and SFT: the keys above, `labels` (B, T) int64 (the token itself where it is
    trained on, −100 elsewhere and at the first token of a document, which nothing precedes) and `source` (B,)
    int64, an index into the data module's `source_names`."""
    firsts = [np.cumsum([0, *map(len, row)])[:-1] for row in labels]
    padded = pad([np.concatenate(row) for row in labels], IGNORED)
    for row, first in zip(padded, firsts, strict=True):
        row[first] = IGNORED
    return {**documents_in_rows(input_ids, pad_id), "labels": padded, "source": torch.tensor(source)}


def packed_blocks(input_ids: np.ndarray, document_ids: np.ndarray, source: list[int]) -> Batch:
    """Pretraining blocks: the keys of `token_rows`, several documents in a row.

    Args:
        input_ids: (B, T).
        document_ids: (B, T), counted from 0 in each row, −1 = padding. A document's first token has no label:
            it would be predicted from another document.
        source: B source indices.
    """
    input_ids = input_ids.astype(np.int64)
    places = np.arange(input_ids.shape[1])
    starts = np.ones_like(document_ids, dtype=bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    position_ids = places - np.maximum.accumulate(np.where(starts, places, 0), axis=1)
    labels = np.where(starts | (document_ids < 0), IGNORED, input_ids)
    return {
        "input_ids": torch.from_numpy(input_ids),
        "labels": torch.from_numpy(labels.astype(np.int64)),
        "position_ids": torch.from_numpy(position_ids.astype(np.int64)),
        "document_ids": torch.from_numpy(document_ids.astype(np.int64)),
        "source": torch.tensor(source),
    }


def ranked_replies(packs: Sequence[Sequence[dict[str, Any]]], packed: bool, pad_id: int) -> Batch:
    """Reward: the keys of `documents_in_rows`, one document per reply; `reply_ends` (K_total, 2) int64, row
    and column of each reply's last token; `prompt_index` (K_total,) int64 within the batch; `ratings`
    (K_total,) float32; `preferred` (K_total, K) float32, the share of people who preferred a reply to the
    k-th one of its prompt, 0 beyond the prompt's replies.

    Args:
        packs: prompts that share a row, each with its K `replies` (the prompt in front of every one), their
            `ratings` (K,) and `preferred` (K²,), row by row the shares who preferred a reply to the others.
        packed: whether all replies of a pack are in one row, or each in its own.
        pad_id: fills up rows.
    """
    ranked = [prompt for pack in packs for prompt in pack]
    rows = [[reply for prompt in pack for reply in prompt["replies"]] for pack in packs]
    rows = rows if packed else [[reply] for row in rows for reply in row]
    ends = [(r, end - 1) for r, row in enumerate(rows) for end in np.cumsum([len(reply) for reply in row])]
    counts = torch.tensor([len(prompt["replies"]) for prompt in ranked])
    preferred = torch.zeros(int(counts.sum()), int(counts.max()))
    start = 0
    for prompt, count in zip(ranked, counts.tolist(), strict=True):
        shares = np.array(prompt["preferred"], np.float32).reshape(count, count)
        preferred[start : start + count, :count] = torch.from_numpy(shares)
        start += count
    return {
        **documents_in_rows(rows, pad_id),
        "reply_ends": torch.tensor(ends),
        "prompt_index": torch.repeat_interleave(torch.arange(len(ranked)), counts),
        "ratings": torch.from_numpy(np.concatenate([prompt["ratings"] for prompt in ranked])).float(),
        "preferred": preferred,
    }


def prompts(prompt_ids: list[np.ndarray], pad_id: int, width: int | None = None) -> Batch:
    """`prompt_ids` (B, P) int64, padded on the left; `prompt_mask` (B, P) bool, True = prompt."""
    width = width or max(len(ids) for ids in prompt_ids)
    lengths = torch.tensor([len(ids) for ids in prompt_ids])
    return {
        "prompt_ids": pad(prompt_ids, pad_id, width, left=True),
        "prompt_mask": torch.arange(width) >= width - lengths[:, None],
    }
