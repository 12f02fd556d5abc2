"""Who ranks what: the next prompt for a person, its replies in an order of their own, and their answers."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.web.rank.answer import Kind, answer_line, levels_of
from experiments.web.rank.item import Item, item_of, seed_of
from experiments.web.rank.ledger import Ledger

HELD = 20 * 60
"""seconds after its last sign of life for which a prompt is kept for a person"""


class Shown(NamedTuple):
    """A prompt as a person sees it."""

    item: Item
    shown: tuple[int, ...]
    """the reply of each card, in the order of display"""
    levels: list[int] | None
    """of an answer that was taken back: each card's, 1 = best"""
    remark: str = ""


class Progress(NamedTuple):
    """How far a person is, and everybody."""

    mine: int
    """prompts that this person has answered"""
    left: int
    """that are there for this person now"""
    answers: int
    """of everybody"""
    wanted: int
    """of everybody: prompts × overlap"""


class Already(Exception):
    """An answer to a prompt that this person has answered before, in another window say."""


class Session:
    """Prompts handed out to people, and their answers.

    Args:
        items: in the order in which they are handed out.
        answers: on the disk; those that are there count.
        overlap: people who see each prompt.
        seed: of the order in which replies are shown.
        now: the time in seconds.
    """

    def __init__(
        self,
        items: Sequence[Item],
        answers: Ledger,
        overlap: int,
        seed: int,
        now: Callable[[], float] = time.monotonic,
    ):
        self.items = {item.id: item for item in items}
        self.answers, self.overlap, self.seed, self._now = answers, overlap, seed, now
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, float]] = {}  # person → prompt, and when the person was last seen
        self._taken_back: dict[tuple[str, str], dict[str, Any]] = {}
        self._answered: dict[str, set[str]] = defaultdict(set)  # prompt → who has answered it
        self._skipped: dict[str, dict[str, int]] = defaultdict(dict)  # person → prompt → how manyth skip
        for line in answers.lines:
            self._count(line)

    def _count(self, line: dict[str, Any]) -> None:
        person, item = line["person"], line["item"]
        if line["verdict"] == "skipped":
            skips = self._skipped[person]
            skips.pop(item, None)
            skips[item] = max(skips.values(), default=0) + 1
        else:
            self._answered[item].add(person)

    def _recount(self) -> None:
        self._answered.clear()
        self._skipped.clear()
        for line in self.answers.lines:
            self._count(line)

    def next(self, person: str) -> Shown | None:
        """The prompt that this person has before them, or the next one; None where none is left for them."""
        with self._lock:
            held = self._held.get(person)
            if held is None or not self._is_free(held[0], person):
                left = self._left(person)
                if not left:
                    self._held.pop(person, None)
                    return None
                held = (left[0], 0.0)
            self._held[person] = (held[0], self._now())
            return self._shown(held[0], person)

    def _left(self, person: str) -> list[str]:
        """What is there for a person: what was skipped comes last."""
        skips = self._skipped.get(person, {})
        return sorted(
            (name for name in self.items if self._is_free(name, person)), key=lambda n: skips.get(n, 0)
        )

    def _is_free(self, name: str, person: str) -> bool:
        answered = self._answered.get(name, set())
        holders = sum(
            who != person and who not in answered and item == name and self._now() - seen < HELD
            for who, (item, seen) in self._held.items()
        )
        return person not in answered and len(answered) + holders < self.overlap

    def _shown(self, name: str, person: str) -> Shown:
        item = self.items[name]
        before = self._taken_back.get((person, name))
        levels = levels_of(before) if before and before["verdict"] == "ranked" else None
        return Shown(item, order(item, self.seed, person), levels, before["remark"] if before else "")

    def progress(self, person: str) -> Progress:
        """How far it is."""
        with self._lock:
            mine = sum(person in people for name, people in self._answered.items() if name in self.items)
            answers = sum(len(people) for name, people in self._answered.items() if name in self.items)
            return Progress(mine, len(self._left(person)), answers, len(self.items) * self.overlap)

    def answer(
        self, person: str, name: str, kind: Kind, levels: Sequence[int], seconds: float, remark: str = ""
    ) -> None:
        """Keeps an answer on the disk; `levels` of the cards in the order of display, where it is a ranking.

        Raises:
            Already: this person has answered it.
            OSError: it could not be kept; nothing has changed.
        """
        with self._lock:
            if person in self._answered.get(name, set()):
                raise Already
            item = self.items[name]
            shown = order(item, self.seed, person)
            line = answer_line(item, kind, levels, person, shown, seconds, remark)
            self.answers.append(line)
            self._count(line)
            self._taken_back.pop((person, name), None)
            self._held.pop(person, None)

    def undo(self, person: str) -> bool:
        """Takes back this person's last answer, whose prompt they have before them again; whether there was
        one.

        Raises:
            OSError: it stayed.
        """
        with self._lock:
            given = reversed(self.answers.lines)
            own = (line for line in given if line["person"] == person and line["item"] in self.items)
            line = next(own, None)
            if line is None:
                return False
            self.answers.remove(line)
            self._recount()
            self._taken_back[person, line["item"]] = line
            self._held[person] = (line["item"], self._now())
            return True


def order(item: Item, seed: int, person: str) -> tuple[int, ...]:
    """The replies in the order in which a person sees them: a function of seed, person and prompt."""
    draw = np.random.default_rng(seed_of(seed, person, item.id)).permutation(len(item.cards))
    return tuple(item.cards[place] for place in draw)


def unknown(items: Sequence[Item], answers: Ledger) -> int:
    """How many answers are to other prompts, or to other replies to them."""
    names = {item.id for item in items}
    return sum(line["item"] not in names or item_of(line).id != line["item"] for line in answers.lines)
