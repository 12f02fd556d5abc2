"""Mixing: at every moment each source is within one block of its weight, and any block is found at once."""

import math
import time
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.sampling import mixture_schedule
from datamodules.sampling.loaders import StepLoader
from datamodules.sampling.mixture_schedule import CHUNK, Mixed, MixtureSchedule, temperature_weights
from datamodules.sampling.orders import Shuffled
from datamodules.sampling.step_sampler import StepSampler


def skewed(sources, seed):
    return (np.random.default_rng(seed).pareto(1.2, sources) + 1e-3).tolist()


def shares(weights):
    """Exact shares of decimal numbers as people write them: 0.3 is 3/10."""
    exact = [Fraction(str(weight)) for weight in weights]
    return [weight / sum(exact) for weight in exact]


def owed(phases, blocks):
    """What each source should have given before a block, by adding up exactly, phase by phase."""
    starts = [*sorted(phases), max(blocks, *phases) + 1]
    total = [Fraction(0)] * len(phases[0])
    for start, end in pairwise(starts):
        length = max(0, min(end, blocks) - start)
        total = [t + length * share for t, share in zip(total, shares(phases[start]), strict=True)]
    return total


def farthest(draws, phases):
    """The largest distance of any source from what is owed, over all prefixes; exact."""
    unit = math.lcm(*(share.denominator for each in phases.values() for share in shares(each)))
    rates = {start: [int(share * unit) for share in shares(each)] for start, each in phases.items()}
    behind, worst, now = [0] * len(phases[0]), 0, rates[0]  # in parts of `unit`
    for block, source in enumerate(draws):
        now = rates.get(block, now)
        behind = [b + rate for b, rate in zip(behind, now, strict=True)]
        behind[source] -= unit
        worst = max(worst, max(behind), -min(behind))
    return Fraction(worst, unit)


def taken(schedule, blocks):
    """The sources of the first blocks; what each block says came before it is checked against the draws."""
    counts, draws = [0] * schedule.sources, []
    for block in range(blocks):
        source, before = schedule[block]
        assert before == counts[source], f"block {block}"
        counts[source] += 1
        draws.append(source)
    return draws


@pytest.mark.parametrize(
    "weights",
    [[1.0], [0.7, 0.3], [0.999, 0.001], [0.4, 0.25, 0.2, 0.15], [1, 1, 1], [60.0] + [1.0] * 59]
    + [skewed(n, seed) for n in (5, 20) for seed in range(3)],
    ids=lambda weights: f"{len(weights)} sources",
)
def test_every_prefix_is_within_one_block_of_the_weights(weights):
    """The bound proved by Tijdeman (1980) is 1 − 1/(2n − 2); greedy schedules break 1 from 20 sources on."""
    schedule = MixtureSchedule(weights)
    draws = taken(schedule, 4000)
    assert farthest(draws, {0: weights}) < 1
    assert schedule.drawn(4000).tolist() == np.bincount(draws, minlength=len(weights)).tolist()


@pytest.mark.parametrize("seed", range(2))
def test_sixty_skewed_sources_are_within_one_block_over_20_000_blocks(seed):
    weights = skewed(60, seed)
    assert max(weights) / min(weights) > 100
    assert farthest(taken(MixtureSchedule(weights), 20_000), {0: weights}) < 1


def test_sixty_skewed_sources_whose_weights_change_and_vanish_are_too():
    rng = np.random.default_rng(5)
    phases = {0: skewed(60, 1)}
    for start in (37, 5000, 5001, 12_345):
        weights = np.array(skewed(60, start)) * (rng.random(60) < 0.5)  # half of the sources rest
        phases[start] = weights.tolist()
    changes = {start: weights for start, weights in phases.items() if start}
    assert farthest(taken(MixtureSchedule(phases[0], changes), 20_000), phases) < 1


# --- hypothesis: any weights, any changes


@st.composite
def phased(draw):
    """Block → weights from there on; some are 0."""
    sources = draw(st.integers(1, 6))
    weight = st.one_of(st.just(0.0), st.integers(1, 1000).map(lambda n: n / 100), st.just(1e-3))
    one = st.lists(weight, min_size=sources, max_size=sources).filter(any)
    starts = draw(st.lists(st.integers(1, 250), max_size=4, unique=True))
    return {start: draw(one) for start in [0, *starts]}


def scheduled(phases):
    return MixtureSchedule(phases[0], {start: weights for start, weights in phases.items() if start})


@settings(max_examples=150, deadline=None)
@given(phased())
def test_any_weights_that_change_are_kept_within_one_block_at_every_prefix(phases):
    draws = taken(scheduled(phases), 300)
    assert farthest(draws, phases) < 1


@settings(max_examples=100, deadline=None)
@given(phased(), st.integers(0, 400))
def test_the_target_is_the_exact_sum_of_the_shares_so_far(phases, blocks):
    exact = owed(phases, blocks)
    assert sum(exact) == blocks
    assert scheduled(phases).target(blocks).tolist() == [float(one) for one in exact]  # rounded once


@settings(max_examples=100, deadline=None)
@given(phased(), st.integers(3, 40), st.lists(st.integers(0, 299), min_size=1, max_size=8))
def test_any_block_is_found_without_those_before_it(phases, chunk, blocks):
    """Chunks of any length begin at blocks that the long one only passes: both give the same schedule."""
    whole = scheduled(phases)
    expected = [whole[n] for n in range(300)]
    drawn = [whole.drawn(n).tolist() for n in blocks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture_schedule, "CHUNK", chunk)
        for block, counts in zip(blocks, drawn, strict=True):
            fresh = scheduled(phases)
            assert fresh[block] == expected[block]
            assert scheduled(phases).drawn(block).tolist() == counts
    for block, counts in zip(blocks, drawn, strict=True):
        assert counts == [sum(source == i for source, _ in expected[:block]) for i in range(whole.sources)]


# --- random access


@pytest.mark.parametrize("weights", [[0.5, 0.3, 0.2], skewed(60, 0)], ids=["3 sources", "60 sources"])
def test_a_fresh_schedule_gives_any_block_as_the_sequential_one(weights):
    sequential = MixtureSchedule(weights)
    blocks = [*range(3), CHUNK - 1, CHUNK, CHUNK + 5, 3 * CHUNK - 1, 3 * CHUNK, 4 * CHUNK + 77]
    draws = taken(sequential, blocks[-1] + 1)
    for block in blocks:
        assert MixtureSchedule(weights)[block] == (draws[block], draws[:block].count(draws[block]))
        counts = np.bincount(draws[:block], minlength=len(weights)).tolist()
        assert MixtureSchedule(weights).drawn(block).tolist() == counts
    backwards = MixtureSchedule(weights)
    assert [backwards[block][0] for block in reversed(blocks)] == [draws[b] for b in reversed(blocks)]


def test_the_billionth_block_is_found_in_less_than_a_second():
    weights, far = skewed(60, 0), 10**9
    began = time.process_time()
    source, before = MixtureSchedule(weights)[far]
    assert time.process_time() - began < 1  # the promise; it takes about 0.1 s
    schedule = MixtureSchedule(weights)
    drawn, after = schedule.drawn(far), schedule.drawn(far + 1)
    assert drawn.sum() == far
    assert drawn[source] == before
    assert (after - drawn).tolist() == [int(i == source) for i in range(60)]
    exact = [far * share for share in shares(weights)]
    assert max(abs(int(count) - target) for count, target in zip(drawn, exact, strict=True)) < 1


def test_weights_that_hold_at_a_block_are_told():
    schedule = MixtureSchedule([3, 1], {10: [1, 0]})
    assert schedule.weights().tolist() == schedule.weights(9).tolist() == [0.75, 0.25]
    assert schedule.weights(10).tolist() == schedule.weights(10**9).tolist() == [1, 0]
    assert schedule.target(12).tolist() == [7.5 + 2, 2.5]


# --- orders and plans


def test_a_mixed_order_takes_each_sources_rows_in_turn_without_repeats_within_its_epoch():
    order = Mixed(MixtureSchedule([0.75, 0.25]), [Shuffled(6, 3), Shuffled(5, 4)], [0, 6])
    rows = [order[n] for n in range(20)]
    small = [row for row in rows if row >= 6]
    large = [row for row in rows if row < 6]
    assert len(small) == 5  # a quarter of 20
    assert sorted(small) == [6, 7, 8, 9, 10]
    assert sorted(large[:6]) == sorted(large[6:12]) == list(range(6))
    assert large[:6] != large[6:12]


def mixed_plan(micro=8, world=1, rank=0):
    sizes = [40, 25, 15]
    schedule = MixtureSchedule([0.6, 0.3, 0.1], {24: [0.1, 0.0, 0.9]})
    orders = [Shuffled(size, seed) for seed, size in enumerate(sizes)]
    lengths = np.random.default_rng(0).integers(3, 40, sum(sizes))
    return StepSampler(Mixed(schedule, orders, [0, 40, 65]), lengths, lengths - 1, 8, micro, world, rank)


@pytest.mark.parametrize(("micro", "world"), [(8, 1), (2, 1), (2, 2), (1, 4), (1, 8)])
def test_the_rows_of_a_mixed_step_do_not_depend_on_ranks_or_micro_batches(micro, world):
    for step in range(6):
        found = []
        for rank in range(world):
            plan = mixed_plan(micro, world, rank)
            first = step * plan.accumulate
            for index in range(first, first + plan.accumulate):
                at, places = plan.micro_batch(index)
                assert at == step
                found += plan.rows(step)[places].tolist()
            assert plan.normalizer(step) == mixed_plan().normalizer(step)
        assert sorted(found) == sorted(mixed_plan().rows(step).tolist())


def test_the_rows_of_a_mixed_step_do_not_depend_on_workers():
    def rows(workers):
        loader = StepLoader(mixed_plan(2), lambda rows, places: {"x": torch.tensor(rows[places])}, 9, workers)
        batches = iter(loader)
        return [next(batches)["x"].tolist() for _ in range(4 * 5)]

    assert rows(0) == rows(2)


# --- weights


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (1.0, [0.1, 0.9]),  # 100 : 900
        (0.5, [0.25, 0.75]),  # 10 : 30
        (0.0, [0.5, 0.5]),
        (-0.5, [0.75, 0.25]),  # 1/10 : 1/30
    ],
)
def test_temperature_weights_by_hand(temperature, expected):
    # two roundings of a power and a division, near 1e-16 each
    assert temperature_weights([100, 900], temperature) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", [[], [0, 0], [-1, 2], [float("nan"), 1], [float("inf"), 1]], ids=str)
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="give positive numbers"):
        MixtureSchedule(weights)
    with pytest.raises(ValueError, match="give positive numbers"):
        MixtureSchedule([1] * len(weights) or [1], {5: weights})


def test_another_number_of_weights_is_refused():
    with pytest.raises(ValueError, match="give one for each source, 0 for none"):
        MixtureSchedule([1, 1], {5: [1, 1, 1]})
