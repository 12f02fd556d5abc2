"""How plans are printed."""

from typing import Any


def table(title: str, first: str, *numbers: str) -> Any:
    """A `rich.table.Table` of a column of names and columns of numbers."""
    from rich.table import Table  # `--json` does without

    result = Table(title=title, title_justify="left")
    result.add_column(first, overflow="fold")
    for heading in numbers:
        result.add_column(heading, justify="right", no_wrap=True)
    return result


def show(*parts: Any) -> None:
    """Prints lines as they are, however long, and tables as wide as the terminal allows."""
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        is_line = isinstance(part, str)
        console.print(part, markup=not is_line, soft_wrap=is_line)
