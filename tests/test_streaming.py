"""A source that trains while it is still being tokenised: the same batches as when it is complete, its
limits, and its bad rows."""

import threading

import lightning as L
import pytest

from datamodules.sampling import orders
from modules import CausalLM
from tests.corpora import TINY_RUN, assert_identical, batches, maker, ready, shrink, texts_in


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink(monkeypatch)


@pytest.fixture
def corpus(tiny_files, tiny_tokenizer):
    return maker(tiny_files, tiny_tokenizer)


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
    rows = [row for batch in early + late for row in batch["rows"].tolist() if row < orders.WINDOW]
    assert len(rows) >= orders.WINDOW


def test_a_streaming_epoch_has_every_block_once_shuffled_within_windows(streaming):
    data = complete(ready(streaming("finished", True)))
    size = len(data.splits["train"].blocks[0])
    order = data.order().orders[0]
    for epoch in range(2):
        rows = [order[epoch * size + n] for n in range(size)]
        assert sorted(rows) == list(range(size))
        assert rows != sorted(rows)
        # place and row are in the same window
        assert all(row // orders.WINDOW == place // orders.WINDOW for place, row in enumerate(rows))


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
    order = orders.Windowed(blocks, 0, "data.sources.a", 0.5)
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
