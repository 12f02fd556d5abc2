"""Two replies in columns of their own and a column that says which is better: SHP, PKU-SafeRLHF, HelpSteer,
WebGPT, chat arenas."""

import re
from typing import Any, NamedTuple

from datamodules.rendering.segments import BadRow, Row

STEMS = (
    *("response", "answer", "output", "completion", "reply", "conversation"),
    *("human_ref", "orig_response"),
)
ENDS = (("0", "1"), ("1", "2"), ("a", "b"), ("A", "B"))
SIDES = [
    (f"{stem}{joint}{first}", f"{stem}{joint}{second}", first, second)
    for stem in STEMS
    for first, second in ENDS
    for joint in ("_", "")
]
NAMED = ("better", "better_response_id", "winner", "preference", "preferred", "orig_preference", "choice")
"""columns that name the better one, `better` by our own name: `b`, `model_b`, 1, `tie`"""
SIGNED = ("preference_strength", "overall_preference")
"""columns of a number: below 0 the first is better, above it the second"""
SCORES = ("score", "rating", "reward", "winner_model")
"""what columns of a number for each of the two begin with"""
TIES = ("tie", "both", "equal", "same", "neither", "draw")


class Duel(NamedTuple):
    """Two replies and how they are rated."""

    columns: tuple[str, str]
    ratings: tuple[float, float]
    by: tuple[str, ...]
    """the columns that say so"""


def duel_columns(row: Row) -> tuple[str, str] | None:
    """The columns of two replies of which another column says which is better; None where there are none."""
    sides = _sides(row)
    return sides[:2] if sides and _verdicts(row, sides) else None


def duel_of(row: Row) -> Duel | None:
    """The two replies of a row and their ratings; None where it has no two.

    Raises:
        BadRow: nothing says which is better, or in a way that is not known.
    """
    sides = _sides(row)
    if sides is None:
        return None
    first, second, *ends = sides
    by = _verdicts(row, sides)
    if not by:
        raise BadRow(
            f"`{first}` and `{second}`, but nothing says which is better: name it with "
            "`columns: {better: …}`"
        )
    values = [row[column] for column in by]
    ratings = _ratings(by[0], values, ends)
    if ratings is None:
        said = " and ".join(f"`{column}` is {value!r}" for column, value in zip(by, values, strict=True))
        raise BadRow(
            f"{said}, which is neither `{first}` nor `{second}` nor a tie: name another with `columns: "
            "{better: …}`"
        )
    return Duel((first, second), ratings, by)


def _sides(row: Row) -> tuple[str, str, str, str] | None:
    present = (sides for sides in SIDES if row.get(sides[0]) is not None and row.get(sides[1]) is not None)
    return next(present, None)


def _verdicts(row: Row, sides: tuple[str, str, str, str]) -> tuple[str, ...]:
    """The column, or the two, that say which is better."""
    first, _, a, b = sides
    single = [*NAMED, *(["labels"] if first == "human_ref_A" else []), *SIGNED]
    pairs = [(f"{score}_{a}", f"{score}_{b}") for score in SCORES]
    ways = [*((column,) for column in single), *pairs]
    return next((way for way in ways if all(row.get(column) is not None for column in way)), ())


def _ratings(by: str, values: list[Any], ends: list[str]) -> tuple[float, float] | None:
    numbers = [value for value in values if isinstance(value, int | float) and value == value]
    if by == "labels":  # SHP's: 1 where A is preferred, 0 where B is
        return (float(values[0]), 1.0 - values[0]) if values[0] in (0, 1) else None
    if by in NAMED:
        return _named(values[0], ends)
    if len(numbers) < len(values):
        return None
    return (-float(numbers[0]), float(numbers[0])) if by in SIGNED else (float(numbers[0]), float(numbers[1]))


def _named(value: Any, ends: list[str]) -> tuple[float, float] | None:
    """The ratings by a value that names a side."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    text = str(value).strip().lower()
    if text.startswith(TIES):
        return 0.0, 0.0
    named = [end.lower() for end in ends]
    last = re.split(r"[\s_]+", text)[-1]
    return {named[0]: (1.0, 0.0), named[1]: (0.0, 1.0)}.get(last)
