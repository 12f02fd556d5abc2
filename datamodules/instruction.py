"""SFT data: instructions and chats, with the loss on the replies."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from datamodules.base import RowSpec, TextDataModule, too_small
from datamodules.caching.row_encoder import FLAGS, INTS, RowEncoder
from datamodules.caching.split import EncodedRows, JoinedSplit, Packed, Split
from datamodules.collate import IGNORED, Batch, prompts, token_rows
from datamodules.layouts.reader import Kind, RowReader
from datamodules.receipt import sample
from datamodules.rendering.chat_template import turn_end
from datamodules.rendering.policies import Policies, without_start
from datamodules.rendering.segments import BadRow, DropRow, EmptyReply, Row, Segment
from datamodules.rendering.templates import InstructionTemplate, Template
from datamodules.rendering.whole_text import Tokens
from datamodules.sampling.loaders import EvalBatches
from datamodules.sampling.mixture_schedule import Mixed, MixtureSchedule
from datamodules.sampling.orders import RowOrder, Shuffled, source_seed

COLUMNS = {"input_ids": INTS, "trained": FLAGS, "prompt_length": pa.int32(), "group": pa.string()}


@dataclass
class InstructionSource:
    """One source of a mixture of instructions.

    Args:
        train: files (globs allowed), a saved `datasets` folder or a hub name.
        weight: its share, relative to the other sources'.
        template: how its rows become text; the data module's where it is not given.
        columns: our name for a column ← the file's own; the data module's where it is not given.
        encoding: of text files; the data module's where it is not given.
    """

    train: str | list[str]
    weight: float = 1.0
    template: Template | None = None
    columns: dict[str, str] | None = None
    encoding: str | None = None


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
        kwargs: as of `TextDataModule`.
    """

    makes: ClassVar[str] = "tokens"
    rows: ClassVar[Kind] = "instructions"

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
        policies: Policies = Policies(),  # noqa: B008 (frozen)
        **kwargs: Any,
    ):
        super().__init__(tokenizer, **kwargs)
        self.train, self.val = train, val
        self.template = template
        self.mix_by = mix_by
        self.group_by = group_by
        self.max_length, self.packing = max_length, packing
        self.policies = policies
        self._groups: set[str] = set()

    @classmethod
    def row_spec(cls, arguments: Mapping[str, Any]) -> RowSpec:
        packing = arguments["packing"]
        return RowSpec(sequences=1, tokens=packing or arguments["max_length"])

    @property
    def sources(self) -> dict[str, InstructionSource]:
        """The training sources; one, called `train`, where only files are given."""
        if isinstance(self.train, dict):
            return self.train
        return {"train": InstructionSource(self.train)}

    @property
    def source_names(self) -> list[str]:
        """The groups of `group_by`, known once the data is read."""
        return sorted(self._groups)

    def named_files(self) -> dict[str, str | list[str]]:
        if not isinstance(self.train, dict):
            return super().named_files()
        files = {f"data.train.{name}": source.train for name, source in self.train.items()}
        return {**files, "data.val": self.val} if self.val else files

    def config_errors(self, world_size: int, accumulate: int = 1) -> list[str]:
        errors = super().config_errors(world_size, accumulate)
        errors += too_small("data.max_length", self.max_length, 2)
        if self.packing is not None:
            errors += too_small("data.packing", self.packing, self.max_length)
        if not self.sources:
            errors.append("data.train is empty: name at least one source")
        for name, source in self.sources.items():
            if not 0 < source.weight < float("inf"):
                errors.append(f"data.train.{name}.weight is {source.weight}: give a number above 0")
            for line in source.template.config_errors() if source.template else []:
                errors.append(line.replace("data.template", f"data.train.{name}.template", 1))
            reader = self.reader(source.template or self.template, source.columns, source.encoding)
            errors += reader.config_errors(f"data.train.{name}") if source.columns or source.encoding else []
        return errors + self.template.config_errors()

    def read(self) -> dict[str, Split]:
        several = isinstance(self.train, dict)
        parts: list[Split] = []
        for name, source in self.sources.items():
            field = f"data.train.{name}" if several else "data.train"
            rows = self._rows(field, source)
            parts.append(rows if self.packing is None else Packed(rows, self.packing))
        splits: dict[str, Split] = {"train": JoinedSplit(parts) if several else parts[0]}
        if self.val:
            splits["val"] = self._rows("data.val", InstructionSource(self.val))
        return splits

    def encoder(self, template: Template, reader: RowReader) -> RowEncoder:
        """What makes tokens of a source's rows."""
        return InstructionEncoder(
            self.tokenizer, template, self.group_by or [], self.max_length, self.policies, reader
        )

    def reader(
        self,
        template: Template | None = None,
        columns: dict[str, str] | None = None,
        encoding: str | None = None,
        also: Collection[str] = (),
    ) -> RowReader:
        groups = self.group_by or ()
        return super().reader(template or self.template, columns, encoding, (*also, *groups))

    def _rows(self, name: str, source: InstructionSource) -> EncodedRows:
        template = source.template or self.template
        reader = self.reader(template, source.columns, source.encoding)
        rows = self.encode(source.train, name, self.encoder(template, reader))
        rows.receipt.sample = sample(self.tokenizer, rows[0]["input_ids"], rows[0]["trained"])
        self._groups |= rows.distinct("group")
        return rows

    def order(self) -> RowOrder:
        split = self.splits["train"]
        if not isinstance(split, JoinedSplit):
            return super().order()
        orders = [Shuffled(len(part), source_seed(self.seed, i)) for i, part in enumerate(split.parts)]
        # the schedule deals out rows (or packs): a share of tokens becomes one of rows by their mean length
        by_tokens = self.mix_by == "tokens"
        weights = [
            source.weight
            * len(part)
            / (part.lengths[part.row_ids()].sum() if by_tokens else len(part.unpacked))
            for source, part in zip(self.sources.values(), split.parts, strict=True)
        ]
        return Mixed(MixtureSchedule(weights), orders, split.starts)

    def batch(self, split: Split, rows: np.ndarray) -> Batch:
        names = {name: index for index, name in enumerate(self.source_names)}
        packs = [split.members(max(0, row)) for row in rows]
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
            members = [split.members(max(0, row))[0] for row in rows]
            ids = [member["input_ids"][: member["prompt_length"]] for member in members]
            return prompts(ids, self.tokenizer.pad_token_id)

        return self.eval_batches(split, make)


class InstructionEncoder(RowEncoder):
    """A conversation's tokens and which of them are trained on; the arguments are `InstructionData`'s."""

    def __init__(
        self,
        tokenizer: Any,
        template: Template,
        group_by: list[str],
        max_length: int,
        policies: Policies,
        reader: RowReader = RowReader("instructions"),  # noqa: B008 (frozen)
    ):
        settings = f"instruction {template.key(tokenizer)} {group_by} {max_length} {asdict(policies)}"
        super().__init__(tokenizer, COLUMNS, settings, reader)
        self.template, self.group_by = template, group_by
        self.max_length, self.policies = max_length, policies
        self.turn_end = turn_end(tokenizer)

    def render(self, row: Row, number: int) -> list[list[Segment]]:
        try:
            return [self.template.segments(row, number, self.tokenizer)]
        except EmptyReply as error:
            raise self.policies.left_out("empty_reply", str(error)) from error

    def changes(self, row: Row, number: int) -> list[str]:
        return self.template.changes(row, number, asked=False)

    def unread(self, row: Row, number: int) -> list[str]:
        return self.template.unread(row, number, self.tokenizer)

    def finish(self, row: Row, tokens: list[Tokens]) -> Row:
        group = group_of(row, self.group_by)
        conversation, ended = self.policies.with_eos(tokens[0], self.tokenizer, self.turn_end)
        conversation, one_bos = self.policies.with_one_bos(conversation, self.tokenizer)
        conversation, cut = self._fitting(conversation)
        return {
            "input_ids": conversation.ids,
            "trained": conversation.trained,
            "prompt_length": last_reply(conversation.trained),
            "group": group,
            "length": len(conversation.ids),
            "weight": int(conversation.trained[1:].sum()),  # nothing predicts the first token
            "changed": [change for change in (ended, one_bos, cut) if change],
        }

    def _fitting(self, tokens: Tokens) -> tuple[Tokens, str]:
        """Tokens within `max_length` and, if they were cut, a word of it."""
        limit, over = self.max_length, len(tokens.ids) - self.max_length
        if over <= 0:
            return tokens, ""
        start = last_reply(tokens.trained)
        if start >= limit:
            policy, reason = "long_prompt", f"prompt fills max_length {limit}"
        else:
            policy, reason = "long_reply", f"prompt and reply are longer than max_length {limit}"
        if getattr(self.policies, policy) != "truncate_left":
            raise self.policies.left_out(policy, reason)
        bos = int(tokens.ids[0] == self.tokenizer.bos_token_id)
        if over + bos >= start:
            raise DropRow(f"reply alone fills max_length {limit}")
        ids, trained = without_start(tokens, over, self.tokenizer)
        trained[: bos + int(np.argmin(trained[bos:]))] = False  # an earlier reply whose question is gone
        return Tokens(ids, trained), "prompt cut from the left"


def group_of(row: Row, group_by: list[str]) -> str:
    """What the columns of `group_by` say of a row.

    Raises:
        BadRow: one is missing.
    """
    missing = [column for column in group_by if row.get(column) is None]
    if missing:
        raise BadRow(f"no `{missing[0]}`, which data.group_by asks for")
    return "/".join(str(row[column]) for column in group_by) or "data"


def last_reply(trained: np.ndarray) -> int:
    """Where the last reply begins."""
    given = np.flatnonzero(~trained[: np.flatnonzero(trained)[-1]])
    return int(given[-1]) + 1 if len(given) else 0
