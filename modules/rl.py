"""The maths of PPO as pure functions on tensors of shape (B, R): B sequences, R response tokens.

Every mask is True where a token counts. Sources: Schulman et al. 2017 (PPO), Schulman et al. 2016 (GAE),
Schulman's note "Approximating KL divergence", Ziegler et al. 2019 (rewards, adaptive coefficient).
"""

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over the entries that mask keeps, a scalar."""
    return (x * mask).sum() / mask.sum()


def kl_estimates(logprobs: Tensor, ref_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """k1 and k3 of KL(policy ‖ reference) at samples of the policy, each with the shape of the inputs.

    k1 = log p − log q is unbiased, k3 = e^(−k1) − 1 + k1 is unbiased too, varies less and is never negative.
    """
    k1 = logprobs - ref_logprobs
    return k1, torch.expm1(-k1) + k1


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """−kl_coef · kl at every token, plus the score at the last one.

    Args:
        scores: (B,) one per sequence.
        kl: (B, R) k1 per token.
        mask: (B, R) bool, contiguous from the left, at least one token a row.
        kl_coef: weight of the penalty.

    Returns:
        (B, R), 0 outside the mask.
    """
    rewards = -kl_coef * kl * mask
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation; the value after the last token is 0.

    δ_t = r_t + γ V_{t+1} − V_t;  A_t = δ_t + γ λ A_{t+1};  R_t = A_t + V_t.

    Args:
        rewards: (B, R).
        values: (B, R), V_t before token t.
        mask: (B, R) bool, contiguous from the left.
        gamma: discount.
        gae_lambda: λ.

    Returns:
        advantages and returns, (B, R) each, 0 outside the mask.
    """
    values = values * mask
    advantages = torch.zeros_like(rewards)
    after = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(after)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        after = (delta + gamma * gae_lambda * after) * mask[:, t]
        advantages[:, t] = after
        next_value = values[:, t]
    return advantages, (advantages + values) * mask


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Zero mean and unit (biased) variance over the entries that mask keeps; 0 elsewhere."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean).square(), mask)
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_eps: float
) -> tuple[Tensor, Tensor]:
    """Σ over the mask of max(−A ρ, −A clip(ρ, 1−ε, 1+ε)) (PPO, eq. 7), and where the clip decides.

    Returns:
        the sum, a scalar, and a (B, R) bool tensor, True where the clipped term is the larger.
    """
    ratio = (logprobs - old_logprobs).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_eps, 1 + clip_eps)
    return (torch.maximum(plain, clipped) * mask).sum(), (clipped > plain) & mask


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, value_clip_eps: float
) -> Tensor:
    """½ Σ over the mask of max((V − R)², (clip(V, V_old − ε_v, V_old + ε_v) − R)²), a scalar."""
    clipped = torch.clamp(values, old_values - value_clip_eps, old_values + value_clip_eps)
    return 0.5 * (torch.maximum((values - returns).square(), (clipped - returns).square()) * mask).sum()


def adapted_kl_coef(kl_coef: float, kl: float, target: float, sequences: int, horizon: int) -> float:
    """kl_coef · (1 + clip(KL / target − 1, −0.2, 0.2) · n / horizon) (Ziegler et al. 2019, section 2.2).

    Args:
        kl_coef: the coefficient so far.
        kl: nats per sequence measured in this iteration.
        target: nats per sequence wanted.
        sequences: n, sequences in this iteration.
        horizon: sequences over which the coefficient may move by a fifth.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * sequences / horizon)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(R − V) / Var(R) over the mask: 1 is a perfect critic, ≤ 0 one that says nothing."""
    kept_returns, error = returns[mask], (returns - values)[mask]
    return 1 - error.var(correction=0) / kept_returns.var(correction=0).clamp(min=1e-12)
