"""Reward model's data: prompts with ranked, rated, or chosen and rejected replies."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from datamodules.base import RowSpec, TextDataModule, too_small
from datamodules.caching.row_encoder import INTS, RowEncoder
from datamodules.caching.split import EncodedRows, Packed, Split
from datamodules.collate import Batch, ranked_replies
from datamodules.layouts.comparison import Comparison, comparison
from datamodules.layouts.reader import Kind, RowReader
from datamodules.receipt import sample
from datamodules.rendering.chat_template import turn_end
from datamodules.rendering.policies import Policies, without_start
from datamodules.rendering.segments import DropRow, EmptyReply, Row, Segment, StopRun
from datamodules.rendering.templates import InstructionTemplate, Template
from datamodules.rendering.whole_text import Tokens
from datamodules.sampling.loaders import EvalBatches

REPLIES = 4  # to a prompt, where a plan does not read the data
FLOATS = pa.list_(pa.float32())
COLUMNS = {
    "replies": pa.list_(INTS),
    "ratings": FLOATS,
    "preferred": FLOATS,
    "prompt_length": pa.int32(),
    "longest": pa.int32(),
}


class PreferenceData(TextDataModule):
    """Rows of a prompt (`instruction` and `input`, or `messages`) and K replies to it, as one of

    - `replies` and, in the same order, `ratings` (higher is better); without them the replies are ranked,
      best first. Where `ratings` holds a list for each labeler (null = not rated), their mean ranks and their
      disagreement is kept: the share of labelers who rated one reply above the other, ties one half each;
    - `chosen` and `rejected`, and maybe `agreement`, the share of labelers who chose so;
    - `chosen` and `rejected` as conversations that differ in their last message, which is the reply.

    Equal ratings are ties and make no pair; a prompt without an untied pair is dropped and counted.

    Args:
        train: files (globs allowed), a saved `datasets` folder or a hub name.
        tokenizer: a Hugging Face directory or cached hub name.
        val: likewise, for validation and prediction.
        template: how a prompt becomes text; the same as PPO's.
        max_length: tokens of prompt and reply; what happens to more say the policies.
        packing: lay prompts with all their replies into packs of so many tokens, none of them split; a pack
            then counts as a prompt of `global_batch_size`. None = each reply on its own.
        global_batch_size: prompts of an optimizer step over all ranks and micro-batches.
        micro_batch_size: prompts of one forward on one rank; gradient accumulation follows from both.
        policies: what happens to replies that cannot be compared as they are.
        kwargs: as of `TextDataModule`, whose rows are prompts here.
    """

    makes: ClassVar[str] = "ranked_replies"
    rows: ClassVar[Kind] = "preferences"

    def __init__(
        self,
        train: str | list[str],
        tokenizer: str,
        val: str | list[str] | None = None,
        template: Template = InstructionTemplate(),  # noqa: B008 (it has no state to share)
        max_length: int = 1024,
        packing: int | None = None,
        global_batch_size: int = 16,
        micro_batch_size: int = 4,
        policies: Policies = Policies(),  # noqa: B008 (frozen)
        **kwargs: Any,
    ):
        super().__init__(
            tokenizer, global_batch_size=global_batch_size, micro_batch_size=micro_batch_size, **kwargs
        )
        self.train, self.val = train, val
        self.template = template
        self.max_length, self.packing = max_length, packing
        self.policies = policies

    @classmethod
    def row_spec(cls, arguments: Mapping[str, Any]) -> RowSpec:
        if arguments["packing"] is not None:
            return RowSpec(sequences=1, tokens=arguments["packing"])
        note = f"{REPLIES} replies to a prompt"
        return RowSpec(sequences=REPLIES, tokens=arguments["max_length"], note=note)

    def config_errors(self, world_size: int, accumulate: int = 1) -> list[str]:
        errors = super().config_errors(world_size, accumulate)
        errors += too_small("data.max_length", self.max_length, 2)
        if self.packing is not None:
            errors += too_small("data.packing", self.packing, 2 * self.max_length)
        return errors + self.template.config_errors()

    def read(self) -> dict[str, Split]:
        train = self._rows("data.train", self.train, packed=self.packing is not None)
        splits: dict[str, Split] = {"train": train if self.packing is None else Packed(train, self.packing)}
        if self.val:
            splits["val"] = self._rows("data.val", self.val, packed=False)
        return splits

    def _rows(self, name: str, path: Any, packed: bool) -> EncodedRows:
        encoder = PreferenceEncoder(
            self.tokenizer, self.template, self.max_length, packed, self.policies, self.reader(self.template)
        )
        rows = self.encode(path, name, encoder)
        first = rows[0]
        best = first["replies"][int(np.argmax(first["ratings"]))]
        trained = np.arange(len(best)) >= first["prompt_length"]
        rows.receipt.sample = sample(self.tokenizer, best, trained)
        return rows

    def batch(self, split: Split, rows: np.ndarray) -> Batch:
        packs = [split.members(max(0, row)) for row in rows]
        return ranked_replies(packs, isinstance(split, Packed), self.tokenizer.pad_token_id)

    def training_sample(self, replies: int) -> EvalBatches:
        """Training prompts with about so many replies, spread evenly over the set."""
        train = self.splits["train"].unpacked
        count = min(len(train), max(1, replies // max(1, len(train.members(0)[0]["replies"]))))
        rows = np.linspace(0, len(train) - 1, count).astype(np.int64)
        return self.eval_batches(train, lambda ids: self.batch(train, ids), rows)


class PreferenceEncoder(RowEncoder):
    """The tokens of every reply with its prompt in front, ratings, and preferences. A row is as long as
    the longest reply or, packed, as all of them together."""

    def __init__(
        self,
        tokenizer: Any,
        template: Template,
        max_length: int,
        packed: bool,
        policies: Policies,
        reader: RowReader = RowReader("preferences"),  # noqa: B008 (frozen)
    ):
        settings = f"preference {template.key(tokenizer)} {max_length} {packed} {asdict(policies)}"
        super().__init__(tokenizer, COLUMNS, settings, reader)
        self.template, self.max_length, self.packed = template, max_length, packed
        self.policies, self.turn_end = policies, turn_end(tokenizer)

    def parse(self, row: Row) -> Comparison:
        return comparison(row)

    def render(self, row: Comparison, number: int) -> list[list[Segment]]:
        texts: list[list[Segment]] = []
        for reply in row.replies:
            try:
                texts.append(self.template.answered(row.prompt, reply, number, self.tokenizer))
            except EmptyReply as error:
                problem = self.policies.left_out("empty_reply", str(error))
                if isinstance(problem, StopRun):
                    raise problem from error
                texts.append([])
        return texts

    def changes(self, row: Comparison, number: int) -> list[str]:
        return self.template.changes(row.prompt, number, asked=True)

    def unread(self, row: Comparison, number: int) -> list[str]:
        replies = (self.template.unread(row.prompt, number, self.tokenizer, reply) for reply in row.replies)
        return [key for keys in replies for key in keys]

    def finish(self, row: Comparison, tokens: list[Tokens]) -> Row:
        replies: dict[int, Tokens] = {}
        changed: dict[str, None] = {}
        problems: list[DropRow] = []
        for i, reply in enumerate(tokens):
            if not len(reply.ids):
                continue
            try:
                reply, ended = self.policies.with_eos(reply, self.tokenizer, self.turn_end)
            except DropRow as error:
                problems.append(error)
                continue
            replies[i], one_bos = self.policies.with_one_bos(reply, self.tokenizer)
            changed |= dict.fromkeys(filter(None, (ended, one_bos)))
        replies, cut = self._fitting(replies)
        if not any(
            row.differ(i, j) and not np.array_equal(replies[i].ids, replies[j].ids)
            for i in replies
            for j in replies
        ):
            none = f"no two different replies of different rating within max_length {self.max_length}"
            raise problems[0] if problems else DropRow(none)
        kept, prompt = list(replies), _shared_prompt(list(replies.values()))
        lengths = [len(reply.ids) for reply in replies.values()]
        lost = "too long or blank replies left out" if len(kept) + len(problems) < len(tokens) else ""
        return {
            "replies": [reply.ids for reply in replies.values()],
            "ratings": row.ratings[kept],
            "preferred": row.preferred[np.ix_(kept, kept)].ravel(),
            "prompt_length": prompt,
            "longest": max(lengths),
            "length": sum(lengths) if self.packed else max(lengths),
            "weight": 1,
            "changed": [*changed, *filter(None, (lost, cut)), *({f"{p}: left out" for p in problems})],
        }

    def _fitting(self, replies: dict[int, Tokens]) -> tuple[dict[int, Tokens], str]:
        """The replies within `max_length`, all to one prompt, and a word of it if that was cut."""
        limit, kept, over = self.max_length, dict(replies), 0
        for i, reply in replies.items():
            length, prompt = len(reply.ids), _prompt_length(reply)
            if length <= limit:
                continue
            policy = "long_prompt" if prompt >= limit else "long_reply"
            bos = int(reply.ids[0] == self.tokenizer.bos_token_id)
            if getattr(self.policies, policy) == "error":
                raise self.policies.left_out(policy, f"prompt and reply are longer than max_length {limit}")
            if getattr(self.policies, policy) == "drop" or length - limit + bos >= prompt:
                del kept[i]
            else:
                over = max(over, length - limit)
        if not over:
            return kept, ""
        shorter = {i: without_start(reply, over, self.tokenizer) for i, reply in kept.items()}
        return shorter, "prompt cut from the left"


def _prompt_length(reply: Tokens) -> int:
    return int(np.argmax(reply.trained))


def _shared_prompt(replies: list[Tokens]) -> int:
    """The length of the prompt that all replies continue."""
    length = _prompt_length(replies[0])
    first = replies[0].ids[:length]
    if any(_prompt_length(r) != length or not np.array_equal(r.ids[:length], first) for r in replies):
        raise DropRow("the template gives its replies different prompts")
    return length
