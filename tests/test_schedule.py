"""The learning rate: warm-up, then a cosine or a plateau with a line down."""

import pytest
import torch

from modules.optim import schedule_errors, warmup_cosine, warmup_stable_decay


def rates(schedule, steps, *arguments):
    """The rates of a run whose peak is 1, by a schedule of `modules.optim`."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, *arguments)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_a_plateau_then_a_line_down_to_the_floor():
    """10 steps, warm-up over 1, the last 4 fall by a quarter of 1 − 0.2 each: worked out by hand."""
    values = rates(warmup_stable_decay, 11, 1, 10, 0.2, 0.4)
    assert values == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_runs_of_several_lengths_share_their_steps_until_one_decays():
    """Which a cosine's runs do not."""
    short, long = (rates(warmup_stable_decay, 12, 2, total, 0.0, 0.25) for total in (16, 40))
    assert short == long
    short, long = (rates(warmup_cosine, 12, 2, total, 0.0) for total in (16, 40))
    assert short[5] < long[5]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_outside_its_range_is_refused(share):
    assert schedule_errors(2, 0.1, share, 10) == [
        f"model.decay_share is {share}: give a share of the run above 0 and up to 1"
    ]


@pytest.mark.parametrize("share", [None, 0.2, 1.0])
def test_a_share_within_its_range_is_taken(share):
    assert schedule_errors(2, 0.1, share, 10) == []
