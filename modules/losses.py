"""Losses of the reward model as pure functions on tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def untied_pairs(prompt_index: Tensor, ratings: Tensor) -> tuple[Tensor, Tensor]:
    """Every pair (winner, loser) of replies to one prompt whose ratings differ.

    Args:
        prompt_index: (K_total,) int64, which prompt a reply belongs to.
        ratings: (K_total,) float, higher is better.

    Returns:
        Two int64 tensors (pairs,) with positions of winners and of losers.
    """
    wins = (prompt_index[:, None] == prompt_index[None, :]) & (ratings[:, None] > ratings[None, :])
    winners, losers = wins.nonzero(as_tuple=True)
    return winners, losers


def ranking_loss(
    scores: Tensor, prompt_index: Tensor, ratings: Tensor, preferred: Tensor | None = None
) -> Tensor:
    """Σ over prompts of the mean over its untied pairs of −log σ(r_w − r_l), or, where `preferred` is given,
    of −p log σ(r_w − r_l) − (1 − p) log σ(r_l − r_w) with the share p of people who preferred w to l.

    InstructGPT (Ouyang et al. 2022), eq. 1; K = 2 is the Bradley–Terry model. Divide by the prompts with an
    untied pair. At r = 0 everywhere every such prompt adds ln 2.

    Args:
        scores: (K_total,) float.
        prompt_index: (K_total,) int64.
        ratings: (K_total,) float; equal ratings make no pair.
        preferred: (K_total, K) the share of people who preferred a reply to the k-th one of its prompt.

    Returns:
        A scalar; 0 where there is no pair.
    """
    winners, losers = untied_pairs(prompt_index, ratings)
    difference = scores[winners] - scores[losers]
    losses = -F.logsigmoid(difference)
    if preferred is not None:
        first_of_prompt = torch.searchsorted(prompt_index, prompt_index[losers])
        share = preferred[winners, losers - first_of_prompt]
        losses = losses + (1 - share) * difference  # −log σ(−x) = x − log σ(x)
    _, prompt, pairs = torch.unique(prompt_index[winners], return_inverse=True, return_counts=True)
    return (losses / pairs[prompt]).sum()
