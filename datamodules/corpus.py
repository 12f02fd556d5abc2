"""Pretraining data: several sources, mixed by tokens, packed into blocks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets.fingerprint import Hasher

from datamodules.base import RowSpec, TextDataModule, too_small
from datamodules.caching.blocks import STRIDE, Blocks, CorpusSplit
from datamodules.caching.encoded_rows import EncodedRows, OnBadRow, RowEncoder, check_losses, each
from datamodules.caching.token_cache import Encoded, Index, TokenCache
from datamodules.collate import packed_blocks, token_rows
from datamodules.errors import UserError
from datamodules.receipt import Receipt, sample
from datamodules.rendering.segments import DropRow, text_of
from datamodules.rendering.tokenize import encode_texts
from datamodules.sampling.mixture import GLOBAL_BATCH_SIZE, SEQUENCE_LENGTH, Mixture, Source
from datamodules.sampling.mixture_schedule import MixtureSchedule
from datamodules.sampling.step_sampler import Batch, EvalBatches, Mixed, RowOrder, Shuffled, Windowed


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
        global_batch_size: blocks of an optimizer step over all ranks and micro-batches.
        micro_batch_size: blocks of one forward on one rank; gradient accumulation follows from both.
        eval_batch_size: blocks of one forward in validation.
        on_bad_row: `error` stops at a row that cannot be read or has no text, `skip` leaves it out.
        max_dropped: share of a source's rows that may be left out, for whatever reason.
        seed: of the order.
        num_workers: processes that prepare batches; 0 = in the training process.
    """

    def __init__(
        self,
        sources: dict[str, Source],
        tokenizer: str,
        weight_changes: dict[int, dict[str, float]] | None = None,
        temperature: float | None = None,
        sequence_length: int = SEQUENCE_LENGTH,
        global_batch_size: int = GLOBAL_BATCH_SIZE,
        micro_batch_size: int = 8,
        eval_batch_size: int = 8,
        on_bad_row: OnBadRow = "error",
        max_dropped: float = 0.01,
        seed: int = 0,
        num_workers: int = 0,
    ):
        super().__init__(
            tokenizer,
            global_batch_size,
            micro_batch_size,
            eval_batch_size,
            on_bad_row,
            max_dropped,
            seed,
            num_workers,
        )
        self.sources = sources
        self.weight_changes = weight_changes or {}
        self.temperature = temperature
        self.sequence_length = sequence_length
        self._schedule: MixtureSchedule | None = None

    @classmethod
    def row_spec(cls, arguments: Mapping[str, Any]) -> RowSpec:
        return RowSpec(1, arguments["sequence_length"], True)

    @property
    def source_names(self) -> list[str]:
        return list(self.sources)

    @property
    def has_validation(self) -> bool:
        return any(source.val for source in self.sources.values())

    def config_errors(self, world_size: int, accumulate: int = 1) -> list[str]:
        found = super().config_errors(world_size, accumulate)
        found += self._mix.config_errors()
        return found + too_small("data.sequence_length", self.sequence_length, 2)

    @property
    def _mix(self) -> Mixture:
        return Mixture(self.sources, self.weight_changes, self.temperature)

    def read(self) -> dict[str, CorpusSplit]:
        train = {name: self._documents(name, s.train, s, s.streaming) for name, s in self.sources.items()}
        split = CorpusSplit(list(train), list(train.values()), self.sequence_length)
        for name, blocks in train.items():
            blocks.wait_for(1)
            if not len(blocks):
                raise UserError(
                    f"data.sources.{name}: {blocks.starts[-1]} tokens are less than one block of "
                    f"{self.sequence_length}: add text or lower data.sequence_length"
                )
        splits = {"train": split}
        named = {name: s for name, s in self.sources.items() if s.val is not None}
        if named:
            val = {name: self._documents(name, s.val, s, False, keep_tail=True) for name, s in named.items()}
            splits["val"] = CorpusSplit(list(val), list(val.values()), self.sequence_length)
        return splits

    def _documents(
        self, name: str, path: Any, source: Source, streaming: bool, keep_tail: bool = False
    ) -> Blocks:
        field = f"data.sources.{name}"
        cache = TokenCache(path, field, DocumentEncoder(self.tokenizer, source.text))
        cache.refresh()

        def check(index: Index) -> None:
            check_losses(index, field, path, self.max_dropped)

        if streaming and not cache.index.finished:
            if self.writes:
                cache.write_behind(self.on_bad_row == "error", check)
            cache.wait(lambda: cache.index.tokens >= self.sequence_length)
        else:
            cache.write(self.on_bad_row == "error")
            check(cache.index)
        return Blocks(cache, self.sequence_length, keep_tail)

    @property
    def receipts(self) -> list[Receipt]:
        found = []
        for which, split in self.splits.items():
            for receipt, blocks in zip(split.receipts, split.blocks, strict=True):
                receipt.source += "" if which == "train" else " (val)"
                ids = blocks[0][0][: int((blocks[0][1] == 0).sum())]
                receipt.sample = sample(self.tokenizer, ids, [False] + [True] * (len(ids) - 1))
                found.append(receipt)
        return found

    @property
    def schedule(self) -> MixtureSchedule:
        """Which source every block comes from."""
        if self._schedule is None:
            tokens = [blocks.starts[-1] for blocks in self.splits["train"].blocks]
            self._schedule = self._mix.schedule(self.global_batch_size, tokens)
        return self._schedule

    def order(self) -> RowOrder:
        split = self.splits["train"]
        orders: list[RowOrder] = []
        for index, (name, blocks) in enumerate(zip(split.names, split.blocks, strict=True)):
            seed = self.seed + 7919 * index
            source = self.sources[name]
            if source.streaming:
                orders.append(Windowed(blocks, seed, f"data.sources.{name}", source.max_epochs))
            else:
                orders.append(Shuffled(len(blocks), seed))
        return Mixed(self.schedule, orders, [STRIDE * source for source in range(len(orders))])

    @property
    def steps_per_epoch(self) -> int:
        """As for any data.

        Raises:
            UserError: a run by epochs while a streaming source is still coming in.
        """
        steps = super().steps_per_epoch
        split = self.splits["train"]
        for name, blocks in zip(split.names, split.blocks, strict=True):
            if self.trainer is not None and not blocks.complete:
                raise UserError(
                    f"data.sources.{name} is still being tokenised, so how many steps an epoch has is not "
                    f"known: set trainer.max_steps, or data.sources.{name}.streaming: false"
                )
        return steps

    def check_epochs(self, steps: int) -> None:
        """Refuses a run that would see a source more often than it may.

        Raises:
            UserError: naming each such source.
        """
        epochs = {name: facts["epochs"] for name, facts in self.mixture(steps).items()}
        limits = {name: s.max_epochs for name, s in self.sources.items() if s.max_epochs is not None}
        found = [
            f"data.sources.{name} would be seen {epochs[name]:.2f} times in {steps} steps, its max_epochs is "
            f"{limit:g}: lower its weight, train for fewer steps, or add text"
            for name, limit in limits.items()
            if epochs[name] > limit and self.splits["train"].blocks[self.source_names.index(name)].complete
        ]
        if found:
            raise UserError("\n".join(found))

    def batch(self, data: CorpusSplit, rows: np.ndarray) -> Batch:
        blocks = [data[max(0, row)] for row in rows]
        ids = np.stack([block[0] for _, block in blocks])
        documents = np.stack([block[1] for _, block in blocks])
        documents[rows < 0] = -1
        source = [self.source_names.index(data.names[source]) for source, _ in blocks]
        return packed_blocks(ids, documents, source)

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

    def eval_dataloader(self, split: str) -> EvalBatches | list:
        if split not in self.splits:
            return []
        data = self.splits[split]
        return self.eval_batches(data, lambda rows: self.batch(data, rows), data.rows())

    def predict_dataloader(self) -> EvalBatches:
        """Documents one by one (cut to the block's length) instead of blocks; row ids count through the
        sources."""
        split = self.splits.get("val", self.splits["train"])
        sources = [EncodedRows.of(blocks.cache) for blocks in split.blocks]
        starts = np.concatenate([[0], np.cumsum([len(rows) for rows in sources])])
        lengths = np.minimum(np.concatenate([rows.lengths for rows in sources]), self.sequence_length)

        def make(ids: np.ndarray) -> Batch:
            source = np.searchsorted(starts, ids.clip(min=0), side="right") - 1
            documents = [
                sources[s][max(0, row) - int(starts[s])]["input_ids"][: self.sequence_length]
                for s, row in zip(source, ids, strict=True)
            ]
            pad_id = self.tokenizer.pad_token_id
            return token_rows([[d] for d in documents], [[d] for d in documents], source.tolist(), pad_id)

        everything = np.arange(starts[-1])
        return EvalBatches(everything, lengths, everything, self.eval_batch_size, make, *self.ranks())


class DocumentEncoder(RowEncoder):
    """A row's text between bos (where the tokenizer has one) and eos."""

    def __init__(self, tokenizer: Any, text: str | Callable[[dict[str, Any]], str]):
        self.tokenizer, self.text = tokenizer, text
        key = text if isinstance(text, str) else Hasher.hash(text)  # its code and all that it refers to
        ids = pa.uint16() if len(tokenizer) <= 1 << 16 else pa.int32()
        super().__init__({"input_ids": pa.list_(ids)}, f"document {key}", tokenizer, self._encode)

    def _encode(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> list[Encoded]:
        texts = each(rows, lambda _, row: self._text(row))
        begin = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None else []
        encoded = iter(encode_texts(self.tokenizer, [text for text in texts if isinstance(text, str)]))
        found: list[Encoded] = []
        for text in texts:
            if not isinstance(text, str):
                found.append(text)
                continue
            ids = np.array([*begin, *next(encoded), self.tokenizer.eos_token_id], dtype=np.int32)
            found.append({"input_ids": ids, "length": len(ids), "weight": len(ids) - 1})
        return found

    def _text(self, row: dict[str, Any]) -> str:
        if isinstance(self.text, str):
            return text_of(row, self.text)
        text = self.text(row)
        if not isinstance(text, str):
            name = getattr(self.text, "__qualname__", repr(self.text))
            raise DropRow(f"{name} gave {type(text).__name__}, not text")
        if not text.strip():
            raise DropRow("empty text")
        return text
