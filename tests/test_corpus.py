"""The mixed corpus: shares by tokens at every step, sources of any kind, also while they are read, and a run
that goes on where it stopped."""

import gzip
import json
import threading
import time
from pathlib import Path

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules import InstructionData, InstructionSource, MixedCorpusData, Source
from datamodules.caching import token_cache
from datamodules.sampling import step_sampler
from modules import CausalLM

LENGTH, GLOBAL = 32, 8


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Windows and shards that tiny sources have several of."""
    monkeypatch.setattr(step_sampler, "WINDOW", 8)
    monkeypatch.setattr(token_cache, "BATCH_ROWS", 10)
    monkeypatch.setattr(token_cache, "SHARD_BYTES", 3000)


@pytest.fixture
def corpus(tiny_files, tiny_tokenizer):
    """A mixture of the tiny sources a and b, by default 0.7 to 0.3."""

    def make(a=None, b=None, **options):
        sources = {
            "a": Source(str(tiny_files / "a.train.jsonl"), **{"weight": 0.7, **(a or {})}),
            "b": Source(str(tiny_files / "b.train.jsonl"), **{"weight": 0.3, **(b or {})}),
        }
        given = {"sequence_length": LENGTH, "global_batch_size": GLOBAL, "micro_batch_size": 2, **options}
        return MixedCorpusData(sources, tiny_tokenizer, **given)

    return make


def ready(data):
    data.setup()
    return data


def batches(data, count):
    return [batch for batch, _ in zip(data.train_dataloader(), range(count), strict=False)]


def assert_identical(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert value.dtype == other[key].dtype
            assert torch.equal(value, other[key]), key


def tokens_of(data, texts):
    """As `DocumentEncoder` promises: bos, the text, eos; by plain `transformers`."""
    tokenizer = data.tokenizer
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [[*begin, *one, tokenizer.eos_token_id] for one in ids]


def texts_in(file):
    return [json.loads(line)["text"] for line in Path(file).read_text("utf-8").splitlines()]


# --- shares


def realised(data, steps):
    """Tokens of each source (steps + 1, sources) after every step, counted in the batches themselves."""
    given = batches(data, steps * data.sampler().accumulate)
    found = np.zeros((steps + 1, 2))
    for batch in given:
        for source, row in zip(batch["source"].tolist(), batch["document_ids"], strict=True):
            found[int(batch["step"]) + 1, source] += int((row >= 0).sum())
    return found.cumsum(0)


def test_the_realised_shares_are_within_one_block_of_the_weights_at_every_step(corpus):
    data = ready(corpus())
    tokens = realised(data, 30)
    for step in range(1, 31):
        total = step * GLOBAL * LENGTH
        assert tokens[step].sum() == total
        assert abs(tokens[step] - total * np.array([0.7, 0.3])).max() < LENGTH
        told = data.mixture(step)
        assert [told[name]["tokens"] for name in "ab"] == tokens[step].tolist()
        assert [told[name]["realised"] for name in "ab"] == pytest.approx(tokens[step] / total, rel=1e-12)
        blocks = [len(split) for split in data.splits["train"].blocks]
        epochs = [tokens[step, i] / LENGTH / blocks[i] for i in range(2)]
        assert [told[name]["epochs"] for name in "ab"] == pytest.approx(epochs, rel=1e-12)


def test_weights_change_at_the_step_that_is_named(corpus):
    """70 : 30 for ten steps, then b alone for five, then half and half."""
    data = ready(corpus(weight_changes={10: {"b": 2.0}, 15: {"a": 1.0, "b": 1.0}}))
    tokens = realised(data, 25) / LENGTH
    for step in range(1, 26):
        a = 0.7 * 8 * min(step, 10) + 0.5 * 8 * max(0, step - 15)
        assert abs(tokens[step, 0] - a) < 1
        assert abs(tokens[step, 1] - (8 * step - a)) < 1
    assert tokens[15, 0] == tokens[10, 0]
    # at `step` steps done, the weight of the last block that was drawn
    assert [data.mixture(step)["b"]["weight"] for step in (1, 10, 11, 15, 16)] == [0.3, 0.3, 1, 1, 0.5]


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_temperature_weighs_by_size(tmp_path, rows, tiny_tokenizer, temperature):
    """Sources of 9 and 1 parts: √ makes 3 : 1 of it; the weights 1 : 3 come on top."""
    line = {"text": "the film is good and the story is great"}
    nine, one = rows(tmp_path / "nine.jsonl", [line] * 90), rows(tmp_path / "one.jsonl", [line] * 10)
    for weights in ((1.0, 1.0), (1.0, 3.0)):
        sources = {"nine": Source(nine, weights[0]), "one": Source(one, weights[1])}
        data = MixedCorpusData(sources, tiny_tokenizer, temperature=temperature, sequence_length=8)
        data.setup()
        parts = [weights[0] * 9**temperature, weights[1] * 1**temperature]
        found = data.mixture(1000)  # 32 000 blocks, each share within one of them
        assert found["nine"]["weight"] == pytest.approx(parts[0] / sum(parts), rel=1e-9)
        assert found["nine"]["realised"] == pytest.approx(parts[0] / sum(parts), abs=1 / 32_000)


def test_the_mixture_of_a_million_steps_is_told_in_less_than_a_second(corpus):
    data = ready(corpus(a={"weight": 0.999}, b={"weight": 0.001}))
    began = time.process_time()
    told = data.mixture(10**6)
    assert time.process_time() - began < 1  # the promise
    assert told["b"]["tokens"] == pytest.approx(0.001 * 10**6 * GLOBAL * LENGTH, abs=LENGTH)
    assert data.mixture(0)["a"]["tokens"] == 0


# --- epochs


TINY_RUN = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Steps(L.Callback):
    def __init__(self):
        self.begun = 0

    def on_train_batch_start(self, *_):
        self.begun += 1


def fit(data, tiny_config, steps):
    count = Steps()
    trainer = L.Trainer(max_steps=steps, callbacks=[count], **TINY_RUN)
    try:
        trainer.fit(CausalLM({**tiny_config, "num_hidden_layers": 1}, warmup_steps=0), data)
    finally:
        fit.begun = count.begun
    return trainer


def test_a_run_that_would_see_a_source_too_often_is_refused_before_its_first_step(corpus, tiny_config):
    data = ready(corpus())
    blocks = [len(part) for part in data.splits["train"].blocks]
    a, b = 0.7 * GLOBAL / blocks[0], 0.3 * GLOBAL / blocks[1]  # epochs a step
    steps = int(1.4 / a)
    limits = {"a": {"max_epochs": 1.0}, "b": {"max_epochs": 9.0}}
    with pytest.raises(ValueError, match="would be seen") as refused:
        fit(corpus(**limits), tiny_config, steps)
    assert fit.begun == 0
    (line,) = str(refused.value).splitlines()
    found = float(line.partition("would be seen ")[2].partition(" times")[0])
    assert found == pytest.approx(steps * a, abs=1 / blocks[0] + 0.005)  # a block, and two decimals
    assert line == (
        f"data.sources.a would be seen {found:.2f} times in {steps} steps, its max_epochs is 1: "
        "lower its weight, train for fewer steps, or add text"
    )
    assert steps * b < 9
    limits["b"]["max_epochs"] = 0.1
    both = ready(corpus(**limits))
    with pytest.raises(ValueError, match="would be seen") as refused:
        both.check_epochs(steps)
    assert [line.split()[0] for line in str(refused.value).splitlines()] == [
        "data.sources.a",
        "data.sources.b",
    ]


def test_a_run_that_stays_below_its_limit_is_trained(corpus, tiny_config):
    trainer = fit(corpus(a={"max_epochs": 1.0}, b={"max_epochs": 1}), tiny_config, 2)
    assert (trainer.global_step, fit.begun) == (2, 8)  # micro-batches


def test_the_limit_itself_is_allowed(tmp_path, rows, tiny_tokenizer):
    """Ten blocks; steps of five: two steps are one epoch to the block."""
    text = "the film is good"
    probe = MixedCorpusData({"a": Source("x")}, tiny_tokenizer)
    each = len(tokens_of(probe, [text])[0])
    file = rows(tmp_path / "x.jsonl", [{"text": text}] * 10)
    options = {"sequence_length": each, "global_batch_size": 5, "micro_batch_size": 5}
    data = ready(MixedCorpusData({"a": Source(file, max_epochs=2)}, tiny_tokenizer, **options))
    data.check_epochs(4)
    with pytest.raises(ValueError, match=r"seen 2\.50 times in 5 steps, its max_epochs is 2:"):
        data.check_epochs(5)


# --- sources of any kind


def test_blocks_are_the_documents_one_after_another(corpus, tiny_files):
    data = ready(corpus())
    blocks = data.splits["train"].blocks[0]
    documents = tokens_of(data, texts_in(tiny_files / "a.train.jsonl"))
    flat = [token for document in documents for token in document]
    assert len(blocks) == len(flat) // LENGTH
    for block in range(len(blocks)):
        assert blocks[block][0].tolist() == flat[block * LENGTH : (block + 1) * LENGTH]
    assert data.receipts[0].rows == data.receipts[0].kept == len(documents)
    assert data.receipts[0].tokens == len(flat)


def test_files_of_all_kinds_are_one_source(tmp_path, rows, corpus, tiny_files):
    texts = texts_in(tiny_files / "a.train.jsonl")[:40]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[:10])
    (tmp_path / "1.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.table({"text": texts[10:20]}), tmp_path / "2.parquet")
    for number, text in enumerate(texts[20:30]):
        (tmp_path / f"3{number}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "4.json").write_text(json.dumps([{"text": text} for text in texts[30:]]), encoding="utf-8")
    mixed = [str(tmp_path / name) for name in ("1.jsonl.gz", "2.parquet", "3*.txt", "4.json")]
    plain = rows(tmp_path / "plain.jsonl", [{"text": text} for text in texts])
    found, expected = ready(corpus()), ready(corpus())
    for data, path in ((found, mixed), (expected, plain)):
        data.sources["a"].train = path
        data.splits = data.read()
    assert len(expected.splits["train"].blocks[0]) > 20
    assert_identical(batches(found, 12), batches(expected, 12))


def spoken(row):
    return f"{row['who']} says {row['what']}" if row["what"] else None


def test_a_text_may_be_a_function_of_the_row(tmp_path, rows, corpus):
    rows(tmp_path / "x.jsonl", [{"who": f"a{n}", "what": "the film is good"} for n in range(60)])
    data = corpus(a={"text": spoken})
    data.sources["a"].train = str(tmp_path / "x.jsonl")
    ready(data)
    flat = [t for one in tokens_of(data, [f"a{n} says the film is good" for n in range(60)]) for t in one]
    assert data.splits["train"].blocks[0].everything()[0].tolist() == flat


def test_a_function_that_gives_no_text_is_told_with_its_name(tmp_path, rows, corpus):
    data = corpus(a={"text": spoken}, max_dropped=0.0)
    data.sources["a"].train = rows(
        tmp_path / "x.jsonl", [{"who": "a", "what": "x"}] * 9 + [{"who": "a", "what": ""}]
    )
    with pytest.raises(ValueError, match=r"spoken gave NoneType, not text.*x\.jsonl:10"):
        data.setup()


def test_a_source_shorter_than_a_block_is_refused(tmp_path, rows, corpus):
    data = corpus()
    data.sources["b"].train = rows(tmp_path / "x.jsonl", [{"text": "the"}])
    with pytest.raises(ValueError, match=r"data\.sources\.b: \d tokens are less than one block of 32"):
        data.setup()


# --- streaming

GATES: dict[str, threading.Event] = {}


def gated(row):
    """The text; a writer stops at a row of the name of a gate until that is opened."""
    if row.get("gate"):
        assert GATES[row["gate"]].wait(60)
    return row["text"]


@pytest.fixture
def streaming(tmp_path, rows, corpus, tiny_files, monkeypatch):
    """Data whose source a is streaming and has a gate at the 100th of its 192 rows, in a new cache."""

    def make(name, opened, **options):
        monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / name))
        texts = texts_in(tiny_files / "a.train.jsonl")
        lines = [{"text": text, "gate": "a" if n == 100 else None} for n, text in enumerate(texts)]
        GATES["a"] = threading.Event()
        if opened:
            GATES["a"].set()
        data = corpus(a={"text": gated, "streaming": True}, **options)
        file = tmp_path / "stream.jsonl"
        if not file.exists():  # the writer behind an earlier object may still be reading it
            rows(file, lines)
        data.sources["a"].train = str(file)
        return data

    return make


def complete(data):
    """Waits until the streaming source is there as a whole."""
    blocks = data.splits["train"].blocks[0]
    blocks.wait_for(10**9)
    assert blocks.complete
    return data


def test_a_source_that_still_grows_gives_the_same_batches_as_a_complete_one(streaming):
    growing = ready(streaming("growing", False))
    blocks = growing.splits["train"].blocks[0]
    assert not blocks.complete
    loader = iter(growing.train_dataloader())
    early = [next(loader) for _ in range(8)]
    assert not blocks.complete  # these were read before the source was there
    GATES["a"].set()
    late = [next(loader) for _ in range(192)]
    finished = complete(ready(streaming("finished", True)))
    again = complete(ready(streaming("finished", True)))  # another object on the same cache
    assert_identical(early + late, batches(finished, 200))
    assert_identical(early + late, batches(again, 200))
    # 200 micro-batches of 2, seven tenths of a: more than one epoch of it
    assert finished.mixture(50)["a"]["epochs"] > 1
    rows = [row for batch in early + late for row in batch["rows"].tolist() if row < step_sampler.WINDOW]
    assert len(rows) >= step_sampler.WINDOW


def test_a_streaming_epoch_has_every_block_once_shuffled_within_windows(streaming):
    data = complete(ready(streaming("finished", True)))
    size = len(data.splits["train"].blocks[0])
    order = data.order().orders[0]
    for epoch in range(2):
        rows = [order[epoch * size + n] for n in range(size)]
        assert sorted(rows) == list(range(size))
        assert rows != sorted(rows)
        # place and row are in the same window
        assert all(
            row // step_sampler.WINDOW == place // step_sampler.WINDOW for place, row in enumerate(rows)
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streaming_run_that_is_resumed_while_the_source_grows_goes_on_as_it_was(streaming, workers):
    expected = batches(complete(ready(streaming("finished", True))), 60)
    growing = ready(streaming("growing", False, num_workers=workers))
    loader = growing.train_dataloader()
    loader.load_state_dict({"step": 2})
    opener = threading.Timer(0.2, GATES["a"].set)
    opener.start()
    found = [batch for batch, _ in zip(loader, range(52), strict=False)]
    assert_identical(found, expected[8:])


def test_epochs_and_receipt_of_a_source_that_grew_are_those_of_all_of_it(streaming):
    """What is logged and kept as provenance at the end of a run, whoever read the blocks meanwhile."""
    whole = complete(ready(streaming("finished", True)))
    growing = ready(streaming("growing", False))
    assert not growing.splits["train"].blocks[0].complete
    GATES["a"].set()
    complete(ready(streaming("growing", True)))  # another reader, as a worker is
    assert growing.mixture(10) == whole.mixture(10)
    assert growing.receipts[0].to_dict() == whole.receipts[0].to_dict()


def test_half_an_epoch_ends_a_streaming_source_that_is_complete(streaming):
    data = complete(ready(streaming("finished", True)))
    blocks = data.splits["train"].blocks[0]
    order = step_sampler.Windowed(blocks, 0, "data.sources.a", 0.5)
    half = -(-len(blocks) // 2)
    assert order[half - 1] >= 0
    with pytest.raises(ValueError, match=r"data\.sources\.a has been seen 0\.5 times, its max_epochs"):
        order[half]


def test_a_run_by_epochs_waits_for_no_streaming_source_and_is_refused_until_it_is_complete(
    streaming, tiny_config
):
    """Of what is there when training begins an epoch would be a fraction."""

    def run(data):
        trainer = L.Trainer(max_epochs=1, **TINY_RUN)
        trainer.fit(CausalLM({**tiny_config, "num_hidden_layers": 1}, warmup_steps=0), data)
        return trainer

    remedies = r"data\.sources\.a .* set trainer\.max_steps, or data\.sources\.a\.streaming: false"
    with pytest.raises(ValueError, match=remedies):
        run(streaming("growing", False))
    GATES["a"].set()
    whole = complete(ready(streaming("growing", True)))
    assert run(streaming("growing", True)).global_step == whole.steps_per_epoch


@pytest.fixture
def with_a_bad_row(tmp_path, rows, corpus, monkeypatch):
    """Data whose source a is streaming and has a number for a text in row 301 of 401; a cache of its own."""
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))
    lines = [{"text": "the film is good and the story is great"}] * 401
    file = rows(tmp_path / "bad.jsonl", [*lines[:300], {"text": 3}, *lines[301:]])

    def make(**options):
        data = corpus(a={"streaming": True}, **{"max_dropped": 1.0, **options})
        data.sources["a"].train = file
        return data

    return make


BAD = r"bad\.jsonl:301: `text` is int, not text"


def test_a_bad_row_of_a_streaming_source_stops_who_reads_it_with_its_place(with_a_bad_row):
    with pytest.raises(ValueError, match=rf"data\.sources\.a: .*{BAD}"):
        batches(ready(with_a_bad_row()), 400)


def test_a_bad_row_that_stopped_a_streaming_run_can_be_left_out_by_the_next(with_a_bad_row):
    with pytest.raises(ValueError, match=BAD):
        batches(ready(with_a_bad_row()), 400)
    data = complete(ready(with_a_bad_row(on_bad_row="skip")))
    assert data.splits["train"].blocks[0].cache.index.refused == {"`text` is int, not text": 1}


def test_a_bad_row_that_one_streaming_run_left_out_stops_the_next_that_may_not(with_a_bad_row):
    complete(ready(with_a_bad_row(on_bad_row="skip")))
    data = with_a_bad_row()
    with pytest.raises(ValueError, match=BAD):
        data.setup()


def test_a_streaming_source_that_lost_too_much_stops_who_reads_it_when_all_is_tokenised(with_a_bad_row):
    with pytest.raises(ValueError, match=r"1 of 401 rows .* would be left out, more than max_dropped"):
        complete(ready(with_a_bad_row(on_bad_row="skip", max_dropped=0.001)))
    complete(ready(with_a_bad_row(on_bad_row="skip")))


def test_a_complete_streaming_source_that_lost_too_much_is_refused(with_a_bad_row):
    """The cache is complete: how much is left out is known before the first step."""
    complete(ready(with_a_bad_row(on_bad_row="skip")))
    data = with_a_bad_row(on_bad_row="skip", max_dropped=0.001)
    with pytest.raises(ValueError, match=r"1 of 401 rows .* would be left out, more than max_dropped"):
        data.setup()


# --- resume


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


# --- refusals


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"a": {"weight": 0}}, "data.sources.a.weight is 0: give a number above 0"),
        ({"a": {"weight": float("nan")}}, "data.sources.a.weight is nan: give a number above 0"),
        ({"a": {"weight": float("inf")}}, "data.sources.a.weight is inf: give a number above 0"),
        ({"b": {"max_epochs": 0}}, "data.sources.b.max_epochs is 0: give a number above 0"),
        ({"weight_changes": {3: {"c": 1}}}, "data.weight_changes.3 names c, which is no source"),
        ({"weight_changes": {0: {"a": 1}}}, "data.weight_changes.0: give an optimizer step after the first"),
        (
            {"weight_changes": {3: {"a": 0, "b": 0}}},
            "data.weight_changes.3: give weights of 0 or more, one of them above 0",
        ),
        (
            {"weight_changes": {3: {"a": -1, "b": 2}}},
            "data.weight_changes.3: give weights of 0 or more, one of them above 0",
        ),
        (
            {"weight_changes": {3: {"a": float("nan"), "b": 2}}},
            "data.weight_changes.3: give weights of 0 or more, one of them above 0",
        ),
        (
            {"a": {"streaming": True}, "temperature": 0.5},
            "data.temperature needs the size of a, which is streaming: give weights",
        ),
        ({"sequence_length": 1}, "data.sequence_length is 1: give 2 or more"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_mixture_that_cannot_be_is_refused_with_its_field(corpus, options, line):
    (found,) = corpus(**options).config_errors(1)
    assert found.startswith(line)
