"""Which models' replies people preferred: win rates, Bradley and Terry's strengths and mean ranks, with
intervals over prompts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from experiments.statistics import CONFIDENCE, Estimate, ratio
from experiments.web.rank.bradley_terry import chances, fit

FITS = 500  # resamples of prompts of which strengths are fitted


def compare_models(lines: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    """What rankings say of models. Replies of two models to one prompt, ranked by one person, are a
    comparison; a tie is half a win. Prompts are resampled, never single comparisons: those of a prompt hang
    together.

    Args:
        lines: ranked lines of a rank file.
        seed: of the bootstrap.

    Returns:
        `models`: best first, each with `replies`, `mean_rank` (1 = best) and, where there are several,
        `win_rate`, `chance` (against a random other model, by the fit) and `log_strength` (mean 0); `pairs`:
        each two with `wins`, `losses`, `ties` and `win_rate`; `log_tie`.
    """
    names = sorted({name for line in lines for name in line["models"] if name is not None})
    prompts = {name: place for place, name in enumerate(dict.fromkeys(line["item"] for line in lines))}
    shape = len(prompts), len(names), len(names)
    wins, ties = np.zeros(shape), np.zeros(shape)
    ranks, counts = np.zeros(shape[:2]), np.zeros(shape[:2])
    for line in lines:
        prompt = prompts[line["item"]]
        ratings = np.asarray(line["ratings"], dtype=float)
        own = rankdata(-ratings)
        known = [(reply, names.index(name)) for reply, name in enumerate(line["models"]) if name is not None]
        for reply, model in known:
            ranks[prompt, model] += own[reply]
            counts[prompt, model] += 1
            for other, rival in known:
                wins[prompt, model, rival] += model != rival and ratings[reply] > ratings[other]
                ties[prompt, model, rival] += model != rival and ratings[reply] == ratings[other]
    models: dict[str, dict[str, Any]] = {
        name: {
            "replies": int(counts[:, model].sum()),
            "mean_rank": ratio(ranks[:, model], counts[:, model], seed)._asdict(),
        }
        for model, name in enumerate(names)
    }
    result: dict[str, Any] = {"models": models, "pairs": [], "log_tie": None}
    if (wins.any() or ties.any()) and len(names) > 1:
        _add_wins(result, names, wins, ties, seed)
    order = sorted(names, key=lambda name: (-_chance(models[name]), models[name]["mean_rank"]["value"]))
    return {**result, "models": {name: models[name] for name in order}}


def _chance(model: dict[str, Any]) -> float:
    return float(model.get("chance", {"value": 0.5})["value"])


def _add_wins(
    result: dict[str, Any], names: list[str], wins: np.ndarray, ties: np.ndarray, seed: int
) -> None:
    """Win rates, and strengths with their intervals over resampled prompts."""
    losses = wins.transpose(0, 2, 1)
    won, fought = wins + ties / 2, wins + ties + losses
    best = fit(wins.sum(0), ties.sum(0))
    result["log_tie"] = best.log_tie if np.isfinite(best.log_tie) else None
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(FITS):
        sample = rng.integers(0, len(wins), len(wins))
        drawn.append(fit(wins[sample].sum(0), ties[sample].sum(0)).log_strengths)
    strengths = np.stack(drawn)
    shares = np.stack([chances(row) for row in strengths])
    for model, name in enumerate(names):
        count = int((fought[:, model].sum(1) > 0).sum())
        result["models"][name] |= {
            "win_rate": ratio(won[:, model].sum(1), fought[:, model].sum(1), seed)._asdict(),
            "chance": _interval(chances(best.log_strengths)[model], shares[:, model], count),
            "log_strength": _interval(best.log_strengths[model], strengths[:, model], count),
        }
    result["pairs"] = [
        {
            "first": names[a],
            "second": names[b],
            "wins": int(wins[:, a, b].sum()),
            "losses": int(wins[:, b, a].sum()),
            "ties": int(ties[:, a, b].sum()),
            "win_rate": ratio(won[:, a, b], fought[:, a, b], seed)._asdict(),
        }
        for a in range(len(names))
        for b in range(a + 1, len(names))
        if fought[:, a, b].any()
    ]


def _interval(value: float, drawn: np.ndarray, count: int) -> dict[str, Any]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return Estimate(float(value), float(low), float(high), count)._asdict()
