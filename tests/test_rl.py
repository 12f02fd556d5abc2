"""The maths of PPO against tables worked out by hand or published."""

import math

import pytest
import torch

from modules import rl

MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_gae_equals_the_hand_table():
    """γ = 0.9, λ = 0.5. Row 1: δ = (0.9·0.4 − 0.5, 0.9·0.2 − 0.4, 1 − 0.2) = (−0.14, −0.22, 0.8);
    A_3 = 0.8, A_2 = −0.22 + 0.45·0.8 = 0.14, A_1 = −0.14 + 0.45·0.14 = −0.077.
    Row 2 ends after two tokens: δ = (0.1 + 0.9·0.3 − 0.6, 2 − 0.3) = (−0.23, 1.7); A_2 = 1.7, A_1 = 0.535."""
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.1, 2.0, 0.0]])
    values = torch.tensor([[0.5, 0.4, 0.2], [0.6, 0.3, 9.0]])
    advantages, returns = rl.gae(rewards, values, MASK, gamma=0.9, gae_lambda=0.5)
    expected = torch.tensor([[-0.077, 0.14, 0.8], [0.535, 1.7, 0.0]])
    torch.testing.assert_close(
        advantages, expected, atol=1e-6, rtol=0
    )  # a few fp32 roundings of numbers near 1
    expected_returns = torch.tensor([[0.423, 0.54, 1.0], [1.135, 2.0, 0.0]])
    torch.testing.assert_close(returns, expected_returns, atol=1e-6, rtol=0)


def test_whitening_gives_zero_mean_and_unit_variance_over_the_mask():
    x = torch.tensor([[1.0, 2.0, 3.0], [6.0, 8.0, 1e6]])
    white = rl.whiten(x, MASK)
    kept = white[MASK]
    assert abs(kept.mean()) < 1e-6  # five fp32 numbers of size 1
    assert abs(kept.var(correction=0) - 1) < 1e-5
    assert white[1, 2] == 0


@pytest.mark.parametrize(
    ("mean", "spread"),
    [(0.1, (20.0, 1.42)), (1.0, (2.0, 1.70))],
)
def test_kl_estimators_are_unbiased_and_have_the_published_spread(mean, spread):
    """Schulman's table: samples of q = N(0, 1), p = N(mean, 1), relative to the KL mean² / 2."""
    torch.manual_seed(0)
    x = torch.randn(4_000_000, dtype=torch.float64)
    kl = mean**2 / 2
    logp, logq = -0.5 * (x - mean) ** 2, -0.5 * x**2
    for estimate, wanted_spread in zip(rl.kl_estimates(logq, logp), spread, strict=True):
        standard_error = wanted_spread / math.sqrt(len(x))
        rounding = 0.006  # the table gives two or three digits
        assert abs(estimate.mean() / kl - 1) < 4 * standard_error + rounding / 2
        assert abs(estimate.std() / kl - wanted_spread) < rounding + 0.01 * wanted_spread


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "clips"),
    [
        (1.0, 1.5, -1.2, True),
        (1.0, 0.5, -0.5, False),
        (-1.0, 1.5, 1.5, False),
        (-1.0, 0.5, 0.8, True),
        (1.0, 1.1, -1.1, False),
    ],
)
def test_the_policy_is_clipped_only_where_it_would_gain(advantage, ratio, loss, clips):
    one = torch.ones(1, 1)
    total, clipped = rl.policy_loss(one * math.log(ratio), one * 0, one * advantage, one.bool(), clip_eps=0.2)
    assert total.item() == pytest.approx(loss, abs=1e-6)
    assert clipped.item() is clips


def test_the_clipped_value_loss_takes_the_larger_error():
    """V = 1, V_old = 0, ε_v = 0.2: clipped to 0.2. Against R = 1: errors 0 and 0.64; against R = 0: 1 and
    0.04."""
    one = torch.ones(1, 2)
    loss = rl.value_loss(one, one * 0, torch.tensor([[1.0, 0.0]]), one.bool(), value_clip_eps=0.2)
    assert loss.item() == pytest.approx(0.5 * (0.64 + 1.0), abs=1e-6)


def test_the_score_is_paid_at_the_last_token_only():
    kl = torch.tensor([[0.1, 0.2, 0.3], [0.4, -0.5, 7.0]])
    rewards = rl.token_rewards(torch.tensor([2.0, -1.0]), kl, MASK, kl_coef=0.5)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, -0.1, 1.85], [-0.2, -0.75, 0.0]]))


def test_the_kl_coefficient_moves_by_at_most_a_fifth_of_n_over_horizon():
    assert rl.adapted_kl_coef(0.1, kl=6.6, target=6, sequences=100, horizon=1000) == pytest.approx(0.101)
    assert rl.adapted_kl_coef(0.1, kl=60, target=6, sequences=100, horizon=1000) == pytest.approx(0.102)
    assert rl.adapted_kl_coef(0.1, kl=0, target=6, sequences=100, horizon=1000) == pytest.approx(0.098)


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant_one():
    returns = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 99.0]])
    assert rl.explained_variance(returns, returns, MASK).item() == pytest.approx(1)
    assert rl.explained_variance(torch.zeros(2, 3), returns, MASK).item() == pytest.approx(0)
    assert rl.explained_variance(-returns, returns, MASK) < 0
