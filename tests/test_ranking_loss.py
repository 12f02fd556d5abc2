"""The K-wise ranking loss against a table worked out by hand."""

import math

import pytest
import torch

from modules.losses import ranking_loss, untied_pairs


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_four_replies_with_a_tie_equal_the_hand_table():
    """Ratings 3 > 1 = 1 > 0: five pairs. −log σ(Δ) = softplus(−Δ) with Δ of the scores (2, 1, 0.5, −1)."""
    scores = torch.tensor([2.0, 1.0, 0.5, -1.0])
    loss = ranking_loss(scores, torch.zeros(4, dtype=torch.int64), torch.tensor([3.0, 1.0, 1.0, 0.0]))
    expected = sum(softplus(-delta) for delta in (1.0, 1.5, 3.0, 2.0, 1.5)) / 5
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_two_replies_are_bradley_terry():
    loss = ranking_loss(torch.tensor([0.2, 1.0]), torch.zeros(2, dtype=torch.int64), torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx(softplus(-0.8), abs=1e-6)


def test_equal_scores_cost_ln_2_for_every_prompt():
    prompts = torch.tensor([0, 0, 0, 1, 1])
    ratings = torch.tensor([1.0, 2.0, 3.0, 5.0, 4.0])
    assert ranking_loss(torch.zeros(5), prompts, ratings).item() == pytest.approx(2 * math.log(2), abs=1e-6)


def test_replies_of_different_prompts_never_make_a_pair():
    winners, losers = untied_pairs(torch.tensor([0, 1, 0, 1]), torch.tensor([1.0, 9.0, 2.0, 3.0]))
    assert set(zip(winners.tolist(), losers.tolist(), strict=True)) == {(2, 0), (1, 3)}


def test_ties_alone_cost_nothing_and_have_a_gradient_of_zero():
    scores = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = ranking_loss(scores, torch.zeros(2, dtype=torch.int64), torch.tensor([1.0, 1.0]))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.tolist() == [0, 0]
