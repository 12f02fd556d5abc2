"""Loaders stopped anywhere go on with the same tensors, with workers and on ranks too, for every kind of
rows."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules import InstructionData, InstructionSource, MixedCorpusData, Source
from tests.corpora import LENGTH, assert_identical, batches, ready, shrink


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink(monkeypatch)


def corpus_data(tiny_files, tiny_tokenizer, **options):
    sources = {
        name: Source(str(tiny_files / f"{name}.train.jsonl"), weight)
        for name, weight in (("a", 0.7), ("b", 0.3))
    }
    changes = {5: {"a": 0.2, "b": 0.8}}
    return MixedCorpusData(sources, tiny_tokenizer, changes, None, LENGTH, **options)


def instruction_data(tiny_files, tiny_tokenizer, packing=None, **options):
    file = str(tiny_files / "instructions.train.jsonl")
    return InstructionData(file, tiny_tokenizer, max_length=64, packing=packing, **options)


def packed_data(tiny_files, tiny_tokenizer, **options):
    return instruction_data(tiny_files, tiny_tokenizer, packing=128, **options)


def mixed_instructions(tiny_files, tiny_tokenizer, **options):
    file = str(tiny_files / "instructions.train.jsonl")
    sources = {"x": InstructionSource(file), "y": InstructionSource([file, file], 3.0)}
    return InstructionData(sources, tiny_tokenizer, max_length=64, packing=128, **options)


KINDS = [corpus_data, instruction_data, packed_data, mixed_instructions]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def fresh(request, tiny_files, tiny_tokenizer):
    """A new data module each time: steps of 8, micro-batches of 2."""

    def make(workers=0, micro=2):
        options = {"global_batch_size": 8, "micro_batch_size": micro, "num_workers": workers}
        return ready(request.param(tiny_files, tiny_tokenizer, **options))

    return make


def test_a_loader_stopped_anywhere_goes_on_with_the_same_tensors(fresh):
    whole = batches(fresh(), 90)
    data = fresh()

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.integers(0, 36))
    def goes_on(stop):
        before = data.train_dataloader()
        taken = [batch for _, batch in zip(range(stop), before, strict=False)]
        assert_identical(taken, whole[:stop])
        after = data.train_dataloader()
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        first = stop - stop % 4  # a step that was broken off is begun again
        found = [batch for _, batch in zip(range(10), after, strict=False)]
        assert_identical(found, whole[first : first + 10])

    goes_on()


@pytest.mark.parametrize("stop", [1, 14])
def test_two_workers_stopped_and_begun_again_give_the_next_fifty_batches(fresh, stop):
    whole = batches(fresh(), 62)
    before = fresh(2).train_dataloader()
    taken = [batch for _, batch in zip(range(stop), before, strict=False)]
    assert_identical(taken, whole[:stop])
    after = fresh(2).train_dataloader()
    after.load_state_dict(before.state_dict())
    first = stop - stop % 4
    found = [batch for _, batch in zip(range(50), after, strict=False)]
    assert_identical(found, whole[first : first + 50])


@pytest.mark.parametrize("micro", [1, 4])
def test_two_ranks_that_go_on_train_on_the_same_rows_in_each_step(fresh, monkeypatch, micro):
    steps = 12
    alone = batches(fresh(), 4 * steps)

    def by_step(found):
        rows = {}
        for batch in found:
            rows.setdefault(int(batch["step"]), []).extend(batch["rows"].tolist())
        return {step: sorted(one) for step, one in rows.items()}

    expected = by_step(alone)
    together = {}
    for rank in range(2):
        data = fresh(micro=micro)
        monkeypatch.setattr(data, "ranks", lambda rank=rank: (2, rank))
        loader = data.train_dataloader()
        loader.load_state_dict({"step": 3})  # as saved by one rank
        count = (steps - 3) * loader.sampler.accumulate
        found = [batch for _, batch in zip(range(count), loader, strict=False)]
        for batch in found:
            assert float(batch["normalizer"]) == float(alone[4 * int(batch["step"])]["normalizer"])
        for step, rows in by_step(found).items():
            together[step] = sorted([*together.get(step, []), *rows])
    assert together == {step: rows for step, rows in expected.items() if step >= 3}
