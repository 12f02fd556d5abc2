"""PPO's data: prompts to be answered."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from datamodules.base import RowSpec, TextDataModule, too_small
from datamodules.caching.encoded_rows import INTS, EncodedRows, OnBadRow, RowEncoder, each
from datamodules.caching.token_cache import Encoded
from datamodules.collate import prompts
from datamodules.receipt import sample
from datamodules.rendering.segments import DropRow, text_of
from datamodules.rendering.templates import InstructionTemplate, Template
from datamodules.rendering.tokenize import encode_batch
from datamodules.sampling.step_sampler import Batch


class PromptData(TextDataModule):
    """Rows `instruction`, `input` (optional) and `reply_prefix` (optional: the given start of the reply); or
    `messages`, through the tokenizer's own chat template.

    Args:
        train: files (globs allowed), a saved `datasets` folder or a hub name.
        tokenizer: a Hugging Face directory or cached hub name.
        val: likewise, for validation and prediction.
        template: how a row becomes text; the reward model's.
        max_prompt_length: tokens; a longer prompt is dropped and counted.
        global_batch_size: prompts of one PPO iteration over all ranks.
        eval_batch_size: prompts sampled together in validation and prediction.
        on_bad_row: `error` stops at a row that cannot be read or is of a wrong type, `skip` leaves it out.
        max_dropped: share of a source's rows that may be left out, for whatever reason.
        seed: of the order.
        num_workers: processes that prepare batches; 0 = in the training process.
    """

    def __init__(
        self,
        train: str | list[str],
        tokenizer: str,
        val: str | list[str] | None = None,
        template: Template = InstructionTemplate(),  # noqa: B008 (it has no state to share)
        max_prompt_length: int = 512,
        global_batch_size: int = 64,
        eval_batch_size: int = 64,
        on_bad_row: OnBadRow = "error",
        max_dropped: float = 0.01,
        seed: int = 0,
        num_workers: int = 0,
    ):
        super().__init__(
            tokenizer,
            global_batch_size,
            global_batch_size,
            eval_batch_size,
            on_bad_row,
            max_dropped,
            seed,
            num_workers,
        )
        self.train, self.val = train, val
        self.template = template
        self.max_prompt_length = max_prompt_length

    @classmethod
    def row_spec(cls, arguments: Mapping[str, Any]) -> RowSpec:
        return RowSpec(1, arguments["max_prompt_length"], False)

    def config_errors(self, world_size: int, accumulate: int = 1) -> list[str]:
        self.micro_batch_size = max(1, self.global_batch_size // world_size)
        found = super().config_errors(world_size, accumulate)
        found += too_small("data.max_prompt_length", self.max_prompt_length, 1)
        return found + self.template.config_errors()

    def read(self) -> dict[str, EncodedRows]:
        paths = {"train": self.train, "val": self.val}
        return {name: self._rows(f"data.{name}", path) for name, path in paths.items() if path}

    def _rows(self, name: str, path: Any) -> EncodedRows:
        key = f"prompts {self.template!r} {self.max_prompt_length}"
        encoder = RowEncoder({"input_ids": INTS}, key, self.tokenizer, self._encode)
        rows = EncodedRows(path, name, encoder, self.on_bad_row, self.max_dropped)
        ids = rows[0]["input_ids"]
        rows.receipt.sample = sample(self.tokenizer, ids, [False] * len(ids))
        return rows

    def _encode(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> list[Encoded]:
        segments = each(rows, self._segments)
        tokens = iter(encode_batch(self.tokenizer, [found for found in segments if isinstance(found, list)]))
        ready = [(next(tokens).ids if isinstance(found, list) else found,) for found in segments]
        return each(ready, self._finished)

    def _segments(self, number: int, row: dict[str, Any]) -> list:
        if row.get("messages") is None:
            text_of(row, "instruction")
        return self.template.prompt(row, number, self.tokenizer)

    def _finished(self, ids: Any) -> dict[str, Any]:
        if isinstance(ids, Exception):
            raise ids
        if len(ids) > self.max_prompt_length:
            raise DropRow(f"prompt longer than max_prompt_length {self.max_prompt_length}")
        return {"input_ids": ids, "length": len(ids), "weight": 1}

    def batch(self, data: EncodedRows, rows: np.ndarray) -> Batch:
        return self._batch(data, rows, np.maximum(rows, 0), None)

    def step_batch(self, rows: np.ndarray, places: np.ndarray) -> Batch:
        # as wide as the whole iteration's longest prompt, so that ranks can exchange their samples
        train = self.splits["train"]
        return self._batch(train, rows[places], places, int(train.lengths[rows].max()))

    def _batch(self, data: EncodedRows, rows: np.ndarray, index: np.ndarray, width: int | None) -> Batch:
        ids = [data[max(0, row)]["input_ids"] for row in rows]
        return {
            **prompts(ids, self.tokenizer.pad_token_id, width),
            "prompt_index": torch.from_numpy(index),
        }
