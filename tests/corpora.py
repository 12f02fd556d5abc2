"""The mixture of the two tiny sources, and what its tests ask of loaders."""

import json
from pathlib import Path

import torch

from datamodules import MixedCorpusData, Source
from datamodules.caching import writer
from datamodules.sampling import orders

LENGTH, GLOBAL = 32, 8


def shrink(monkeypatch):
    """Windows and shards that tiny sources have several of."""
    monkeypatch.setattr(orders, "WINDOW", 8)
    monkeypatch.setattr(writer, "BATCH_ROWS", 10)
    monkeypatch.setattr(writer, "SHARD_BYTES", 3000)


def maker(tiny_files, tiny_tokenizer):
    """Makes mixtures of the tiny sources a and b, by default 0.7 to 0.3."""

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


TINY_RUN = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
