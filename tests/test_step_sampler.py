"""The step sampler: what a step trains on is a pure function of (seed, step), however it is split."""

import numpy as np
import pytest
import torch

from datamodules.sampling.loaders import EvalBatches, StepLoader
from datamodules.sampling.orders import Shuffled
from datamodules.sampling.step_sampler import StepSampler

ROWS, GLOBAL = 24, 8
LENGTHS = np.random.default_rng(0).integers(3, 40, ROWS)
TARGETS = LENGTHS - 2
SPLITS = [(8, 1), (4, 1), (2, 1), (1, 1), (4, 2), (2, 2), (1, 4), (2, 4), (1, 8)]  # micro-batch size, ranks


def plan(micro=8, world=1, rank=0, seed=0, order=None):
    return StepSampler(order or Shuffled(ROWS, seed), LENGTHS, TARGETS, GLOBAL, micro, world, rank)


def step_rows(step, micro, world):
    """What every rank's micro-batches of a step hold: rank → micro-batch → row ids."""
    found = []
    for rank in range(world):
        share = plan(micro, world, rank)
        first = step * share.accumulate
        parts = [share.micro_batch(index) for index in range(first, first + share.accumulate)]
        assert {at for at, _ in parts} == {step}
        found.append([share.rows(step)[places].tolist() for _, places in parts])
    return found


def test_a_steps_rows_are_a_function_of_seed_and_step_alone():
    straight = [plan().rows(step).tolist() for step in range(9)]
    backwards = [plan().rows(step).tolist() for step in reversed(range(9))][::-1]  # a fresh plan each time
    assert straight == backwards
    assert straight != [plan(seed=1).rows(step).tolist() for step in range(9)]


@pytest.mark.parametrize(("micro", "world"), SPLITS)
def test_ranks_and_micro_batches_partition_the_same_step(micro, world):
    for step in range(4):
        parts = step_rows(step, micro, world)
        assert {len(part) for rank in parts for part in rank} == {micro}
        flat = [row for rank in parts for part in rank for row in part]
        assert sorted(flat) == sorted(plan().rows(step).tolist())


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_work_on_rows_of_like_length_at_the_same_time(world):
    """Rows are dealt longest first, micro-batch by micro-batch: no rank waits for another's long rows."""
    parts = step_rows(1, 1, world)
    for together in zip(*parts, strict=True):
        lengths = [LENGTHS[row] for part in together for row in part]
        others = sorted(LENGTHS[plan().rows(1)].tolist(), reverse=True)
        place = others.index(max(lengths))
        assert sorted(lengths, reverse=True) == others[place : place + world]


@pytest.mark.parametrize(("micro", "world"), SPLITS)
def test_the_normalizer_is_the_sum_of_the_steps_targets_on_every_rank(micro, world):
    for step in range(3):
        expected = sum(int(TARGETS[row]) for row in plan().rows(step))
        assert {plan(micro, world, rank).normalizer(step) for rank in range(world)} == {expected}


def test_a_step_without_targets_does_not_divide_by_zero():
    empty = StepSampler(Shuffled(ROWS, 0), LENGTHS, np.zeros(ROWS, dtype=int), GLOBAL, 8)
    assert empty.normalizer(0) == 1


def test_every_row_comes_once_an_epoch_in_another_order_each():
    epochs = [
        [row for step in range(3) for row in plan().rows(3 * epoch + step).tolist()] for epoch in range(4)
    ]
    for epoch in epochs:
        assert sorted(epoch) == list(range(ROWS))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_an_epoch_that_is_no_multiple_of_the_step_loses_no_row():
    """10 rows in steps of 4: rows 9 and 10 of an epoch share a step with the first of the next."""
    order = Shuffled(10, 0)
    short = StepSampler(order, np.ones(10, dtype=int), np.ones(10, dtype=int), 4, 4)
    seen = np.concatenate([short.rows(step) for step in range(5)])
    assert np.bincount(seen).tolist() == [2] * 10


def test_the_batches_carry_step_rows_and_normalizer_and_workers_change_nothing():
    def taken(workers):
        loader = StepLoader(plan(micro=2), lambda rows, places: {"x": torch.tensor(rows[places])}, 3, workers)
        assert len(loader) == 3 * 4
        batches = iter(loader)
        return [next(batches) for _ in range(8)]

    alone, helped = taken(0), taken(2)
    for a, b in zip(alone, helped, strict=True):
        assert {k: v.tolist() for k, v in a.items()} == {k: v.tolist() for k, v in b.items()}
        assert a["x"].tolist() == a["rows"].tolist()
    assert [int(batch["step"]) for batch in alone] == [0] * 4 + [1] * 4
    assert alone[0]["normalizer"].dtype == torch.float64
    assert float(alone[5]["normalizer"]) == sum(int(TARGETS[row]) for row in plan().rows(1))


def test_the_position_is_one_integer_whatever_the_split():
    """Saved by one process with micro-batches of 2, restored by the second of two ranks with 4."""

    def loader(micro, world=1, rank=0):
        return StepLoader(plan(micro, world, rank), lambda rows, places: {}, 9, 0)

    before = loader(2)
    batches = iter(before)
    for _ in range(2 * 4):
        next(batches)
    assert before.state_dict() == {"step": 2}
    after = loader(4, 2, 1)
    after.load_state_dict(before.state_dict())
    assert next(iter(after))["rows"].tolist() == plan().rows(2)[4:].tolist()
    # stopped in the middle of an accumulation: the step is begun again
    next(batches)
    assert before.state_dict() == {"step": 2}


# --- evaluation


@pytest.mark.parametrize("size", [1, 7, 8, 9, 24])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_row_once_in_equally_many_batches(size, world):
    lengths, ids = LENGTHS[:size], np.arange(size) + 100
    ranks = [
        EvalBatches(np.arange(size), lengths, ids, 4, lambda rows: {}, world, rank) for rank in range(world)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    seen = [int(row) for batches in ranks for batch in batches for row in batch["rows"]]
    assert (
        sorted(row for row in seen if row >= 0) == ids.tolist()
    )  # the rest are −1, which counts for nothing
    assert all(len(batch["rows"]) == 4 for batches in ranks for batch in batches)
