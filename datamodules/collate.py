"""Batches: plain dicts of tensors. Their keys, shapes and dtypes are documented here and nowhere else.

Every training micro-batch also has, from the step plan: `normalizer` () float64, what the loss of the whole
optimizer step is divided by; `rows` (B,) int64, global row ids (−1 = fills up an evaluation batch, counts for
nothing); `step` () int64, the optimizer step (PPO: the iteration).
"""

from typing import Any

import numpy as np
import torch

Batch = dict[str, Any]
IGNORED = -100


def pad(
    sequences: list[np.ndarray], value: int, width: int | None = None, left: bool = False
) -> torch.Tensor:
    """(B, T) int64: the sequences padded to the longest, or to `width`."""
    width = width or max(len(sequence) for sequence in sequences)
    padded = np.full((len(sequences), width), value, dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        if left:
            row[width - len(sequence) :] = sequence
        else:
            row[: len(sequence)] = sequence
    return torch.from_numpy(padded)


def one_document_per_row(input_ids: list[np.ndarray], pad_id: int) -> Batch:
    """`input_ids` (B, T) int64; `position_ids` (B, T) int64; `document_ids` (B, T) int64, 0 or −1 =
    padding."""
    lengths = torch.tensor([len(ids) for ids in input_ids])
    padded = pad(input_ids, pad_id)
    places = torch.arange(padded.shape[1]).expand_as(padded)
    return {
        "input_ids": padded,
        "position_ids": places.clone(),
        "document_ids": torch.where(places < lengths[:, None], 0, -1),
    }


def token_rows(
    input_ids: list[np.ndarray], labels: list[np.ndarray], source: list[int], pad_id: int
) -> Batch:
    """Pretraining documents and SFT: the keys above, `labels` (B, T) int64 (the token itself where it is
    trained on, −100 elsewhere) and `source` (B,) int64, an index into the data module's `source_names`."""
    return {
        **one_document_per_row(input_ids, pad_id),
        "labels": pad(labels, IGNORED),
        "source": torch.tensor(source),
    }


def packed_blocks(input_ids: np.ndarray, document_ids: np.ndarray, source: list[int]) -> Batch:
    """Pretraining blocks: the keys of `token_rows`, several documents in a row.

    Args:
        input_ids: (B, T).
        document_ids: (B, T), counted from 0 in each row, −1 = padding. A document's first token has no label:
            it would be predicted from another document.
        source: B source indices.
    """
    places = np.arange(input_ids.shape[1])
    starts = np.ones_like(document_ids, dtype=bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    position_ids = places - np.maximum.accumulate(np.where(starts, places, 0), axis=1)
    labels = np.where(starts | (document_ids < 0), IGNORED, input_ids)
    return {
        "input_ids": torch.from_numpy(input_ids.astype(np.int64)),
        "labels": torch.from_numpy(labels.astype(np.int64)),
        "position_ids": torch.from_numpy(position_ids.astype(np.int64)),
        "document_ids": torch.from_numpy(document_ids.astype(np.int64)),
        "source": torch.tensor(source),
    }


def ranked_replies(replies: list[list[np.ndarray]], ratings: list[np.ndarray], pad_id: int) -> Batch:
    """Reward: a row a reply. The keys of `one_document_per_row`, `reply_ends` (K_total, 2) int64, row and
    column of each reply's last token, `prompt_index` (K_total,) int64 within the batch, `ratings` (K_total,)
    float32."""
    rows = [reply for group in replies for reply in group]
    counts = torch.tensor([len(group) for group in replies])
    ends = torch.tensor([len(row) - 1 for row in rows])
    return {
        **one_document_per_row(rows, pad_id),
        "reply_ends": torch.stack([torch.arange(len(rows)), ends], dim=1),
        "prompt_index": torch.repeat_interleave(torch.arange(len(replies)), counts),
        "ratings": torch.from_numpy(np.concatenate(ratings)).float(),
    }


def prompts(prompt_ids: list[np.ndarray], pad_id: int, width: int | None = None) -> Batch:
    """`prompt_ids` (B, P) int64, padded on the left; `prompt_mask` (B, P) bool, True = prompt."""
    width = width or max(len(ids) for ids in prompt_ids)
    lengths = torch.tensor([len(ids) for ids in prompt_ids])
    return {
        "prompt_ids": pad(prompt_ids, pad_id, width, left=True),
        "prompt_mask": torch.arange(width) >= width - lengths[:, None],
    }
