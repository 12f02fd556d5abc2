"""Reward model's data: prompts with ranked, rated, or chosen and rejected replies."""

from typing import Any

import numpy as np
from datasets import List, Value

from datamodules.base import PlannedData, too_small
from datamodules.collate import ranked_replies
from datamodules.plan import Batch, EvalBatches
from datamodules.rows import INTS, Dropped, Refused, Rows, check_optional, encode_rows, sample, text_of
from datamodules.sources import check_columns, load_rows
from datamodules.templates import InstructionTemplate, Template
from datamodules.tokenizer import tokenize

COLUMNS = {"replies": List(INTS), "ratings": List(Value("float32")), "prompt_length": Value("int32")}


class PreferenceData(PlannedData):
    """Rows `instruction` and `input` (optional) with `replies` and, in the same order, `ratings` (higher is
    better; without them the replies are ranked, best first); or with `chosen` and `rejected`.

    Equal ratings are ties and make no pair; a prompt without an untied pair is dropped and counted.

    Args:
        train: files (globs allowed), a saved `datasets` folder or a hub name.
        tokenizer: a Hugging Face directory or cached hub name.
        val: likewise, for validation and prediction.
        template: how a prompt becomes text; the same as PPO's.
        max_length: tokens of prompt and reply; a reply that is longer is left out.
        global_batch_size: prompts of an optimizer step over all ranks and micro-batches.
        micro_batch_size: prompts of one forward on one rank; gradient accumulation follows from both.
        eval_batch_size: prompts of one forward in validation and prediction.
        seed: of the order.
        num_workers: processes that prepare batches; 0 = in the training process.
    """

    def __init__(
        self,
        train: str | list[str],
        tokenizer: str,
        val: str | list[str] | None = None,
        template: Template = InstructionTemplate(),  # noqa: B008 (it has no state to share)
        max_length: int = 1024,
        global_batch_size: int = 16,
        micro_batch_size: int = 4,
        eval_batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
    ):
        super().__init__(tokenizer, global_batch_size, micro_batch_size, eval_batch_size, seed, num_workers)
        self.train, self.val = train, val
        self.template = template
        self.max_length = max_length

    def problems(self, world_size: int, accumulate: int = 1) -> list[str]:
        found = super().problems(world_size, accumulate)
        return found + too_small("data.max_length", self.max_length, 2) + self.template.problems()

    def read(self) -> dict[str, Rows]:
        paths = {"train": self.train, "val": self.val}
        return {name: self._rows(f"data.{name}", path) for name, path in paths.items() if path}

    def _rows(self, name: str, path: Any) -> Rows:
        rows = load_rows(path, name)
        pair = "chosen" in rows.column_names
        check_columns(rows, ("instruction", *(("chosen", "rejected") if pair else ("replies",))), name, path)
        key = f"preference {self.template!r} {self.max_length}"
        encoded = encode_rows(rows, self._encode, COLUMNS, key, name, path, self.tokenizer)
        first = encoded[0]
        best = np.asarray(first["replies"][int(np.argmax(first["ratings"]))])
        trained = np.arange(len(best)) >= first["prompt_length"]
        encoded.receipt.sample = sample(self.tokenizer, best, trained)
        return encoded

    def _encode(self, row: dict[str, Any]) -> dict[str, Any]:
        text_of(row, "instruction")
        check_optional(row, "input")
        if row.get("chosen") is not None:
            texts, ratings = [text_of(row, "chosen"), text_of(row, "rejected")], [1.0, 0.0]
        else:
            texts, ratings = _rated(row)
        tokenizer = self.tokenizer
        prompt = self.template.prompt(row, tokenizer)
        replies = [[*prompt, *tokenize(tokenizer, text), tokenizer.eos_token_id] for text in texts]
        kept = [
            i
            for i, (ids, text) in enumerate(zip(replies, texts, strict=True))
            if text.strip() and len(ids) <= self.max_length
        ]
        ids, stars = [replies[i] for i in kept], [ratings[i] for i in kept]
        if not any(
            a != b and x != y
            for a, x in zip(ids, stars, strict=True)
            for b, y in zip(ids, stars, strict=True)
        ):
            raise Dropped(f"no two different replies of different rating within max_length {self.max_length}")
        return {
            "replies": ids,
            "ratings": stars,
            "prompt_length": len(prompt),
            "length": max(map(len, ids)),
            "weight": 1,
            "truncated": len(kept) < len(texts),
        }

    def collate(self, split: str, rows: np.ndarray) -> Batch:
        items = [self.splits[split][max(0, row)] for row in rows]
        replies = [[np.asarray(reply) for reply in item["replies"]] for item in items]
        ratings = [np.asarray(item["ratings"], dtype=np.float32) for item in items]
        return ranked_replies(replies, ratings, self.tokenizer.pad_token_id)

    def training_sample(self, replies: int) -> EvalBatches:
        """Training prompts with about so many replies, spread evenly over the set."""
        train = self.splits["train"]
        per_prompt = max(1, len(train[0]["replies"]))
        count = min(len(train), max(1, replies // per_prompt))
        rows = np.linspace(0, len(train) - 1, count).astype(np.int64)
        return self.eval_batches(train, lambda ids: self.collate("train", ids), rows)


def _rated(row: dict[str, Any]) -> tuple[list[str], list[float]]:
    texts = row.get("replies")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused("`replies` is not a list of texts")
    ratings = row.get("ratings")
    if ratings is None:
        return texts, [float(len(texts) - rank) for rank in range(len(texts))]
    if len(ratings) != len(texts) or any(rating is None for rating in ratings):
        raise Refused(f"{len(texts)} `replies` but {len(ratings)} `ratings`, or an empty one among them")
    return texts, [float(rating) for rating in ratings]
