"""The data receipt: what was kept, truncated and dropped and why, what is trained, and one sample with its
mask."""

from collections import Counter
from dataclasses import asdict, dataclass, field

from rich.console import Group
from rich.table import Table
from rich.text import Text


@dataclass
class Receipt:
    """What became of one source's rows."""

    source: str
    rows: int
    kept: int
    truncated: int
    dropped: dict[str, int]
    """reason → rows"""
    tokens: int
    """tokens of the kept rows"""
    trained: int
    """tokens that carry a loss (ranked prompts for preferences)"""
    sample: list[tuple[str, bool]] = field(default_factory=list)
    """one row as (text of a token, whether it is trained)"""

    def to_dict(self) -> dict:
        """Plain numbers for provenance; without the sample, which is somebody's text."""
        return {key: value for key, value in asdict(self).items() if key != "sample"}


def count(
    source: str, status: list[str], tokens: int, trained: int, sample: list[tuple[str, bool]]
) -> Receipt:
    """A receipt from each row's status: `kept`, `truncated`, or the reason why it was dropped."""
    counts = Counter(status)
    kept, truncated = counts.pop("kept", 0), counts.pop("truncated", 0)
    return Receipt(source, len(status), kept + truncated, truncated, dict(counts), tokens, trained, sample)


def render(receipts: list[Receipt]) -> Group:
    """A table and each source's sample: trained tokens are green, given ones dim; for a rich console."""
    table = Table(title="Data receipt", title_justify="left")
    table.add_column("source", no_wrap=True)
    for name in ("rows", "kept", "truncated", "dropped", "tokens", "trained"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("dropped because", overflow="fold")
    for r in receipts:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in r.dropped.items())
        numbers = (r.rows, r.kept, r.truncated, sum(r.dropped.values()), r.tokens, r.trained)
        table.add_row(r.source, *(f"{n:,}" for n in numbers), reasons)
    return Group(table, *(_sample(r) for r in receipts if r.sample))


def _sample(receipt: Receipt) -> Text:
    text = Text(f"{receipt.source}, one row (", style="bold")
    text.append("trained", style="green").append(", ").append("given", style="dim").append("):\n")
    for token, trained in receipt.sample:
        text.append(printable(token), style="not bold green" if trained else "not bold dim")
    return text


def printable(text: str) -> str:
    """Text without control characters, so that no row can write to the terminal."""
    return "".join(c if c == "\n" or c.isprintable() else "�" for c in text)
