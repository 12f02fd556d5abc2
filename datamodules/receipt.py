"""The data receipt: what was kept, truncated and dropped and why, what is trained, and one sample with its
mask."""

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from datamodules.showing import Shown

SAMPLE_TOKENS = 400
CHARACTER = 4  # bytes, and so tokens, of a character at most


@dataclass(repr=False)
class Receipt(Shown):
    """What became of one source's rows."""

    source: str
    rows: int
    kept: int
    truncated: int
    """rows that were shortened or changed"""
    changed: dict[str, int]
    """what was done to them → rows"""
    dropped: dict[str, int]
    """reason → rows"""
    first: dict[str, str]
    """reason → the first such row, where it is"""
    tokens: int
    """tokens of the kept rows"""
    trained: int
    """tokens that carry a loss (ranked prompts for preferences)"""
    layouts: dict[str, int] = field(default_factory=dict)
    """layout that rows were found to have → rows"""
    layout_first: dict[str, str] = field(default_factory=dict)
    """layout → the first such row, where it is"""
    not_read: list[str] = field(default_factory=list)
    """columns, and keys of messages, that say something and that nobody reads"""
    sample: list[tuple[str, bool]] = field(default_factory=list)
    """one row as (text of a token, whether it is trained)"""

    def __rich__(self) -> Group:
        return render([self])

    def to_dict(self) -> dict:
        """Plain numbers for provenance; without the sample, which is somebody's text."""
        return {key: value for key, value in asdict(self).items() if key != "sample"}


class Receipts(Shown, list[Receipt]):
    """Those of all sources, which show themselves together."""

    def __rich__(self) -> Group:
        return render(self)


def sample(tokenizer: Any, ids: Any, trained: Any) -> list[tuple[str, bool]]:
    """(text, trained) of a row's tokens, one by one; those that make up a character together are joined."""
    pieces: list[tuple[str, bool]] = []
    part: list[int] = []
    for token, flag in zip(list(ids)[:SAMPLE_TOKENS], map(bool, trained), strict=False):
        part.append(int(token))
        text = tokenizer.decode(part)
        if not text.endswith("\ufffd") or len(part) == CHARACTER:  # else: half a character
            pieces.append((text, flag))
            part = []
    return pieces + ([(tokenizer.decode(part), flag)] if part else [])


def render(receipts: list[Receipt]) -> Group:
    """A table and each source's sample: trained tokens are green, given ones dim; for a rich console."""
    table = Table(title="Data receipt", title_justify="left")
    table.add_column("source", no_wrap=True)
    for name in ("rows", "kept", "truncated", "dropped", "tokens", "trained"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in receipts:
        numbers = (r.rows, r.kept, r.truncated, sum(r.dropped.values()), r.tokens, r.trained)
        table.add_row(r.source, *(f"{n:,}" for n in numbers))
    return Group(
        table, *map(_layouts, receipts), *map(_changes, receipts), *(_sample(r) for r in receipts if r.sample)
    )


def _layouts(receipt: Receipt) -> Text:
    """What the rows were read as, a line each, and the columns that were not read."""
    several = len(receipt.layouts) > 1
    lines = [
        f"{receipt.source}: "
        + (f"{n:,} rows, the first {receipt.layout_first[layout]}, " if several else "")
        + f"read as {layout}\n"
        for layout, n in receipt.layouts.items()
    ]
    if receipt.not_read:
        columns = ", ".join(f"`{column}`" for column in receipt.not_read)
        lines.append(f"{receipt.source}: not read: {columns}\n")
    return Text(printable("".join(lines)), end="")


def _changes(receipt: Receipt) -> Text:
    lines = [f"{receipt.source}: {n:,} × {change}\n" for change, n in receipt.changed.items()]
    lines += [
        f"{receipt.source}: {n:,} left out, {reason}; the first: {receipt.first[reason]}\n"
        for reason, n in receipt.dropped.items()
    ]
    return Text(printable("".join(lines)), style="yellow", end="")


def _sample(receipt: Receipt) -> Text:
    text = Text(f"{receipt.source}, one row (", style="bold")
    text.append("trained", style="green").append(", ").append("given", style="dim")
    text.append("; every other token underlined):\n")
    for place, (token, trained) in enumerate(receipt.sample):
        style = "not bold green" if trained else "not bold dim"
        text.append(printable(token), style=style + (" underline" if place % 2 else ""))
    return text


def printable(text: str) -> str:
    """Text without control characters, so that no row can write to the terminal."""
    return "".join(c if c == "\n" or c.isprintable() else "�" for c in text)
