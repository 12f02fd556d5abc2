"""The mixed corpus: shares by tokens at every step, limits of epochs, sources of any kind."""

import gzip
import json
import time

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules import MixedCorpusData, Source
from modules import CausalLM
from tests.corpora import (
    GLOBAL,
    LENGTH,
    TINY_RUN,
    assert_identical,
    batches,
    maker,
    ready,
    shrink,
    texts_in,
    tokens_of,
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink(monkeypatch)


@pytest.fixture
def corpus(tiny_files, tiny_tokenizer):
    return maker(tiny_files, tiny_tokenizer)


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
    lines = ready(corpus(**limits)).run_errors(steps)
    assert [line.split()[0] for line in lines] == ["data.sources.a", "data.sources.b"]
    assert all("would be seen" in line for line in lines)


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
    assert data.run_errors(4) == []
    (line,) = data.run_errors(5)
    assert "seen 2.50 times in 5 steps, its max_epochs is 2:" in line


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
    assert data.splits["train"].blocks[0].read()[0].tolist() == flat


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
