"""PPO's data: prompts to be answered."""

from typing import Any

import numpy as np
import torch

from datamodules.base import PlannedData, too_small
from datamodules.collate import prompts
from datamodules.plan import Batch
from datamodules.rows import INTS, Dropped, Rows, check_optional, encode_rows, sample, text_of
from datamodules.sources import check_columns, load_rows
from datamodules.templates import InstructionTemplate, Template


class PromptData(PlannedData):
    """Rows `instruction`, `input` (optional) and `reply_prefix` (optional: the given start of the reply).

    Args:
        train: files (globs allowed), a saved `datasets` folder or a hub name.
        tokenizer: a Hugging Face directory or cached hub name.
        val: likewise, for validation and prediction.
        template: how a row becomes text; the reward model's.
        max_prompt_length: tokens; a longer prompt is dropped and counted.
        global_batch_size: prompts of one PPO iteration over all ranks.
        eval_batch_size: prompts sampled together in validation and prediction.
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
        seed: int = 0,
        num_workers: int = 0,
    ):
        super().__init__(tokenizer, global_batch_size, global_batch_size, eval_batch_size, seed, num_workers)
        self.train, self.val = train, val
        self.template = template
        self.max_prompt_length = max_prompt_length

    def problems(self, world_size: int, accumulate: int = 1) -> list[str]:
        self.micro_batch_size = max(1, self.global_batch_size // world_size)
        found = super().problems(world_size, accumulate)
        return (
            found + too_small("data.max_prompt_length", self.max_prompt_length, 1) + self.template.problems()
        )

    def read(self) -> dict[str, Rows]:
        paths = {"train": self.train, "val": self.val}
        return {name: self._rows(f"data.{name}", path) for name, path in paths.items() if path}

    def _rows(self, name: str, path: Any) -> Rows:
        rows = load_rows(path, name)
        check_columns(rows, ("instruction",), name, path)
        key = f"prompts {self.template!r} {self.max_prompt_length}"
        encoded = encode_rows(rows, self._encode, {"input_ids": INTS}, key, name, path, self.tokenizer)
        ids = encoded[0]["input_ids"]
        encoded.receipt.sample = sample(self.tokenizer, ids, [False] * len(ids))
        return encoded

    def _encode(self, row: dict[str, Any]) -> dict[str, Any]:
        text_of(row, "instruction")
        check_optional(row, "input", "reply_prefix")
        ids = self.template.prompt(row, self.tokenizer)
        if len(ids) > self.max_prompt_length:
            raise Dropped(f"prompt longer than max_prompt_length {self.max_prompt_length}")
        return {"input_ids": ids, "length": len(ids), "weight": 1}

    def collate(self, split: str, rows: np.ndarray) -> Batch:
        return self._batch(split, rows, np.maximum(rows, 0), None)

    def step_batch(self, rows: np.ndarray, places: np.ndarray) -> Batch:
        # as wide as the whole iteration's longest prompt, so that ranks can exchange their samples
        return self._batch("train", rows[places], places, int(self.splits["train"].lengths[rows].max()))

    def _batch(self, split: str, rows: np.ndarray, index: np.ndarray, width: int | None) -> Batch:
        data = self.splits[split]
        ids = [data[max(0, row)]["input_ids"] for row in rows]
        return {
            **prompts(ids, self.tokenizer.pad_token_id, width),
            "prompt_index": torch.from_numpy(index),
        }
