"""Numbers as people write and read them: tokens, bytes, time; and how plans are printed."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def amount(number: float, digits: int = 4, unit: str = "") -> str:
    """Some digits and a letter: 852.7 G."""
    for scale, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale * (1 - 0.5 * 10**-digits):  # 999.96 is 1 k, not 1000
            return f"{number / scale:.{digits}g} {letter}{unit}"
    return f"{number:.{digits}g} {unit}".rstrip()


def size(number: float, digits: int = 4) -> str:
    """Bytes in decimal units, as memory is sold: 31.41 GB."""
    return amount(number, digits, "B")


def duration(seconds: float) -> str:
    """Three digits and a unit: 2.31 days."""
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} seconds"


def number(where: str, given: Any, errors: list[str], hint: str, least: float | None = None) -> float:
    """A finite number of at least `least`, or above 0; also from text, as YAML reads `852.7e9` as text."""
    try:
        number = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number) and (number > 0 if least is None else number >= least):
        return number
    wanted = "above 0" if least is None else f"of {least:g} or more"
    errors.append(f"{where} is {shown(given)}: give a number {wanted}, {hint}")
    return 1.0


def count(where: str, given: Any, errors: list[str], hint: str = "such as 852.7e9") -> int:
    """A whole number of tokens, or of what `hint` says."""
    return int(number(where, given, errors, hint, least=1))


def nearest(name: str, known: Iterable[str]) -> str:
    """What to give instead of a name that is not known."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    return f"did you mean `{near[0]}`?" if near else f"choose from {', '.join(names)}"


def shown(given: Any) -> str:
    """What was given, cut to a length that fits a line."""
    text = repr(given)
    return text if len(text) <= 60 else text[:57] + "…"


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
