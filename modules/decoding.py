"""Sequences that are continued together, each joining and leaving as it likes (continuous batching, Yu et al.
2022, "Orca")."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from modules.backbone import LanguageModel

MERGEABLE = (DynamicLayer, DynamicSlidingWindowLayer)
"""layers of keys and values alone, whose rows can be laid side by side; others hold states of their own"""


class RunningBatch(Protocol):
    """The sequences that are being continued."""

    logits: Tensor
    """(B, V) after the last token of each"""

    def join(self, prompts: Sequence[Sequence[int]]) -> None:
        """Adds sequences behind the others."""

    def keep(self, rows: Sequence[int]) -> None:
        """Leaves all others out; what is left is in this order."""

    def step(self, tokens: Tensor) -> None:
        """Adds a token (B,) to each."""


def running_batch(network: LanguageModel) -> RunningBatch:
    """An empty batch, the way that the network can be decoded: all rows by one forward where their caches can
    be laid side by side, else each by its own, or every token again at every step."""
    if network.route.decoding != "cached":
        return _Recomputed(network)
    layers = DynamicCache(config=network.model.config).layers
    if all(type(layer) in MERGEABLE for layer in layers) and not _switches(network.model.config):
        return _Together(network)
    return _Apart(network)


def _switches(config: Any) -> bool:
    """Whether positions are turned otherwise in a batch with a long sequence."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = (rope, *(value for value in rope.values() if isinstance(value, dict)))
    return any(kind.get("rope_type") in ("longrope", "dynamic") for kind in kinds)


class _Together:
    def __init__(self, network: LanguageModel):
        self.network, self.device = network, network.model.device
        self._empty()

    def _empty(self) -> None:
        self.cache: Any = None
        self.seen = torch.zeros((0, 0), dtype=torch.bool, device=self.device)  # (B, T), True = a token
        self.logits = torch.zeros((0, 0), device=self.device)

    def join(self, prompts: Sequence[Sequence[int]]) -> None:
        ids, seen = padded(prompts, self.device)
        cache: Any = DynamicCache(config=self.network.model.config)
        positions = (seen.cumsum(1) - 1).clamp(min=0)
        logits = self.network.next_logits(ids, seen.long(), positions, cache)
        if self.cache is None:
            self.cache, self.seen, self.logits = cache, seen, logits
            return
        old, new = self.seen.shape[1], seen.shape[1]
        width = max(old, new)
        for ours, theirs in zip(self.cache.layers, cache.layers, strict=True):
            if ours.is_initialized:  # else it shares another layer's keys
                _widen(ours, width)
                _widen(theirs, width)
                ours.keys = torch.cat([ours.keys, theirs.keys])
                ours.values = torch.cat([ours.values, theirs.values])
        self.seen = torch.cat([F.pad(self.seen, (width - old, 0)), F.pad(seen, (width - new, 0))])
        self.logits = torch.cat([self.logits, logits])

    def keep(self, rows: Sequence[int]) -> None:
        if not rows:
            self._empty()
            return
        index = torch.tensor(rows, device=self.device)
        self.logits, seen = self.logits[index], self.seen[index]
        first = int(seen.any(0).long().argmax())  # columns that were the padding of all
        self.seen = seen[:, first:]
        for layer in self.cache.layers:
            if layer.is_initialized:
                _select(layer, index, self.seen.shape[1])

    def step(self, tokens: Tensor) -> None:
        positions = self.seen.sum(1, keepdim=True)
        self.seen = F.pad(self.seen, (0, 1), value=True)
        self.logits = self.network.next_logits(tokens[:, None], self.seen.long(), positions, self.cache)


def _widen(layer: Any, width: int) -> None:
    """Pads what a layer remembers on the left, as if its rows had been `width` wide from the beginning."""
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = width
        width = min(width, layer.sliding_window - 1)
    missing = width - layer.keys.shape[-2]
    layer.keys = F.pad(layer.keys, (0, 0, missing, 0))
    layer.values = F.pad(layer.values, (0, 0, missing, 0))


def _select(layer: Any, rows: Tensor, width: int) -> None:
    """Rows of what a layer remembers, and of their columns the last `width`."""
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = width
    first = max(0, layer.keys.shape[-2] - width)
    layer.keys, layer.values = layer.keys[rows, :, first:], layer.values[rows, :, first:]


class _Apart:
    def __init__(self, network: LanguageModel):
        self.network = network
        self.rows: list[_Together] = []
        self.logits = torch.zeros((0, 0), device=network.model.device)

    def join(self, prompts: Sequence[Sequence[int]]) -> None:
        for prompt in prompts:
            row = _Together(self.network)
            row.join([prompt])
            self.rows.append(row)
        self._collect()

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]
        self._collect()

    def step(self, tokens: Tensor) -> None:
        for row, token in zip(self.rows, tokens.split(1), strict=True):
            row.step(token)
        self._collect()

    def _collect(self) -> None:
        self.logits = torch.cat([row.logits for row in self.rows]) if self.rows else self.logits[:0]


class _Recomputed:
    def __init__(self, network: LanguageModel):
        self.network, self.device = network, network.model.device
        self.rows: list[list[int]] = []
        self.logits = torch.zeros((0, 0), device=self.device)

    def join(self, prompts: Sequence[Sequence[int]]) -> None:
        logits = self._compute([list(prompt) for prompt in prompts])
        self.logits = torch.cat([self.logits, logits]) if self.rows else logits
        self.rows += [list(prompt) for prompt in prompts]

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]
        self.logits = self.logits[list(rows)] if rows else self.logits[:0]

    def step(self, tokens: Tensor) -> None:
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.append(token)
        self.logits = self._compute(self.rows)

    def _compute(self, rows: Sequence[Sequence[int]]) -> Tensor:
        ids, seen = padded(rows, self.device)
        return self.network.next_logits(ids, seen.long(), (seen.cumsum(1) - 1).clamp(min=0), None)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids (B, P) int64 padded on the left with 0, and their mask (B, P) bool, True = a token."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(width, device=device) >= (width - lengths)[:, None]
