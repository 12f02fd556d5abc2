"""Items to rank, and people who answer through a session."""

from pathlib import Path

from experiments.web.rank.item import Item
from experiments.web.rank.ledger import Ledger
from experiments.web.rank.session import Session


def item(number: int, *replies: str, models: tuple = ("sft", "ppo", "sft", "ppo")) -> Item:
    """A prompt with four replies, or those given."""
    texts = replies or tuple(f"reply {letter} to {number}" for letter in "abcd")
    return Item({"instruction": f"Question {number}"}, texts, models[: len(texts)], tuple(range(len(texts))))


def session(folder: Path, count: int = 3, overlap: int = 1, **options) -> Session:
    """A session of so many items, its answers in `ranks.jsonl` of the folder."""
    return Session([item(n) for n in range(count)], Ledger(folder / "ranks.jsonl"), overlap, 0, **options)


def rank(session: Session, person: str, best_first: str = "", kind="ranked", **options) -> Item:
    """Answers the next prompt; letters stand for replies by the one that each has in its text, `=` ties a
    reply with the one before it."""
    shown = session.next(person)
    assert shown is not None
    level, levels, tied = 0, {}, False
    for letter in best_first:
        if letter == "=":
            tied = True
            continue
        level, tied = level + (not tied), False
        levels[letter] = level
    order = [levels[shown.item.replies[card].split()[1]] for card in shown.shown] if kind == "ranked" else []
    session.answer(person, shown.item.id, kind, order, 10.0, **options)
    return shown.item
