"""Pretraining data: several sources, mixed by tokens, packed into blocks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.base import PlannedData, too_small
from datamodules.collate import packed_blocks, token_rows
from datamodules.mixing import Schedule
from datamodules.plan import Batch, EvalBatches, Mixed, Order
from datamodules.receipt import Receipt
from datamodules.rows import INTS, Rows, encode_rows, sample, text_of
from datamodules.sources import check_columns, load_rows
from datamodules.tokenizer import bos, tokenize


@dataclass
class Source:
    """One source of a mixture.

    Args:
        train: files (globs allowed), a saved `datasets` folder or a hub name.
        weight: share of the training tokens, relative to the other sources'.
        val: likewise, for validation; None = this source is not validated.
        text: the column that holds a document.
    """

    train: str | list[str]
    weight: float
    val: str | list[str] | None = None
    text: str = "text"


class Blocks:
    """The documents of one source, one after another, cut into blocks of `length` tokens.

    Args:
        documents: encoded documents.
        length: tokens of a block.
        keep_tail: whether the last, shorter block counts (it is padded), or is left out.
    """

    def __init__(self, documents: Rows, length: int, keep_tail: bool):
        self.length = length
        table = documents.data.with_format("arrow")
        parts = [batch["input_ids"].combine_chunks().flatten().to_numpy() for batch in table.iter(10_000)]
        self.tokens = np.concatenate(parts)
        self.ends = np.cumsum(documents.lengths)
        self.size = -(-len(self.tokens) // length) if keep_tail else len(self.tokens) // length

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and document ids (from 0, −1 = padding) of a block, `length` each; the ids' padding is 0."""
        start = block * self.length
        tokens = self.tokens[start : start + self.length]
        documents = np.searchsorted(self.ends, np.arange(start, start + len(tokens)), side="right")
        tail = self.length - len(tokens)
        return np.pad(tokens, (0, tail)), np.pad(documents - documents[0], (0, tail), constant_values=-1)


class CorpusSplit:
    """The blocks of all sources of a split; row ids count through the sources in order."""

    def __init__(self, documents: dict[str, Rows], length: int, keep_tail: bool):
        self.documents = documents
        self.blocks = [Blocks(rows, length, keep_tail) for rows in documents.values()]
        self.sizes = [len(blocks) for blocks in self.blocks]
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.lengths = np.full(len(self), length)
        self.ids = np.arange(len(self))
        self.receipts: list[Receipt] = [rows.receipt for rows in documents.values()]
        self.weights = np.array([self._targets(*self[row][1]) for row in range(len(self))])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
        """The source of a block, and the block."""
        source = int(np.searchsorted(self.starts, row, side="right")) - 1
        return source, self.blocks[source][row - int(self.starts[source])]

    @staticmethod
    def _targets(_: np.ndarray, documents: np.ndarray) -> int:
        return int(((documents[1:] == documents[:-1]) & (documents[1:] >= 0)).sum())


class MixedCorpusData(PlannedData):
    """Several sources of documents, mixed by tokens: a weight of 0.3 is 30 % of the tokens at every moment.

    Every source is packed into blocks on its own; a document never sees another, and its positions start at
    0.

    Args:
        sources: name → source.
        tokenizer: a Hugging Face directory or cached hub name.
        sequence_length: tokens of a block.
        global_batch_size: blocks of an optimizer step over all ranks and micro-batches.
        micro_batch_size: blocks of one forward on one rank; gradient accumulation follows from both.
        eval_batch_size: blocks of one forward in validation.
        seed: of the order.
        num_workers: processes that prepare batches; 0 = in the training process.
    """

    def __init__(
        self,
        sources: dict[str, Source],
        tokenizer: str,
        sequence_length: int = 1024,
        global_batch_size: int = 32,
        micro_batch_size: int = 8,
        eval_batch_size: int = 8,
        seed: int = 0,
        num_workers: int = 0,
    ):
        super().__init__(tokenizer, global_batch_size, micro_batch_size, eval_batch_size, seed, num_workers)
        self.sources = sources
        self.sequence_length = sequence_length
        self.schedule = Schedule([max(source.weight, 1e-12) for source in sources.values()] or [1.0])

    @property
    def source_names(self) -> list[str]:
        return list(self.sources)

    @property
    def has_validation(self) -> bool:
        return any(source.val for source in self.sources.values())

    def problems(self, world_size: int, accumulate: int = 1) -> list[str]:
        found = super().problems(world_size, accumulate)
        if not self.sources:
            found.append("data.sources is empty: name at least one source")
        for name, source in self.sources.items():
            if not source.weight > 0:
                found.append(f"data.sources.{name}.weight is {source.weight}: give a number above 0")
        return found + too_small("data.sequence_length", self.sequence_length, 2)

    def read(self) -> dict[str, CorpusSplit]:
        train = {name: self._documents(name, s.train, s.text) for name, s in self.sources.items()}
        split = CorpusSplit(train, self.sequence_length, keep_tail=False)
        for name, size in zip(train, split.sizes, strict=True):
            if not size:
                raise ValueError(
                    f"data.sources.{name}: {train[name].receipt.tokens} tokens are less than one block of "
                    f"{self.sequence_length}: add text or lower data.sequence_length"
                )
        splits = {"train": split}
        named = {name: s for name, s in self.sources.items() if s.val is not None}
        if named:
            val = {name: self._documents(name, s.val, s.text, " (val)") for name, s in named.items()}
            splits["val"] = CorpusSplit(val, self.sequence_length, keep_tail=True)
        return splits

    def _documents(self, name: str, path: Any, column: str, suffix: str = "") -> Rows:
        field = f"data.sources.{name}"
        rows = load_rows(path, field)
        check_columns(rows, (column,), field, path)
        tokenizer = self.tokenizer

        def encode(row: dict[str, Any]) -> dict[str, Any]:
            ids = [*bos(tokenizer), *tokenize(tokenizer, text_of(row, column)), tokenizer.eos_token_id]
            return {"input_ids": ids, "length": len(ids), "weight": len(ids) - 1}

        encoded = encode_rows(rows, encode, {"input_ids": INTS}, f"corpus {column}", field, path, tokenizer)
        encoded.receipt.source = name + suffix
        ids = encoded[0]["input_ids"]
        encoded.receipt.sample = sample(tokenizer, ids, [False] + [True] * (len(ids) - 1))
        return encoded

    def order(self) -> Order:
        return Mixed(self.schedule, self.splits["train"].sizes, self.seed)

    def collate(self, split: str, rows: np.ndarray) -> Batch:
        blocks = [self.splits[split][max(0, row)] for row in rows]
        names = list(self.splits[split].documents)
        ids = np.stack([block[0] for _, block in blocks])
        documents = np.stack([block[1] for _, block in blocks])
        documents[rows < 0] = -1
        return packed_blocks(ids, documents, [self.source_names.index(names[source]) for source, _ in blocks])

    def mixture(self, step: int) -> dict[str, dict[str, float]]:
        """After `step` optimizer steps: weight, realised share, tokens and epochs of each source."""
        drawn = self.schedule.drawn(step * self.global_batch_size)
        sizes = self.splits["train"].sizes
        return {
            name: {
                "weight": float(self.schedule.weights[i]),
                "realised": float(drawn[i] / max(1, drawn.sum())),
                "tokens": int(drawn[i]) * self.sequence_length,
                "epochs": float(drawn[i] / sizes[i]),
            }
            for i, name in enumerate(self.source_names)
        }

    def predict_dataloader(self) -> EvalBatches:
        """Documents one by one (cut to the block's length) instead of blocks; row ids count through the
        sources."""
        split = self.splits.get("val", self.splits["train"])
        sources = list(split.documents.values())
        starts = np.concatenate([[0], np.cumsum([len(rows) for rows in sources])])
        lengths = np.minimum(np.concatenate([rows.lengths for rows in sources]), self.sequence_length)

        def make(ids: np.ndarray) -> Batch:
            source = np.searchsorted(starts, ids.clip(min=0), side="right") - 1
            documents = [
                sources[s][max(0, row) - int(starts[s])]["input_ids"][: self.sequence_length]
                for s, row in zip(source, ids, strict=True)
            ]
            labels = [np.concatenate([[-100], document[1:]]) for document in documents]
            return token_rows(documents, labels, source.tolist(), self.tokenizer.pad_token_id)

        everything = np.arange(starts[-1])
        return EvalBatches(everything, lengths, everything, self.eval_batch_size, make, *self.ranks())
