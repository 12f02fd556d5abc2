"""SFT data: instructions and chats, with the loss on the replies."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from datamodules.base import RowSpec, TextDataModule, too_small
from datamodules.caching.encoded_rows import FLAGS, INTS, EncodedRows, Joined, OnBadRow, RowEncoder, each
from datamodules.caching.packing import Packed
from datamodules.caching.token_cache import Encoded
from datamodules.collate import IGNORED, prompts, token_rows
from datamodules.receipt import sample
from datamodules.rendering.segments import BadRow, DropRow, EmptyReply, StopRun
from datamodules.rendering.templates import InstructionTemplate, Template
from datamodules.rendering.tokenize import Encoded as Tokens
from datamodules.rendering.tokenize import double_bos, encode_batch, ends_with_eos
from datamodules.sampling.mixture_schedule import MixtureSchedule
from datamodules.sampling.step_sampler import Batch, EvalBatches, Mixed, RowOrder, Shuffled

COLUMNS = {"input_ids": INTS, "trained": FLAGS, "prompt_length": pa.int32(), "group": pa.string()}
DropOrError = Literal["drop", "error"]
CutOrDrop = Literal["drop", "truncate_left", "error"]


@dataclass
class Policies:
    """What happens to a row that cannot be trained on as it is; every such row is counted in the receipt.

    Args:
        long_prompt: the prompt alone fills `max_length`: `drop` the row, cut the prompt from the left
            (`truncate_left`, its bos stays) so that the whole reply fits, or stop (`error`).
        long_reply: prompt and reply together are longer than `max_length`: likewise. A reply is never cut: it
            would lose its end.
        empty_reply: `drop` or `error`.
        missing_eos: a chat template that does not end a reply with the tokenizer's eos: `append` it, `drop`
            the row, or stop.
        double_bos: the row begins with two bos tokens: `drop`, `truncate_left` (one of them), or stop.
    """

    long_prompt: CutOrDrop = "drop"
    long_reply: CutOrDrop = "drop"
    empty_reply: DropOrError = "drop"
    missing_eos: Literal["append", "drop", "error"] = "error"
    double_bos: CutOrDrop = "error"


@dataclass
class InstructionSource:
    """One source of a mixture of instructions.

    Args:
        train: files (globs allowed), a saved `datasets` folder or a hub name.
        weight: its share, relative to the other sources'.
        template: how its rows become text; the data module's where it is not given.
    """

    train: str | list[str]
    weight: float = 1.0
    template: Template | None = None


class InstructionData(TextDataModule):
    """Rows `instruction`, `input` (optional), `steps` (optional), `output`; or `messages`, through the
    tokenizer's own chat template.

    Args:
        train: files (globs allowed), a saved `datasets` folder or a hub name; or several sources by name,
            each with a weight.
        tokenizer: a Hugging Face directory or cached hub name.
        val: files, for validation and prediction.
        template: how a row becomes text.
        mix_by: whether the weights of several sources are shares of the `tokens` or of the `rows`.
        group_by: columns whose values get a validation loss of their own, such as `[task, language]`.
        max_length: tokens of prompt and reply.
        packing: lay rows into packs of so many tokens, none of them split; a pack then counts as a row of
            `global_batch_size`. None = each row on its own.
        policies: what happens to rows that cannot be trained on as they are.
        global_batch_size: rows of an optimizer step over all ranks and micro-batches.
        micro_batch_size: rows of one forward on one rank; gradient accumulation follows from both.
        eval_batch_size: rows of one forward in validation and prediction.
        on_bad_row: `error` stops at a row that cannot be read or is of a wrong type, `skip` leaves it out.
        max_dropped: share of a source's rows that may be left out, for whatever reason.
        seed: of the order.
        num_workers: processes that prepare batches; 0 = in the training process.
    """

    def __init__(
        self,
        train: str | list[str] | dict[str, InstructionSource],
        tokenizer: str,
        val: str | list[str] | None = None,
        template: Template = InstructionTemplate(),  # noqa: B008 (it has no state to share)
        mix_by: Literal["tokens", "rows"] = "tokens",
        group_by: list[str] | None = None,
        max_length: int = 1024,
        packing: int | None = None,
        policies: Policies = Policies(),  # noqa: B008
        global_batch_size: int = 32,
        micro_batch_size: int = 8,
        eval_batch_size: int = 16,
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
        self.train, self.val = train, val
        self.template = template
        self.mix_by = mix_by
        self.group_by = group_by
        self.max_length, self.packing = max_length, packing
        self.policies = policies

    @property
    def sources(self) -> dict[str, InstructionSource]:
        """The training sources; one, called `train`, where only files are given."""
        if isinstance(self.train, dict):
            return self.train
        return {"train": InstructionSource(self.train)}

    @property
    def source_names(self) -> list[str]:
        return sorted({group for split in self.splits.values() for group in split.texts("group")})

    @classmethod
    def row_spec(cls, arguments: Mapping[str, Any]) -> RowSpec:
        if arguments["packing"]:
            return RowSpec(1, arguments["packing"], True)
        return RowSpec(1, arguments["max_length"], False)

    def config_errors(self, world_size: int, accumulate: int = 1) -> list[str]:
        found = super().config_errors(world_size, accumulate)
        found += too_small("data.max_length", self.max_length, 2)
        if self.packing is not None:
            found += too_small("data.packing", self.packing, self.max_length)
        if not self.sources:
            found.append("data.train is empty: name at least one source")
        for name, source in self.sources.items():
            if not 0 < source.weight < float("inf"):
                found.append(f"data.train.{name}.weight is {source.weight}: give a number above 0")
            for line in source.template.config_errors() if source.template else []:
                found.append(line.replace("data.template", f"data.train.{name}.template", 1))
        return found + self.template.config_errors()

    def read(self) -> dict[str, Any]:
        several = isinstance(self.train, dict)
        parts: list[Any] = []
        for name, source in self.sources.items():
            field = f"data.train.{name}" if several else "data.train"
            rows = self._rows(field, source.train, source.template or self.template)
            parts.append(rows if self.packing is None else Packed(rows, self.packing, "data.packing"))
        splits: dict[str, Any] = {"train": Joined(parts) if several else parts[0]}
        if self.val:
            splits["val"] = self._rows("data.val", self.val, self.template)
        return splits

    def _rows(self, name: str, path: Any, template: Template) -> EncodedRows:
        key = f"instruction {template!r} {self.group_by} {self.max_length} {asdict(self.policies)}"
        work = _Encode(self.tokenizer, template, self.group_by or [], self.max_length, self.policies)
        encoder = RowEncoder(COLUMNS, key, self.tokenizer, work)
        rows = EncodedRows(path, name, encoder, self.on_bad_row, self.max_dropped)
        first = rows[0]
        rows.receipt.sample = sample(self.tokenizer, first["input_ids"], first["trained"])
        return rows

    def order(self) -> RowOrder:
        split = self.splits["train"]
        if not isinstance(split, Joined):
            return super().order()
        orders = [Shuffled(len(part), self.seed + 7919 * i) for i, part in enumerate(split.parts)]
        amounts = [part.lengths.sum() if self.mix_by == "tokens" else _count(part) for part in split.parts]
        # the schedule deals out rows (or packs): a share of tokens becomes one of rows by their mean length
        weights = [
            source.weight * len(part) / amount
            for source, part, amount in zip(self.sources.values(), split.parts, amounts, strict=True)
        ]
        return Mixed(MixtureSchedule(weights), orders, split.starts)

    def batch(self, data: Any, rows: np.ndarray) -> Batch:
        names = {name: index for index, name in enumerate(self.source_names)}
        packs = [data.members(max(0, row)) for row in rows]
        ids = [[item["input_ids"] for item in pack] for pack in packs]
        labels = [
            [np.where(item["trained"] & (row >= 0), item["input_ids"], IGNORED) for item in pack]
            for pack, row in zip(packs, rows, strict=True)
        ]
        source = [names[pack[0]["group"]] for pack in packs]
        return token_rows(ids, labels, source, self.tokenizer.pad_token_id)

    def predict_dataloader(self) -> EvalBatches:
        """Prompts, padded on the left, to be answered."""
        split = self.splits.get("val", self.splits["train"]).unpacked

        def make(rows: np.ndarray) -> Batch:
            items = [split.members(max(0, row))[0] for row in rows]
            ids = [item["input_ids"][: item["prompt_length"]] for item in items]
            return prompts(ids, self.tokenizer.pad_token_id)

        return self.eval_batches(split, make)


def _count(part: Any) -> int:
    return len(part.rows) if isinstance(part, Packed) else len(part)


class _Encode:
    """Rows to tokens and the mask of those that are trained on, by the policies."""

    def __init__(
        self, tokenizer: Any, template: Template, group_by: list[str], max_length: int, policies: Policies
    ):
        self.tokenizer, self.template, self.group_by = tokenizer, template, group_by
        self.max_length, self.policies = max_length, policies

    def __call__(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> list[Encoded]:
        segments = each(rows, lambda number, row: self.template.segments(row, number, self.tokenizer))
        good = [found for found in segments if isinstance(found, list)]
        tokens = iter(encode_batch(self.tokenizer, good))
        ready = [
            (found if isinstance(found, Exception) else next(tokens), row)
            for found, (_, row) in zip(segments, rows, strict=True)
        ]
        return each(ready, self._finished)

    def _finished(self, tokens: Any, row: dict[str, Any]) -> dict[str, Any]:
        if isinstance(tokens, EmptyReply):
            raise _left_out(str(tokens), self.policies.empty_reply, "empty_reply")
        if isinstance(tokens, Exception):
            raise tokens
        missing = [column for column in self.group_by if row.get(column) is None]
        if missing:
            raise BadRow(f"no `{missing[0]}`, which data.group_by asks for")
        changed: list[str] = []
        for change in (self._with_eos, self._with_one_bos, self._fitting):
            tokens = change(tokens, changed)
        return {
            "input_ids": tokens.ids,
            "trained": tokens.trained,
            "prompt_length": _last_reply(tokens.trained),
            "group": "/".join(str(row.get(column)) for column in self.group_by) or "data",
            "length": len(tokens.ids),
            "weight": int(tokens.trained[1:].sum()),
            "changed": changed,
        }

    def _with_eos(self, tokens: Tokens, changed: list[str]) -> Tokens:
        if ends_with_eos(tokens, self.tokenizer):
            return tokens
        eos, policy = self.tokenizer.eos_token_id, self.policies.missing_eos
        if policy != "append":
            raise _left_out(f"a reply without {self.tokenizer.eos_token} at its end", policy, "missing_eos")
        changed.append("eos appended to a reply without one")
        ends = np.flatnonzero(tokens.trained & ~np.append(tokens.trained[1:], False))
        ends = ends[tokens.ids[ends] != eos] + 1
        return Tokens(np.insert(tokens.ids, ends, eos), np.insert(tokens.trained, ends, True))

    def _with_one_bos(self, tokens: Tokens, changed: list[str]) -> Tokens:
        if not double_bos(tokens.ids, self.tokenizer):
            return tokens
        if self.policies.double_bos != "truncate_left":
            reason = f"two {self.tokenizer.bos_token} at the beginning"
            raise _left_out(reason, self.policies.double_bos, "double_bos")
        changed.append("one of two bos removed")
        return Tokens(tokens.ids[1:], tokens.trained[1:])

    def _fitting(self, tokens: Tokens, changed: list[str]) -> Tokens:
        limit, over = self.max_length, len(tokens.ids) - self.max_length
        if over <= 0:
            return tokens
        start = _last_reply(tokens.trained)
        which = "long_prompt" if start >= limit else "long_reply"
        what = "prompt fills" if start >= limit else "prompt and reply are longer than"
        policy = getattr(self.policies, which)
        if policy != "truncate_left":
            raise _left_out(f"{what} max_length {limit}", policy, which)
        bos = int(tokens.ids[0] == self.tokenizer.bos_token_id)
        if over + bos >= start:
            raise DropRow(f"reply alone fills max_length {limit}")
        changed.append("prompt cut from the left")
        kept = np.r_[np.arange(bos), np.arange(over + bos, len(tokens.ids))]
        ids, trained = tokens.ids[kept], tokens.trained[kept]
        trained[: bos + int(np.argmin(trained[bos:]))] = False  # an earlier reply whose question is gone
        return Tokens(ids, trained)


def _last_reply(trained: np.ndarray) -> int:
    """Where the last reply begins."""
    given = np.flatnonzero(~trained[: np.flatnonzero(trained)[-1]])
    return int(given[-1]) + 1 if len(given) else 0


def _left_out(reason: str, policy: str, name: str) -> DropRow | BadRow:
    if policy == "drop":
        return DropRow(reason)
    return StopRun(f"{reason} (data.policies.{name} is error)")
