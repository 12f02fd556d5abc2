"""PPO's data: prompts to be answered."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch

from datamodules.base import RowSpec, TextDataModule, too_small
from datamodules.caching.row_encoder import INTS, RowEncoder
from datamodules.caching.split import Split
from datamodules.collate import Batch, prompts
from datamodules.layouts.reader import Kind, RowReader
from datamodules.receipt import sample
from datamodules.rendering.policies import Policies, without_start
from datamodules.rendering.segments import Row, Segment, text_of
from datamodules.rendering.templates import InstructionTemplate, Template
from datamodules.rendering.whole_text import Tokens


class PromptData(TextDataModule):
    """Rows `instruction`, `input` (optional) and `reply_prefix` (optional: the given start of the reply); or
    `messages`, through the tokenizer's own chat template.

    Args:
        train: files (globs allowed), a saved `datasets` folder or a hub name.
        tokenizer: a Hugging Face directory or cached hub name.
        val: likewise, for validation and prediction.
        template: how a row becomes text; the reward model's.
        max_prompt_length: tokens; what happens to a longer prompt says `policies.long_prompt`.
        policies: what happens to rows that cannot be asked as they are.
        global_batch_size: prompts of one PPO iteration over all ranks.
        eval_batch_size: prompts sampled together in validation and prediction.
        kwargs: as of `TextDataModule`.
    """

    makes: ClassVar[str] = "prompts"
    rows: ClassVar[Kind] = "prompts"

    def __init__(
        self,
        train: str | list[str],
        tokenizer: str,
        val: str | list[str] | None = None,
        template: Template = InstructionTemplate(),  # noqa: B008 (it has no state to share)
        max_prompt_length: int = 512,
        policies: Policies = Policies(),  # noqa: B008 (frozen)
        global_batch_size: int = 64,
        eval_batch_size: int = 64,
        **kwargs: Any,
    ):
        super().__init__(
            tokenizer,
            global_batch_size=global_batch_size,
            micro_batch_size=global_batch_size,
            eval_batch_size=eval_batch_size,
            **kwargs,
        )
        self.train, self.val = train, val
        self.template = template
        self.max_prompt_length, self.policies = max_prompt_length, policies

    @classmethod
    def row_spec(cls, arguments: Mapping[str, Any]) -> RowSpec:
        return RowSpec(sequences=1, tokens=arguments["max_prompt_length"])

    def config_errors(self, world_size: int, accumulate: int = 1) -> list[str]:
        errors = super().config_errors(world_size, accumulate)
        errors += too_small("data.max_prompt_length", self.max_prompt_length, 1)
        return errors + self.template.config_errors()

    def rows_per_forward(self, world_size: int) -> int:
        """A rank's whole share of an iteration: PPO itself cuts it into what its networks can take."""
        return max(1, self.global_batch_size // world_size)

    def read(self) -> dict[str, Split]:
        splits: dict[str, Split] = {}
        for name, path in (("train", self.train), ("val", self.val)):
            if path:
                encoder = PromptEncoder(
                    self.tokenizer,
                    self.template,
                    self.max_prompt_length,
                    self.policies,
                    self.reader(self.template),
                )
                rows = self.encode(path, f"data.{name}", encoder)
                ids = rows[0]["input_ids"]
                rows.receipt.sample = sample(self.tokenizer, ids, [False] * len(ids))
                splits[name] = rows
        return splits

    def batch(self, split: Split, rows: np.ndarray) -> Batch:
        return self._batch(split, rows, np.maximum(rows, 0), None)

    def step_batch(self, rows: np.ndarray, places: np.ndarray) -> Batch:
        # as wide as the whole iteration's longest prompt, so that ranks can exchange their samples
        train = self.splits["train"]
        return self._batch(train, rows[places], places, int(train.lengths[rows].max()))

    def _batch(self, split: Split, rows: np.ndarray, index: np.ndarray, width: int | None) -> Batch:
        ids = [split.members(max(0, row))[0]["input_ids"] for row in rows]
        return {**prompts(ids, self.tokenizer.pad_token_id, width), "prompt_index": torch.from_numpy(index)}


class PromptEncoder(RowEncoder):
    """The tokens of what a reply continues."""

    def __init__(
        self,
        tokenizer: Any,
        template: Template,
        max_length: int,
        policies: Policies,
        reader: RowReader = RowReader("prompts"),  # noqa: B008 (frozen)
    ):
        settings = f"prompts {template.key(tokenizer)} {max_length} {asdict(policies)}"
        super().__init__(tokenizer, {"input_ids": INTS}, settings, reader)
        self.template, self.max_length, self.policies = template, max_length, policies

    def render(self, row: Row, number: int) -> list[list[Segment]]:
        if row.get("messages") is None:
            text_of(row, "instruction")
        return [self.template.prompt(row, number, self.tokenizer)]

    def changes(self, row: Row, number: int) -> list[str]:
        return self.template.changes(row, number, asked=True)

    def finish(self, row: Row, tokens: list[Tokens]) -> Row:
        prompt, one_bos = self.policies.with_one_bos(tokens[0], self.tokenizer)
        over, cut = len(prompt.ids) - self.max_length, ""
        if over > 0:
            if self.policies.long_prompt != "truncate_left":
                reason = f"prompt longer than max_prompt_length {self.max_length}"
                raise self.policies.left_out("long_prompt", reason)
            prompt, cut = without_start(prompt, over, self.tokenizer), "prompt cut from the left"
        ids = prompt.ids
        changed = [change for change in (one_bos, cut) if change]
        return {"input_ids": ids, "length": len(ids), "weight": 1, "changed": changed}
