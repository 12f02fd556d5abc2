"""Draws `sweeps.png`: what `method: bayes` gains over `random` on a noisy quadratic in two parameters, by the
sampler alone: `python -m experiments.docs.sweeps_picture [FOLDER] [SEEDS] [RUNS]` (10 seeds of 30: 90 s)."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.docs.drawing import DARK, MIDDLE, STYLE, label, save
from experiments.sweep.sampling import Tried, next_configuration
from experiments.sweep.spec import spec_of

NOISE = 0.05  # standard deviation of a run's metric
METHODS = {"random": MIDDLE, "bayes": DARK}
PARAMETERS = {
    "momentum": {"min": -5.0, "max": 5.0},
    "rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 0.1},
}


def loss(values: dict) -> float:
    """The quadratic, 0 where it is best."""
    return (values["momentum"] - 1.3) ** 2 / 25 + (math.log10(values["rate"]) + 3.2) ** 2 / 4


def searched(method: str, seed: int, runs: int) -> list[Tried]:
    """The configurations that a sweep of that method tries."""
    document = {"method": method, "program": "x", "metric": {"name": "loss"}, "parameters": PARAMETERS}
    spec, noise, tried = spec_of(document, "picture", "picture"), np.random.default_rng(seed), list[Tried]()
    for _ in range(runs):
        chosen = next_configuration(spec, tried, seed)
        assert chosen is not None
        tried.append(chosen._replace(objective=loss(dict(chosen.values)) + NOISE * noise.normal()))
    return tried


def regrets(tried: Sequence[Tried]) -> list[float]:
    """After each run: how far the one that looks best so far is from the optimum."""
    best = [min(tried[: count + 1], key=lambda each: each.objective or 0.0) for count in range(len(tried))]
    return [loss(dict(each.values)) for each in best]


def main(folder: str, seeds: int = 10, runs: int = 30) -> list[Path]:
    """Writes the picture; returns its file."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3), layout="constrained")
        panels = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
        for axes, (method, colour) in zip(panels, METHODS.items(), strict=False):
            sweeps = [searched(method, seed, runs) for seed in range(seeds)]
            _places(axes, sweeps[0], method, colour)
            median = np.median([regrets(each) for each in sweeps], axis=0)
            panels[2].plot(range(1, runs + 1), median, color=colour, label=f"{method}: {median[-1]:.3f}")
        panels[2].set_yscale("log")
        for axes in panels:
            axes.yaxis.set_major_formatter("{x:g}")  # the pictures' texts hold no formulas
            axes.yaxis.set_minor_formatter("")
        panels[2].legend()
        label(panels[2], f"regret, median of {seeds} sweeps", "runs")
        return save({"sweeps.png": figure}, Path(folder))


def _places(axes: Axes, tried: Sequence[Tried], method: str, colour: str) -> None:
    order: Any = np.linspace(0.25, 1, len(tried))  # later ones darker
    axes.scatter(
        [each.values["momentum"] for each in tried], [each.values["rate"] for each in tried],
        s=18, color=colour, alpha=order,
    )  # fmt: skip
    axes.plot(1.3, 10**-3.2, "+", color="black", markersize=12)
    axes.set(xlim=(-5.3, 5.3), ylim=(7e-6, 0.15), yscale="log")
    rows = "logarithmic one" if method == "random" else ""
    label(axes, f"{method}: one sweep", "linear; later runs darker", rows)


if __name__ == "__main__":
    given = sys.argv[1:]
    for path in main(given[0] if given else str(Path(__file__).parent), *map(int, given[1:])):
        print(path)
