"""Pretraining data: several sources, mixed by tokens, packed into blocks."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from datamodules.base import RowSpec, TextDataModule, too_small
from datamodules.caching.blocks import SOURCE_STRIDE, MixtureBlocks, SourceBlocks
from datamodules.caching.row_encoder import RowEncoder
from datamodules.caching.split import EncodedRows, JoinedSplit
from datamodules.caching.token_cache import TokenCache
from datamodules.collate import Batch, packed_blocks, token_rows
from datamodules.errors import UserError
from datamodules.layouts.reader import Kind, RowReader
from datamodules.receipt import Receipts, sample
from datamodules.rendering.segments import DropRow, Row, Segment, text_of
from datamodules.rendering.tokenizer import vocabulary_size
from datamodules.rendering.whole_text import Tokens
from datamodules.sampling.loaders import EvalBatches
from datamodules.sampling.mixture import SEQUENCE_LENGTH, Mixture, Source
from datamodules.sampling.mixture_schedule import Mixed, MixtureSchedule
from datamodules.sampling.orders import RowOrder, Shuffled, Windowed, source_seed


class MixedCorpusData(TextDataModule):
    """Several sources of documents, mixed by tokens: a weight of 0.3 is 30 % of the tokens at every moment.

    Every source is packed into blocks on its own; a document never sees another, and its positions start at
    0.

    Args:
        sources: name → source.
        tokenizer: a Hugging Face directory or cached hub name.
        weight_changes: optimizer step → name → weight from that step on, for an annealing phase; a source
            that is not named has no share then.
        temperature: τ; the shares become weight × tokens^τ (1 = in proportion to size, 0 = as weighted).
        sequence_length: tokens of a block.
        eval_batch_size: blocks of one forward in validation.
        kwargs: as of `TextDataModule`, whose rows are blocks here.
    """

    makes: ClassVar[str] = "tokens"
    rows: ClassVar[Kind] = "documents"
    splits: Mapping[str, MixtureBlocks]

    def __init__(
        self,
        sources: dict[str, Source],
        tokenizer: str,
        weight_changes: dict[int, dict[str, float]] | None = None,
        temperature: float | None = None,
        sequence_length: int = SEQUENCE_LENGTH,
        eval_batch_size: int = 8,
        **kwargs: Any,
    ):
        super().__init__(tokenizer, eval_batch_size=eval_batch_size, **kwargs)
        self.sources = sources
        self.weight_changes = weight_changes or {}
        self.temperature = temperature
        self.sequence_length = sequence_length

    @classmethod
    def row_spec(cls, arguments: Mapping[str, Any]) -> RowSpec:
        return RowSpec(sequences=1, tokens=arguments["sequence_length"])

    @property
    def source_names(self) -> list[str]:
        return list(self.sources)

    @property
    def has_validation(self) -> bool:
        return any(source.val for source in self.sources.values())

    def named_files(self) -> dict[str, str | list[str]]:
        files: dict[str, str | list[str]] = {}
        for name, source in self.sources.items():
            named = [
                [paths] if isinstance(paths, str) else paths or [] for paths in (source.train, source.val)
            ]
            files[f"data.sources.{name}"] = [*named[0], *named[1]]
        return {field: paths for field, paths in files.items() if paths}

    def config_errors(self, world_size: int, accumulate: int = 1) -> list[str]:
        errors = super().config_errors(world_size, accumulate) + self._mix.config_errors()
        errors += [
            f"data.sources.{name} has no train: name its files (tokens alone are enough for a plan only)"
            for name, source in self.sources.items()
            if not source.train
        ]
        for name, source in self.sources.items():
            if source.columns or source.encoding:
                errors += self._reader(name).config_errors(f"data.sources.{name}")
            if source.text != "text" and (source.columns or {}).get("text", source.text) != source.text:
                errors.append(f"data.sources.{name} has text and columns.text: give one of them")
        if self.temperature is not None and not math.isfinite(self.temperature):
            errors.append(f"data.temperature is {self.temperature}: give a number")
        return errors + too_small("data.sequence_length", self.sequence_length, 2)

    @property
    def _mix(self) -> Mixture:
        return Mixture(self.sources, self.weight_changes, self.temperature)

    def run_errors(self, steps: int) -> list[str]:
        """Sources that the run would see more often than they may, or whose epoch has no known length."""
        train = self.splits["train"]
        growing = {
            name for name, blocks in zip(train.names, train.blocks, strict=True) if not blocks.complete
        }
        if growing and self.trainer is not None and self.trainer.max_steps <= 0:
            return [
                f"data.sources.{name} is still being tokenised, so how many steps an epoch has is not known: "
                f"set trainer.max_steps, or data.sources.{name}.streaming: false"
                for name in sorted(growing)
            ]
        epochs = {name: progress["epochs"] for name, progress in self.mixture(steps).items()}
        limits = {name: s.max_epochs for name, s in self.sources.items() if s.max_epochs is not None}
        return [
            f"data.sources.{name} would be seen {epochs[name]:.2f} times in {steps} steps, its max_epochs is "
            f"{limit:g}: lower its weight, train for fewer steps, or add text"
            for name, limit in limits.items()
            if epochs[name] > limit and name not in growing  # a growing one is watched while it is read
        ]

    def read(self) -> dict[str, MixtureBlocks]:
        self.__dict__.pop("schedule", None)  # of what was read before
        train = {name: self._blocks(name, s.train, s.streaming) for name, s in self.sources.items()}
        for name, blocks in train.items():
            blocks.wait_for(1)
            if not len(blocks):
                raise UserError(
                    f"data.sources.{name}: {blocks.starts[-1]} tokens are less than one block of "
                    f"{self.sequence_length}: add text or lower data.sequence_length"
                )
        val = {
            name: self._blocks(name, source.val, streaming=False, keep_tail=True)
            for name, source in self.sources.items()
            if source.val is not None
        }
        splits = {"train": MixtureBlocks(train, self.sequence_length)}
        return {**splits, "val": MixtureBlocks(val, self.sequence_length)} if val else splits

    def _blocks(self, name: str, path: Any, streaming: bool, keep_tail: bool = False) -> SourceBlocks:
        # an unfinished cache may be read from its first block on, by every process of the machine
        encoder = DocumentEncoder(self.tokenizer, self.sources[name].text, self._reader(name))
        cache = TokenCache(path, f"data.sources.{name}", encoder)
        cache.refresh()
        strict = self.on_bad_row == "error"
        if streaming and not cache.index.finished:
            if self.trainer is None or self.trainer.local_rank == 0:  # one process of each machine writes
                cache.write_behind(strict, self.max_dropped)
            cache.wait(lambda: cache.index.tokens >= self.sequence_length)
        else:
            cache.write(strict, self.max_dropped)
        return SourceBlocks(cache, self.sequence_length, keep_tail)

    def _reader(self, name: str) -> RowReader:
        source = self.sources[name]
        return self.reader(None, source.columns, source.encoding)

    @property
    def receipts(self) -> Receipts:
        receipts = Receipts()
        for which, split in self.splits.items():
            for receipt, blocks in zip(split.receipts, split.blocks, strict=True):
                receipt.source += "" if which == "train" else " (val)"
                tokens, documents = blocks[0]
                first = tokens[documents == 0]
                receipt.sample = sample(self.tokenizer, first, [False] + [True] * (len(first) - 1))
                receipts.append(receipt)
        return receipts

    @cached_property
    def schedule(self) -> MixtureSchedule:
        """Which source every block comes from."""
        tokens = [blocks.starts[-1] for blocks in self.splits["train"].blocks]
        return self._mix.schedule(self.global_batch_size, tokens)

    def order(self) -> RowOrder:
        split = self.splits["train"]
        orders: list[RowOrder] = []
        for index, (name, blocks) in enumerate(zip(split.names, split.blocks, strict=True)):
            seed = source_seed(self.seed, index)
            source = self.sources[name]
            if source.streaming:
                orders.append(Windowed(blocks, seed, f"data.sources.{name}", source.max_epochs))
            else:
                orders.append(Shuffled(len(blocks), seed))
        return Mixed(self.schedule, orders, [SOURCE_STRIDE * source for source in range(len(orders))])

    def batch(self, split: MixtureBlocks, rows: np.ndarray) -> Batch:
        blocks = [block for row in rows for block in split.members(max(0, row))]
        documents = np.stack([block["document_ids"] for block in blocks])
        documents[rows < 0] = -1
        source = [self.source_names.index(block["name"]) for block in blocks]
        return packed_blocks(np.stack([block["input_ids"] for block in blocks]), documents, source)

    def mixture(self, step: int) -> dict[str, dict[str, float]]:
        """After `step` optimizer steps: the weight now, realised share of all tokens, tokens and epochs of
        each source."""
        blocks = step * self.global_batch_size
        drawn, weights = self.schedule.drawn(blocks), self.schedule.weights(max(0, blocks - 1))
        sizes = self.splits["train"].sizes
        return {
            name: {
                "weight": float(weights[i]),
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
        documents = JoinedSplit([EncodedRows(blocks.cache) for blocks in split.blocks])
        names = [self.source_names.index(name) for name in split.names]

        def make(rows: np.ndarray) -> Batch:
            ids = [documents.members(max(0, row))[0]["input_ids"][: self.sequence_length] for row in rows]
            source = [names[documents.part_of(max(0, row))] for row in rows]
            return token_rows([[d] for d in ids], [[d] for d in ids], source, self.tokenizer.pad_token_id)

        documents.lengths = np.minimum(documents.lengths, self.sequence_length)
        return self.eval_batches(documents, make)


class DocumentEncoder(RowEncoder):
    """A row's text, from a column or a function, between bos (where the tokenizer has one) and eos."""

    def __init__(
        self,
        tokenizer: Any,
        text: str | Callable[[Row], str],
        reader: RowReader = RowReader("documents"),  # noqa: B008 (frozen)
    ):
        self.text = text
        column = text if isinstance(text, str) else ""  # what a function does is in every encoder's key
        ids = pa.uint16() if vocabulary_size(tokenizer) <= 1 << 16 else pa.int32()
        super().__init__(
            tokenizer, {"input_ids": pa.list_(ids)}, f"document {column}", _reader_of(text, reader)
        )
        begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.begin, self.end = np.array(begin, np.int32), np.array([tokenizer.eos_token_id], np.int32)

    def render(self, row: Row, number: int) -> list[list[Segment]]:
        return [[Segment(self._text(row), True)]]

    def finish(self, row: Row, tokens: list[Tokens]) -> Row:
        ids = np.concatenate([self.begin, tokens[0].ids, self.end])
        # the first token of a document is predicted from nothing
        return {"input_ids": ids, "length": len(ids), "weight": len(ids) - 1}

    def _text(self, row: dict[str, Any]) -> str:
        if isinstance(self.text, str):
            return text_of(row, "text")
        text = self.text(row)
        if not isinstance(text, str):
            name = getattr(self.text, "__qualname__", repr(self.text))
            raise DropRow(f"{name} gave {type(text).__name__}, not text")
        if not text.strip():
            raise DropRow("empty text")
        return text


def _reader_of(text: str | Callable[[Row], str], reader: RowReader) -> RowReader:
    """How rows are read whose text is a column, or a function of the user's own that may read any."""
    if not isinstance(text, str):
        return replace(reader, kind="other")
    return reader if text == "text" else replace(reader, columns={**reader.columns, "text": text})
