"""Sampling with a key-value cache; what is drawn depends on the prompt and the seed, never on batch, order or
rank."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from modules.backbone import LanguageModel


def uniforms(seed: int, iteration: int, prompt_index: Sequence[int], length: int) -> Tensor:
    """(B, length) numbers in [0, 1), a function of (seed, iteration, prompt, position) alone."""
    rows = [np.random.default_rng((seed, iteration, index)).random(length) for index in prompt_index]
    below_one = 1 - 2**-24  # the largest in fp32: what lies above would be rounded to 1
    return torch.from_numpy(np.stack(rows)).float().clamp(max=below_one)


@torch.no_grad()
def generate(
    network: LanguageModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    max_new_tokens: int,
    stop_token_ids: Sequence[int],
    pad_token_id: int,
    vocabulary: int,
    temperature: float = 1.0,
    noise: Tensor | None = None,
    any_rank: Callable[[Tensor], bool] = bool,
    max_positions: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Continues every prompt until a stop token or the limit.

    Args:
        network: a causal language model; where a strategy has cut it, within `Sharding.unsharded`.
        prompt_ids: (B, P) int64, padded on the left.
        prompt_mask: (B, P) bool, True = prompt.
        max_new_tokens: the limit R.
        stop_token_ids: each ends a response and is part of it.
        pad_token_id: fills what comes after.
        vocabulary: the tokenizer's ids are below it. What a network has beyond (rows of its embedding that
            make their number round) is never chosen. A chosen token's log-probability is of all rows all
            the same, when it is sampled as when it is trained, so that ρ is exactly 1.
        temperature: the logits are divided by it before sampling.
        noise: (B, R) in [0, 1) to sample with by inverting the distribution function; None = greedy.
        any_rank: `Sharding.any_rank`: whether a flag is true on any rank that must take as many steps.
        max_positions: that the network has; a response ends where they do. None = they suffice.

    Returns:
        response_ids (B, R) int64 and response_mask (B, R) bool, True up to and with the stop token.
    """
    size, device = prompt_ids.shape[0], prompt_ids.device
    responses = torch.full((size, max_new_tokens), pad_token_id, dtype=torch.int64, device=device)
    mask = torch.zeros((size, max_new_tokens), dtype=torch.bool, device=device)
    alive = torch.ones(size, dtype=torch.bool, device=device)
    stops = torch.tensor(stop_token_ids, device=device)
    cached = network.route.decoding == "cached"
    cache = DynamicCache(config=network.model.config) if cached else None
    seen = prompt_mask
    tokens, positions = prompt_ids, (prompt_mask.cumsum(1) - 1).clamp(min=0)
    for step in range(max_new_tokens):
        logits = network.next_logits(tokens, seen.long(), positions, cache)[:, :vocabulary].float()
        chosen = logits.argmax(-1) if noise is None else draw(logits / temperature, noise[:, step])
        responses[:, step] = torch.where(alive, chosen, pad_token_id)
        mask[:, step] = alive
        alive = alive & ~torch.isin(chosen, stops)
        added, place = chosen[:, None], positions[:, -1:] + 1
        if max_positions is not None:
            alive = alive & (place[:, 0] < max_positions)
            place = place.clamp(max=max_positions - 1)  # of rows that have ended: any position will do
        if not any_rank(alive.any()):
            break
        if cached:
            tokens, positions = added, place
        else:
            tokens, positions = torch.cat([tokens, added], dim=1), torch.cat([positions, place], dim=1)
        seen = torch.cat([seen, torch.ones_like(alive)[:, None]], dim=1)
    return responses, mask


def draw(logits: Tensor, noise: Tensor) -> Tensor:
    """(B, V) logits and (B,) numbers in [0, 1) → (B,) int64 tokens by inverting the distribution function."""
    cumulative = logits.softmax(-1).cumsum(-1)
    threshold = noise.to(cumulative)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def nucleus(logits: Tensor, top_p: Tensor) -> Tensor:
    """(B, V) logits, −∞ for all but the likeliest tokens that together have a probability of `top_p` (B,) or
    more; one at least, all where it is 1 (Holtzman et al. 2020)."""
    ordered, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    left_out = ordered.cumsum(-1) - ordered >= top_p[:, None]
    left_out[:, 0] = False
    left_out &= top_p[:, None] < 1  # a sum of many may be rounded to 1 too early
    return logits.masked_fill(torch.zeros_like(left_out).scatter(1, order, left_out), -torch.inf)
