"""One line of a rank file: a row of `PreferenceData`, and beside it who ranked, when, and what was shown."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from experiments.web.rank.item import Item, item_of, same

Kind = Literal["ranked", "cannot say", "flagged", "skipped"]
KINDS: tuple[str, ...] = get_args(Kind)
BEGINS = '{"verdict": "'


def answer_line(
    item: Item,
    kind: Kind,
    levels: Sequence[int],
    person: str,
    shown: Sequence[int],
    seconds: float,
    remark: str = "",
) -> dict[str, Any]:
    """A line of the file.

    Args:
        item: what was ranked.
        kind: what the person said. Only what is `ranked` has `ratings` that differ.
        levels: of the card at each place, 1 = best, equal where tied; read where `kind` is `ranked`.
        person: who.
        shown: the reply (its place in `replies`) that each card showed, in the order of display.
        seconds: that the prompt was looked at.
        remark: what the person wrote.

    Returns:
        the line, to which the file adds its `number`.
    """
    ratings = [0.0] * len(item.replies)
    if kind == "ranked":
        ranks = sorted(set(levels))
        rating = {
            card: float(len(ranks) - ranks.index(level)) for card, level in zip(shown, levels, strict=True)
        }
        ratings = [rating[card] for card in item.card_of]
    return {
        "verdict": kind,
        "person": person,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        **item.prompt,
        "replies": list(item.replies),
        "ratings": ratings,
        "models": list(item.models),
        "seeds": list(item.seeds),
        "shown": list(shown),
        "remark": remark,
        "item": item.id,
    }


def has_preference(line: dict[str, Any]) -> bool:
    """Whether `PreferenceData` finds a pair in a line: two replies of other texts and ratings, neither of
    them blank."""
    rated = {(same(text), rating) for text, rating in zip(line["replies"], line["ratings"], strict=True)}
    return len({rating for text, rating in rated if text}) > 1


def levels_of(line: dict[str, Any]) -> list[int]:
    """The levels of a ranked line's cards, in the order of display: 1 = best."""
    ratings = [line["ratings"][reply] for reply in line["shown"]]
    ranks = sorted(set(ratings), reverse=True)
    return [ranks.index(rating) + 1 for rating in ratings]


def problem(line: dict[str, Any]) -> str | None:
    """What keeps a line from being one of a rank file."""
    if line.get("verdict") not in KINDS:
        return f"`verdict` is {line.get('verdict')!r}"
    for column, kind in (
        ("person", str),
        ("time", str),
        ("remark", str),
        ("item", str),
        ("number", int),
        ("seconds", int | float),
    ):
        if not isinstance(line.get(column), kind):
            return f"`{column}` is {line.get(column)!r}"
    replies = line.get("replies")
    if not isinstance(replies, list) or not all(isinstance(reply, str) for reply in replies):
        return "`replies` are no texts"
    for column, kinds in (("ratings", int | float), ("models", str | None), ("seeds", int | None)):
        values = line.get(column)
        if not isinstance(values, list) or len(values) != len(replies):
            return f"`{column}` are not one for each of the replies"
        if not all(isinstance(value, kinds) for value in values):
            return f"`{column}` holds something else"
    shown = line.get("shown")
    if not isinstance(shown, list) or sorted(shown, key=str) != sorted(item_of(line).cards, key=str):
        return "`shown` does not name each of the replies"
    return None
