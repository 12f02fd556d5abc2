"""What the data commands write: files that never replace what is read, and tables of counts."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text as Cell

from experiments.cli.user_errors import UserError


def check_output(output: Path, inputs: Iterable[str]) -> None:
    """Refuses a file to write, before what may be large is read.

    Raises:
        UserError: it is a folder, is in none, or is one of the inputs.
    """
    if output.is_dir():
        raise UserError(f"--output {output} is a folder: give a file")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}")
    if any(same_file(output, file) for file in inputs):
        raise UserError(
            f"--output {output} is the file that is read, which it would overwrite: give another name"
        )


def same_file(path: str | Path, other: str | Path) -> bool:
    """Whether two paths lead to one file, through links too; none where one of them leads nowhere."""
    return Path(path).exists() and Path(other).exists() and Path(path).samefile(other)


def counts_table(name: str, heads: Sequence[str]) -> Table:
    """A table with names on the left and a column of numbers for each head; see `add_counts`."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(name, overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def add_counts(table: Table, name: str, counts: Sequence[int], share: float) -> None:
    """A row of a table of counts, with a share in per cent on the right."""
    table.add_row(Cell(name), *(f"{count:,}" for count in counts), f"{share:.1%}")
