"""What a rank file says of models, of how far people agree, of the page's own influence, and of prompts."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from experiments.statistics import ratio
from experiments.web.rank.agreement import kendall_w, pair_votes
from experiments.web.rank.answer import KINDS, levels_of
from experiments.web.rank.comparing import compare_models
from experiments.web.rank.item import Item, item_of
from experiments.web.rank.position import position

DISAGREED = 5  # prompts that are shown
Line = dict[str, Any]
Ratings = Mapping[str, np.ndarray]
"""person → ratings of an item's cards"""


def report_of(lines: Sequence[Line], seed: int = 0) -> dict[str, Any]:
    """All figures of a rank file; nan where one cannot be had.

    Args:
        lines: of one or several files.
        seed: of bootstraps and shuffles.
    """
    ranked = [line for line in lines if line["verdict"] == "ranked"]
    people = sorted({line["person"] for line in lines})
    flags = [line for line in lines if line["verdict"] == "flagged"]
    return {
        "prompts": len({line["item"] for line in lines}),
        "answers": _counts(lines),
        "people": {
            name: {**_counts(own), "seconds": _seconds(own)}
            for name in people
            for own in [[line for line in lines if line["person"] == name]]
        },
        "seconds": _seconds(lines),
        **compare_models(ranked, seed),
        "agreement": _agreement(ranked, seed),
        "position": position([levels_of(line) for line in ranked], seed)._asdict(),
        "flags": [{"person": f["person"], "prompt": asked(item_of(f)), "remark": f["remark"]} for f in flags],
    }


def _counts(lines: Sequence[Line]) -> dict[str, int]:
    count = Counter(line["verdict"] for line in lines)
    return {kind: count[kind] for kind in KINDS}


def _seconds(lines: Sequence[Line]) -> dict[str, float]:
    """The median and the quartiles of what answers took; of what was skipped too, as it took time."""
    times = [line["seconds"] for line in lines]
    low, middle, high = np.percentile(times, (25, 50, 75)) if times else (float("nan"),) * 3
    return {"median": float(middle), "low": float(low), "high": float(high)}


def _agreement(ranked: Sequence[Line], seed: int) -> dict[str, Any]:
    """How far people who ranked the same replies agree, each figure with an interval over prompts."""
    items: dict[str, Item] = {}
    ratings: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for line in ranked:
        item = items.setdefault(line["item"], item_of(line))
        ratings[item.id][line["person"]] = np.asarray(line["ratings"], dtype=float)[list(item.cards)]
    shared = {name: own for name, own in ratings.items() if len(own) > 1}
    all_w = {name: kendall_w(list(own.values())) for name, own in shared.items()}
    concordance = {name: w for name, w in all_w.items() if not np.isnan(w)}
    chance = [1 / len(shared[name]) for name in concordance]
    votes = {name: _votes(own) for name, own in shared.items()}
    total = np.array([np.sum(list(own.values()), 0) for own in votes.values()] or np.zeros((0, 3)))
    pairs = []
    for two in sorted({pair for own in votes.values() for pair in own}):
        counts = np.array([own[two] for own in votes.values() if two in own])
        alike = ratio(counts[:, 0], counts[:, :2].sum(1), seed)._asdict()
        pairs.append({"first": two[0], "second": two[1], "prompts": len(counts), "alike": alike})
    hardest = sorted(concordance, key=lambda name: (concordance[name], -_opposed(votes[name])))[:DISAGREED]
    return {
        "prompts": len(shared),
        "kendall_w": ratio(list(concordance.values()), [1] * len(concordance), seed)._asdict(),
        "by_chance": float(np.mean(chance)) if chance else float("nan"),
        "alike": ratio(total[:, 0], total[:, :2].sum(1), seed)._asdict(),
        "tied": ratio(total[:, 2], total.sum(1), seed)._asdict(),
        "pairs": pairs,
        "disagreed": [_disagreed(items[name], shared[name], concordance[name]) for name in hardest],
    }


def _votes(ratings: Ratings) -> dict[tuple[str, str], np.ndarray]:
    """Each two people's pairs of replies: ordered alike, oppositely, and tied by one or both."""
    return {
        (first, second): np.array(pair_votes(ratings[first], ratings[second]))
        for first, second in combinations(sorted(ratings), 2)
    }


def _opposed(votes: Mapping[tuple[str, str], np.ndarray]) -> float:
    return float(sum(vote[1] for vote in votes.values()))


def _disagreed(item: Item, ratings: Ratings, concordance: float) -> dict[str, Any]:
    """A prompt, and the level that each person gave to each reply."""
    levels = {name: (1 + (own[None, :] > own[:, None]).sum(1)).tolist() for name, own in ratings.items()}
    replies = [
        {
            "text": item.replies[card],
            "model": item.models[card],
            "ranks": {p: own[i] for p, own in levels.items()},
        }
        for i, card in enumerate(item.cards)
    ]
    return {"prompt": asked(item), "kendall_w": concordance, "replies": replies}


def asked(item: Item) -> str:
    """A prompt in one text."""
    return "\n".join(turn["text"] for turn in item.turns)
