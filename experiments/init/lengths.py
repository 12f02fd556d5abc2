"""How long rows are in tokens, counted with the data module's own encoder, and the lengths and batches that
follow."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datamodules.caching.row_encoder import RowEncoder
from datamodules.layouts.reader import RowReader
from datamodules.reading.record import Record
from datamodules.rendering.policies import Policies
from datamodules.rendering.segments import StopRun
from datamodules.rendering.templates import Template

ANY_LENGTH = 2**30  # tokens
QUANTILE = 0.995  # of the rows that are kept whole
BATCH_TOKENS = 8192  # of a forward
STOPPED_BY = re.compile(r"data\.policies\.(\w+) is error")
REMEDIES = {"missing_eos": "append", "double_bos": "truncate_left"}
"""policy that would stop the run → what lets it go on"""


@dataclass(frozen=True, eq=False)
class Lengths:
    """Of the rows of a sample."""

    tokens: np.ndarray
    """(N,) of each row that is kept: of the longest reply with its prompt, or of the prompt"""
    replies: int = 1
    """that a row ranks, at most"""
    policies: dict[str, str] = field(default_factory=dict)
    """what these rows need"""
    left_out: str = ""
    """the first row that cannot be trained on, and why"""

    @property
    def told(self) -> str:
        """The lengths in a line."""
        middle, usual = (int(np.quantile(self.tokens, share)) for share in (0.5, QUANTILE))
        return (
            f"Of {len(self.tokens):,} rows half have at most {middle:,} tokens, {QUANTILE:.1%} at most "
            f"{usual:,}, the longest {int(self.tokens.max()):,}."
        )

    def limit(self, most: int | None) -> int:
        """Tokens that a row may have, so that all of them, or QUANTILE, are kept whole; a multiple of 8, but
        no more than `most`."""
        longest, usual = int(self.tokens.max()), float(np.quantile(self.tokens, QUANTILE))
        limit = longest if longest <= 2 * usual else int(np.ceil(usual))
        return min(8 * -(-limit // 8), most or ANY_LENGTH)


NONE = Lengths(np.zeros(0))


def count(stage: str, reader: RowReader, tokenizer: Any, template: Template, sample: list[Record]) -> Lengths:
    """Counts the tokens of a sample's rows as the stage would."""
    policies: dict[str, str] = {}
    while True:
        encoder = _encoder(stage, reader, tokenizer, template, Policies(**policies))  # type: ignore[arg-type]
        batch = encoder.encode(list(enumerate(sample)))
        stop = next((row for row in batch.left_out if issubclass(row.kind, StopRun)), None)
        policy = STOPPED_BY.search(stop.reason) if stop else None
        if policy is None or policy[1] not in REMEDIES or policy[1] in policies:
            break
        policies[policy[1]] = REMEDIES[policy[1]]
    replies = max((len(row.get("replies", ())) for row in batch.rows), default=1)
    tokens = np.array([row["length"] for row in batch.rows], np.int64)
    left_out = batch.left_out[0].line if batch.left_out else ""
    return Lengths(tokens, max(1, replies), policies, left_out)


def _encoder(
    stage: str, reader: RowReader, tokenizer: Any, template: Template, policies: Policies
) -> RowEncoder:
    from datamodules.corpus import DocumentEncoder
    from datamodules.instruction import InstructionEncoder
    from datamodules.preference import PreferenceEncoder
    from datamodules.prompts import PromptEncoder
    from datamodules.rendering.tokenizer import vocabulary_size
    from datamodules.tokens import TokenEncoder

    if reader.kind == "documents":
        return DocumentEncoder(tokenizer, "text", reader)
    if reader.kind == "tokens":
        return TokenEncoder(tokenizer, vocabulary_size(tokenizer), [], ANY_LENGTH, reader)
    if stage == "sft":
        return InstructionEncoder(tokenizer, template, [], ANY_LENGTH, policies, reader)
    if stage == "reward":
        return PreferenceEncoder(tokenizer, template, ANY_LENGTH, False, policies, reader)
    return PromptEncoder(tokenizer, template, ANY_LENGTH, policies, reader)


def block_length(lengths: Lengths, rows: int, most: int) -> int:
    """Tokens of a block for documents: what nine of ten fit into, but so few that there are some blocks."""
    there = int(lengths.tokens.mean() * rows)
    wanted = min(most, power_of_two(2 * float(np.quantile(lengths.tokens, 0.9))))
    return max(2, min(wanted, power_of_two(there / 16) if there >= 256 else there // 2))


def batch_sizes(rows: int, row_tokens: int, most: int) -> tuple[int, int]:
    """Rows of an optimizer step, at most `most` and so few that an epoch has some ten steps, and of a
    forward."""
    step = min(most, power_of_two(rows / 10))
    return step, min(step, 8, power_of_two(BATCH_TOKENS / row_tokens))


def power_of_two(number: float) -> int:
    """The largest power of two that is not above a number; 1 at least."""
    return 1 << max(0, int(number).bit_length() - 1)
