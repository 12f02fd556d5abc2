"""A toy encoder whose tokens anybody can tell, and token caches made by it."""

import numpy as np
import pyarrow as pa

from datamodules.caching.row_encoder import RowEncoder
from datamodules.caching.token_cache import TokenCache
from datamodules.rendering.segments import Segment
from datamodules.rendering.whole_text import Tokens


class Letters(RowEncoder):
    """A toy encoder: a row's text as its code points; and what it is told to do at a row."""

    key = "letters"  # no tokenizer is in it

    def __init__(self, at=None, **more):
        super().__init__(None, {"input_ids": pa.list_(pa.int32()), **more}, "")
        self.at = at or {}

    def render(self, row, number):
        outcome = self.at[number]() if number in self.at else None
        if isinstance(outcome, Exception):
            raise outcome
        return [[Segment(row["text"], True)]]

    def tokenize(self, texts):
        ids = [np.array([ord(letter) for letter in segments[0].text], np.int32) for segments in texts]
        return [Tokens(each, np.ones(len(each), bool)) for each in ids]

    def finish(self, row, tokens):
        ids = tokens[0].ids
        return {"input_ids": ids, "length": len(ids), "weight": len(ids) - 1}

    def encode(self, records):
        try:
            return super().encode(records)
        except OutOfRoom as error:
            raise RuntimeError("the disk is full") from error


class OutOfRoom(BaseException):
    """No fault of a row's: every `Exception` there would be."""


def fail():
    """What a row may be told to do: the writer ends."""
    raise OutOfRoom


def texts(count=200):
    rng = np.random.default_rng(0)
    return ["".join(chr(97 + n) for n in rng.integers(0, 26, rng.integers(2, 30))) for _ in range(count)]


def cache(path, at=None):
    return TokenCache(path, "data.train", Letters(at))


def columns(found):
    return pa.Table.from_batches(found.batches).to_pydict()


def written(path, at=None):
    found = cache(path, at)
    found.write(strict=True)
    return found


def expected(found=None):
    """The columns that the texts must give."""
    found = texts() if found is None else found
    return {
        "input_ids": [[ord(letter) for letter in text] for text in found],
        "length": [len(text) for text in found],
        "weight": [len(text) - 1 for text in found],
        "number": list(range(len(found))),
    }
