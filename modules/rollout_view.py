"""A rollout made visible: a line a sequence, and responses with each token coloured by a number."""

from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from modules.showing import Shown

Rollout = Any
"""`modules.rollout.Rollout`, which shows itself by this file"""

ROWS = 16
STEPS = 4  # of a colour's strength
RED, GREEN = (220, 38, 38), (22, 163, 74)


def table(rollout: Rollout) -> Table:
    """A line a sequence, the first ones: tokens, score, KL, what PPO makes of them."""
    rows = len(rollout.scores)
    title = f"Rollout: {rows} sequences" + (f", the first {ROWS}" if rows > ROWS else "")
    result = Table(title=title, title_justify="left")
    for name in ("row", "prompt tokens", "response tokens", "score", "KL in nats", "Σ rewards", "mean value"):
        result.add_column(name, justify="right", no_wrap=True)
    mask, kl = rollout.response_mask, rollout.kl_per_sequence()
    for row in range(min(rows, ROWS)):
        numbers = (
            rollout.scores[row],
            kl[row],
            rollout.rewards[row].sum(),
            rollout.values[row][mask[row]].mean(),
        )
        lengths = (int(rollout.prompt_mask[row].sum()), int(mask[row].sum()))
        result.add_row(str(row), *map(str, lengths), *(f"{float(number):.3f}" for number in numbers))
    return result


class ShownRollout(Shown):
    """Its table, and the first responses, token by token."""

    def __init__(self, rollout: Rollout, tokenizer: Any, field: str, rows: int):
        self.rollout, self.tokenizer, self.field, self.rows = rollout, tokenizer, field, rows

    def __rich__(self) -> Group:
        return Group(table(self.rollout), *self._lines())

    def _lines(self) -> Iterator[Text]:
        rollout, numbers = self.rollout, getattr(self.rollout, self.field)
        largest = float(numbers[rollout.response_mask].abs().max().clamp(min=1e-12))
        yield Text.assemble(
            f"{self.field}: ", ("  below 0 ", _colour(-1)), " ", (" above 0 ", _colour(1)),
            f", up to ± {largest:.3g}; the prompt before each response",
        )  # fmt: skip
        for row in range(min(self.rows, len(rollout.scores))):
            kept = rollout.response_mask[row]
            prompt = self.tokenizer.decode(rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist())
            line = Text(printable(prompt), "#6b7280")
            for token, number in zip(rollout.response_ids[row][kept], numbers[row][kept], strict=True):
                line.append(printable(self.tokenizer.decode([int(token)])), _colour(float(number) / largest))
            yield line


def _colour(share: float) -> str:
    """A background from white to red (−1) or green (1)."""
    strength = round(min(abs(share), 1.0) * STEPS) / STEPS * 0.7
    mixed = (round(255 - strength * (255 - part)) for part in (RED if share < 0 else GREEN))
    return "#111827 on #" + "".join(f"{part:02x}" for part in mixed)


def printable(text: str) -> str:
    """Text without control characters, so that no model can write to the terminal."""
    return "".join(c if c == "\n" or c.isprintable() else "�" for c in text)


def field_errors(rollout: Rollout, field: str) -> str | None:
    """The line that refuses a field that has no number a token; None where it is fine."""
    shape = rollout.response_ids.shape
    fields = [
        name
        for name, value in rollout._asdict().items()
        if isinstance(value, Tensor) and value.shape == shape and value.dtype == torch.float32
    ]
    return None if field in fields else f"by is {field!r}: give one of {', '.join(fields)}"
