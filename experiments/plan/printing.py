"""How plans are printed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def show(*parts: "str | Table") -> None:
    """Prints lines as they are, however long, and tables as wide as the terminal allows."""
    from rich.console import Console  # `--json` does without

    console = Console(highlight=False)
    for part in parts:
        if isinstance(part, str):
            console.print(part, markup=False, soft_wrap=True)
        else:
            console.print(part)
