"""Rows that are tokens already, as other tools and generators of tasks write them."""

from typing import Any, ClassVar

import numpy as np

from datamodules.caching.row_encoder import RowEncoder
from datamodules.instruction import COLUMNS, InstructionData, InstructionSource, group_of, last_reply
from datamodules.layouts.reader import Kind, RowReader
from datamodules.rendering.policies import Policies
from datamodules.rendering.segments import BadRow, DropRow, EmptyReply, Row, Segment
from datamodules.rendering.templates import InstructionTemplate, Template
from datamodules.rendering.whole_text import Tokens


class TokenData(InstructionData):
    """Rows `input_ids` and, where not all of them are trained on, `labels`: the token itself, at its own
    place (networks shift them), or −100 where it is given. No template and no eos is added.

    Args:
        train: files (globs allowed), a saved `datasets` folder or a hub name; or several sources by name,
            each with a weight.
        tokenizer: whose ids they are: a Hugging Face directory or cached hub name.
        val: files, for validation and prediction.
        group_by: columns whose values get a validation loss of their own.
        max_length: tokens; longer rows are dropped.
        packing: as of `InstructionData`.
        kwargs: as of `TextDataModule`.
    """

    makes: ClassVar[str] = "tokens"
    rows: ClassVar[Kind] = "tokens"

    def __init__(
        self,
        train: str | list[str] | dict[str, InstructionSource],
        tokenizer: str,
        val: str | list[str] | None = None,
        group_by: list[str] | None = None,
        max_length: int = 1024,
        packing: int | None = None,
        **kwargs: Any,
    ):
        # what is named here the command line does not offer: there is no text to lay out or to end
        super().__init__(
            train,
            tokenizer,
            val,
            template=InstructionTemplate(),
            group_by=group_by,
            max_length=max_length,
            packing=packing,
            policies=Policies(),
            **kwargs,
        )

    def config_errors(self, world_size: int, accumulate: int = 1) -> list[str]:
        errors = super().config_errors(world_size, accumulate)
        return errors + [
            f"data.train.{name}.template: rows that are tokens have none: leave it out"
            for name, source in self.sources.items()
            if source.template is not None
        ]

    def encoder(self, template: Template, reader: RowReader) -> RowEncoder:
        return TokenEncoder(self.tokenizer, self.vocabulary, self.group_by or [], self.max_length, reader)


class TokenEncoder(RowEncoder):
    """Checks rows of tokens; the arguments are `TokenData`'s."""

    def __init__(
        self, tokenizer: Any, vocabulary: int, group_by: list[str], max_length: int, reader: RowReader
    ):
        super().__init__(tokenizer, COLUMNS, f"tokens {group_by} {max_length}", reader)
        self.vocabulary, self.group_by, self.max_length = vocabulary, group_by, max_length

    def render(self, row: Row, number: int) -> list[list[Segment]]:
        return []

    def finish(self, row: Row, tokens: list[Tokens]) -> Row:
        ids = _integers(row, "input_ids")
        if not len(ids):
            raise DropRow("empty `input_ids`")
        if ids.min() < 0 or ids.max() >= self.vocabulary:
            wrong = int(ids[(ids < 0) | (ids >= self.vocabulary)][0])
            raise BadRow(f"`input_ids` holds {wrong}, but the tokenizer's ids are 0 to {self.vocabulary - 1}")
        trained = np.ones(len(ids), dtype=bool)
        if row.get("labels") is not None:
            trained = _trained(ids, _integers(row, "labels"))
        if not trained[1:].any():
            raise EmptyReply("nothing to train on")
        if len(ids) > self.max_length:
            raise DropRow(f"longer than max_length {self.max_length}")
        return {
            "input_ids": ids,
            "trained": trained,
            "prompt_length": last_reply(trained),
            "group": group_of(row, self.group_by),
            "length": len(ids),
            "weight": int(trained[1:].sum()),  # nothing predicts the first token
        }


def _integers(row: Row, column: str) -> np.ndarray:
    if row.get(column) is None:
        raise BadRow(f"no `{column}` (it has {', '.join(f'`{name}`' for name in row) or 'nothing'})")
    array = np.asarray(row[column]) if isinstance(row[column], list) else None
    if array is None or array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise BadRow(f"`{column}` is no list of whole numbers")
    if len(array) and not (array.min() >= -(2**31) and array.max() < 2**31):
        raise BadRow(f"`{column}` holds {max(array, key=abs)}, which is no token")
    return array.astype(np.int32)


def _trained(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if len(labels) != len(ids):
        raise BadRow(f"`labels` has {len(labels)} tokens, `input_ids` {len(ids)}")
    trained = labels != -100
    if (labels[trained] != ids[trained]).any():
        raise BadRow("`labels` are not the `input_ids` at their own places (nor −100): do not shift them")
    return trained
