"""SFT data: instructions and chats, with the loss on the replies."""

from typing import Any

import numpy as np
from datasets import Value
from jinja2 import TemplateError

from datamodules.base import PlannedData, too_small
from datamodules.collate import IGNORED, prompts, token_rows
from datamodules.plan import Batch, EvalBatches
from datamodules.rows import INTS, Dropped, Rows, check_optional, encode_rows, sample, text_of
from datamodules.sources import check_columns, load_rows
from datamodules.templates import InstructionTemplate, Template

COLUMNS = {"input_ids": INTS, "labels": INTS, "prompt_length": Value("int32"), "group": Value("string")}


class InstructionData(PlannedData):
    """Rows `instruction`, `input` (optional), `output`; or `messages`, through the tokenizer's own chat
    template.

    Args:
        train: files (globs allowed), a saved `datasets` folder or a hub name.
        tokenizer: a Hugging Face directory or cached hub name.
        val: likewise, for validation and prediction.
        template: how a row becomes text.
        group_by: columns whose values get a validation loss of their own, such as `[task, language]`.
        max_length: tokens of prompt and reply; a longer reply is cut (and loses its eos), a row whose prompt
            alone fills it is dropped.
        global_batch_size: rows of an optimizer step over all ranks and micro-batches.
        micro_batch_size: rows of one forward on one rank; gradient accumulation follows from both.
        eval_batch_size: rows of one forward in validation and prediction.
        seed: of the order.
        num_workers: processes that prepare batches; 0 = in the training process.
    """

    def __init__(
        self,
        train: str | list[str],
        tokenizer: str,
        val: str | list[str] | None = None,
        template: Template = InstructionTemplate(),  # noqa: B008 (it has no state to share)
        group_by: list[str] | None = None,
        max_length: int = 1024,
        global_batch_size: int = 32,
        micro_batch_size: int = 8,
        eval_batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
    ):
        super().__init__(tokenizer, global_batch_size, micro_batch_size, eval_batch_size, seed, num_workers)
        self.train, self.val = train, val
        self.template = template
        self.group_by = group_by
        self.max_length = max_length

    @property
    def source_names(self) -> list[str]:
        splits = [self.splits[name] for name in ("train", "val") if name in self.splits]
        return sorted({group for split in splits for group in split.data.unique("group")})

    def problems(self, world_size: int, accumulate: int = 1) -> list[str]:
        found = super().problems(world_size, accumulate)
        return found + too_small("data.max_length", self.max_length, 2) + self.template.problems()

    def read(self) -> dict[str, Rows]:
        paths = {"train": self.train, "val": self.val}
        return {name: self._rows(f"data.{name}", path) for name, path in paths.items() if path}

    def _rows(self, name: str, path: Any) -> Rows:
        rows = load_rows(path, name)
        columns = self.template.columns + tuple(self.group_by or ())
        check_columns(rows, columns, name, path)
        key = f"instruction {self.template!r} {self.group_by} {self.max_length}"
        encoded = encode_rows(rows, self._encode, COLUMNS, key, name, path, self.tokenizer)
        first = encoded[0]
        encoded.receipt.sample = sample(self.tokenizer, first["input_ids"], first["labels"] != IGNORED)
        return encoded

    def _encode(self, row: dict[str, Any]) -> dict[str, Any]:
        if "messages" not in self.template.columns:
            for column in self.template.columns:
                text_of(row, column)
            check_optional(row, "input")
        try:
            segments = self.template.segments(row, self.tokenizer)
        except (ValueError, TemplateError) as error:  # a template raises on roles that it does not know
            raise Dropped(str(error)) from error
        ids = [token for segment in segments for token in segment.ids]
        labels = [token if segment.trained else IGNORED for segment in segments for token in segment.ids]
        cut = labels[: self.max_length]
        trained = sum(label != IGNORED for label in cut[1:])
        if not trained:
            raise Dropped(f"prompt fills max_length {self.max_length}, no reply token left")
        return {
            "input_ids": ids[: self.max_length],
            "labels": cut,
            "prompt_length": min(len(ids) - len(segments[-1].ids), self.max_length),
            "group": "/".join(str(row[column]) for column in self.group_by or ()) or "data",
            "length": len(cut),
            "weight": trained,
            "truncated": len(ids) > self.max_length,
        }

    def collate(self, split: str, rows: np.ndarray) -> Batch:
        data = self.splits[split]
        names = self.source_names
        items = [data[max(0, row)] for row in rows]
        labels = [
            item["labels"] if row >= 0 else np.full_like(item["labels"], IGNORED)
            for item, row in zip(items, rows, strict=True)
        ]
        source = [names.index(item["group"]) for item in items]
        return token_rows([item["input_ids"] for item in items], labels, source, self.tokenizer.pad_token_id)

    def predict_dataloader(self) -> EvalBatches:
        """Prompts, padded on the left, to be answered."""
        split = self.splits.get("val", self.splits["train"])

        def make(rows: np.ndarray) -> Batch:
            items = [split[max(0, row)] for row in rows]
            ids = [item["input_ids"][: item["prompt_length"]] for item in items]
            return prompts(ids, self.tokenizer.pad_token_id)

        return self.eval_batches(split, make)
