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


# --- soft labels: the share of people who preferred a reply


def two(difference: float, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a pair whose scores differ by so much, and its gradient in both scores."""
    scores = torch.tensor([difference, 0.0], requires_grad=True)
    preferred = torch.tensor([[0.5, share], [1 - share, 0.5]])
    loss = ranking_loss(scores, torch.zeros(2, dtype=torch.int64), torch.tensor([1.0, 0.0]), preferred)
    loss.backward()
    return loss.detach(), scores.grad


@pytest.mark.parametrize(
    ("difference", "share", "expected"),
    [
        # ln(1 + e⁻¹) = 0.313262, ln(1 + e) = 1.313262, ln(1 + e⁻²) = 0.126928, ln(1 + e²) = 2.126928
        (1.0, 0.75, 0.75 * 0.313262 + 0.25 * 1.313262),
        (-1.0, 0.75, 0.75 * 1.313262 + 0.25 * 0.313262),
        (2.0, 0.6, 0.6 * 0.126928 + 0.4 * 2.126928),
        (0.0, 0.9, 0.693147),  # ln 2 whatever the share
        (1.0, 1.0, 0.313262),
        (1.0, 0.0, 1.313262),  # the mean ranks it first, all the same everybody preferred the other
    ],
)
def test_a_soft_label_costs_what_the_hand_table_says(difference, share, expected):
    assert two(difference, share)[0].item() == pytest.approx(expected, abs=2e-6)  # six decimals in the table


@pytest.mark.parametrize(
    ("difference", "share", "gradient"),
    [(0.0, 0.75, -0.25), (0.0, 1.0, -0.5), (math.log(4), 0.5, 0.3), (math.log(3), 1.0, -0.25)],
)
def test_the_gradient_is_the_chance_minus_the_share(difference, share, gradient):
    """σ(0) = 1/2, σ(ln 4) = 4/5, σ(ln 3) = 3/4."""
    assert two(difference, share)[1].tolist() == pytest.approx([gradient, -gradient], abs=1e-6)  # fp32


@pytest.mark.parametrize("share", [0.55, 0.75, 0.99])
def test_a_pair_whose_chance_equals_the_share_pulls_nowhere_and_costs_the_least(share):
    at_rest = math.log(share / (1 - share))  # σ⁻¹
    loss, gradient = two(at_rest, share)
    assert gradient.tolist() == pytest.approx([0, 0], abs=1e-6)  # fp32
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert loss.item() == pytest.approx(entropy, abs=1e-6)
    assert two(at_rest + 0.5, share)[0] > loss
    assert two(at_rest - 0.5, share)[0] > loss


def test_certain_soft_labels_are_hard_ones():
    """Shares of 1 for every pair that the ratings order, of three prompts of different K."""
    torch.manual_seed(0)
    counts = [4, 2, 3]
    prompts = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    ratings, scores = torch.randint(0, 3, (9,)).float(), torch.randn(9, dtype=torch.float64)
    preferred, start = torch.zeros(9, 4, dtype=torch.float64), 0
    for count in counts:
        part = ratings[start : start + count]
        shares = (torch.sign(part[:, None] - part[None, :]) + 1) / 2
        preferred[start : start + count, :count] = shares
        start += count
    found = [scores.clone().requires_grad_() for _ in range(2)]
    losses = [ranking_loss(found[0], prompts, ratings), ranking_loss(found[1], prompts, ratings, preferred)]
    assert losses[0] > 0
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-12)  # float64
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(found[1].grad, found[0].grad, rtol=0, atol=1e-12)


def test_each_pair_of_several_prompts_has_its_own_share():
    """Prompt 0 has pairs (0, 1), (0, 2), (1, 2) with shares 0.9, 0.8, 0.7; prompt 1 one pair with 0.6."""
    scores = torch.tensor([1.0, 0.0, -1.0, 0.0, 2.0])
    ratings = torch.tensor([3.0, 2.0, 1.0, 1.0, 5.0])
    preferred = torch.tensor(
        [[0.5, 0.9, 0.8], [0.1, 0.5, 0.7], [0.2, 0.3, 0.5], [0.5, 0.4, 0.0], [0.6, 0.5, 0.0]]
    )
    first = [
        0.9 * softplus(-1) + 0.1 * softplus(1),
        0.8 * softplus(-2) + 0.2 * softplus(2),
        0.7 * softplus(-1) + 0.3 * softplus(1),
    ]
    second = 0.6 * softplus(-2) + 0.4 * softplus(2)
    loss = ranking_loss(scores, torch.tensor([0, 0, 0, 1, 1]), ratings, preferred)
    assert loss.item() == pytest.approx(sum(first) / 3 + second, abs=1e-6)


def test_soft_labels_of_ties_alone_cost_nothing():
    shares = torch.full((2, 2), 0.5)
    loss = ranking_loss(
        torch.tensor([1.0, 2.0]), torch.zeros(2, dtype=torch.int64), torch.tensor([1.0, 1.0]), shares
    )
    assert loss.item() == 0
