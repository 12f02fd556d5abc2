"""What PPO's arguments may be, what every iteration reports, and what must never happen."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MaxMetric, MeanMetric, Metric, MinMetric

from modules import rl
from modules.ranges import (
    COUNT,
    NOT_NEGATIVE,
    NUMBER,
    POSITIVE,
    POSITIVE_OR_NONE,
    SEED,
    SHARE,
    range_errors,
)
from modules.rollout import Rollout

FP32_TOLERANCE = 1e-4  # |log ρ| at the first inner step: two forwards of other shapes round differently
BF16_TOLERANCE = 0.02  # mean |log ρ| under bf16 matrix products

COUNTS = ("epochs", "minibatches", "micro_batch_size", "rollout_batch_size", "max_new_tokens", "kl_horizon")
RANGES = {
    **dict.fromkeys(COUNTS, COUNT),
    **dict.fromkeys(("temperature", "clip_eps", "value_clip_eps", "score_clip"), POSITIVE),
    **dict.fromkeys(("value_coef", "kl_coef", "missing_eos_penalty"), NOT_NEGATIVE),
    **dict.fromkeys(("gamma", "gae_lambda"), SHARE),
    **dict.fromkeys(("kl_target", "max_approx_kl"), POSITIVE_OR_NONE),
    "max_grad_norm": NUMBER,
    "seed": SEED,
}


def argument_errors(stage: Any, max_steps: int) -> list[str]:
    """What is wrong with the arguments of a `PPOModule`, a line each; `max_steps` is −1 where it is not known
    ahead."""
    errors = range_errors(stage, RANGES)
    if not errors and max_steps > 0 and max_steps % stage.updates_per_batch:
        updates = stage.updates_per_batch
        errors.append(
            f"trainer.max_steps is {max_steps}, no multiple of the {updates} optimizer steps of an iteration "
            f"(model.epochs {stage.epochs} × minibatches {stage.minibatches}): give "
            f"{-(-max_steps // updates) * updates}"
        )
    return errors


def batch_errors(prompts: int, minibatches: int, ranks: int) -> list[str]:
    """The line that refuses an iteration whose prompts do not divide into minibatches."""
    parts = minibatches * ranks
    if parts < 1 or prompts % parts == 0:
        return []
    return [
        f"data.global_batch_size {prompts} is not a multiple of model.minibatches {minibatches} "
        f"× {ranks} ranks = {parts}: every rank needs a share of every minibatch"
    ]


def check_first_ratio(log_ratio: Tensor, mask: Tensor, precision: str) -> None:
    """ρ is 1 at the first inner step, since nothing has been trained yet.

    Raises:
        RuntimeError: it is not: rollout and update disagree on temperature, dropout, padding or precision.
    """
    _check(log_ratio, mask, precision, "ρ ≠ 1 before the first update of an iteration")


def check_same_policy(rollout: Rollout, precision: str) -> None:
    """At the first iteration actor and reference are the same model, so their log-probs are the same.

    Raises:
        RuntimeError: they are not.
    """
    gap = rollout.logprobs - rollout.ref_logprobs
    _check(gap, rollout.response_mask, precision, "KL to the reference ≠ 0 at the first iteration")


def _check(log_ratio: Tensor, mask: Tensor, precision: str, what: str) -> None:
    distance = log_ratio.detach()[mask].abs()
    if not distance.numel():
        return
    exact = precision.startswith("32")
    gap, limit = (distance.max(), FP32_TOLERANCE) if exact else (distance.mean(), BF16_TOLERANCE)
    if not gap <= limit:  # true of nan as well
        raise RuntimeError(
            f"{what}: {'largest' if exact else 'mean'} |Δ log-prob| is {gap:.2e}, rounding explains "
            f"{limit:g}. Rollout and update see different distributions: look for dropout, padding, "
            "temperature or precision."
        )


@torch.no_grad()
def rollout_metrics(rollout: Rollout, stop_token_ids: Sequence[int], score_clip: float) -> dict[str, Tensor]:
    """What an iteration's samples say, over all ranks.

    Args:
        rollout: with rewards, advantages and returns filled in.
        stop_token_ids: to tell responses that ended.
        score_clip: scores at ± this count as clipped.

    Returns:
        metric name → scalar. KL in nats (per token, and `per_sequence`), lengths in tokens. The entropy is
        the Monte-Carlo estimate −log p of the sampled tokens, in nats per token.
    """
    mask, scores = rollout.response_mask, rollout.scores
    k1, k3 = rl.kl_estimates(rollout.logprobs, rollout.ref_logprobs)
    lengths = mask.sum(1).float()
    return {
        "ppo/score": scores.mean(),
        "ppo/score_std": scores.std(correction=0),
        "ppo/score_clipped": (scores.abs() >= score_clip).float().mean(),
        "ppo/reward": rollout.rewards.sum(1).mean(),
        "ppo/kl": rl.masked_mean(k1, mask),
        "ppo/kl_k3": rl.masked_mean(k3, mask),
        "ppo/kl_per_sequence": rollout.kl_per_sequence().mean(),
        "ppo/entropy": rl.masked_mean(-rollout.logprobs, mask),
        "ppo/explained_variance": rl.explained_variance(rollout.values, rollout.returns, mask),
        "ppo/eos_share": rollout.ended(stop_token_ids).float().mean(),
        "ppo/response_length": lengths.mean(),
        "ppo/length_correlation": _correlation(scores, lengths),
    }


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x.norm() * y.norm()).clamp(min=1e-12)


class UpdateMetrics:
    """What the updates of one iteration did, over all their forwards and all ranks."""

    def __init__(self, device: torch.device):
        means = ["policy_loss", "value_loss", "clip_fraction", "approx_kl", "ratio_mean"]
        means += ["grad_norm_actor", "grad_norm_critic"]
        self.metrics: dict[str, Metric] = {f"ppo/{name}": MeanMetric().to(device) for name in means}
        self.metrics |= {"ppo/ratio_min": MinMetric().to(device), "ppo/ratio_max": MaxMetric().to(device)}

    @torch.no_grad()
    def add(self, log_ratio: Tensor, policy: Tensor, value: Tensor, clipped: Tensor, mask: Tensor) -> None:
        """Adds one forward.

        Args:
            log_ratio: (B, R) log ρ of the response tokens.
            policy: the sum of its policy losses.
            value: the sum of its value losses.
            clipped: (B, R) bool, where the clip decides.
            mask: (B, R) bool.
        """
        tokens, log_ratio = mask.sum(), log_ratio[mask]
        ratio = log_ratio.exp()
        for name, total in {
            "ppo/policy_loss": policy,
            "ppo/value_loss": value,
            "ppo/clip_fraction": clipped.sum(),
            "ppo/approx_kl": (ratio - 1 - log_ratio).sum(),  # k3 of KL(old ‖ new)
            "ppo/ratio_mean": ratio.sum(),
        }.items():
            self.metrics[name].update(total / tokens, tokens)
        self.metrics["ppo/ratio_min"].update(ratio)
        self.metrics["ppo/ratio_max"].update(ratio)

    def add_norms(self, actor: Tensor, critic: Tensor) -> None:
        """Adds the gradient norms of one optimizer step, before clipping."""
        self.metrics["ppo/grad_norm_actor"].update(actor)
        self.metrics["ppo/grad_norm_critic"].update(critic)

    def approx_kl(self) -> float:
        """The mean approximate KL old → new so far, in nats per token; all ranks must ask."""
        return float(self.metrics["ppo/approx_kl"].compute())

    def compute(self) -> dict[str, Tensor]:
        """Metric name → scalar; all ranks must ask."""
        return {name: metric.compute() for name, metric in self.metrics.items()}
