"""The picture of the mix: which source each block comes from, and what shares that gives."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from datamodules.sampling.mixture_schedule import MixtureSchedule
from experiments.docs.drawing import DARK, MIDDLE, WIDTH, label

WEIGHTS = {"web": 0.6, "code": 0.3, "wiki": 0.1}
CHANGE, SHOWN = 96, 160  # block from which on web rests and the others have a half each; blocks shown
LINES = {"solid": DARK, "dashed": MIDDLE, "dotted": "#3f9c80"}


def mix() -> Figure:
    """Which source each block comes from, what shares that gives, and how far they are from the target."""
    schedule = MixtureSchedule(list(WEIGHTS.values()), {CHANGE: [0, 0.5, 0.5]})
    draws = np.array([schedule[block][0] for block in range(SHOWN)])
    chances = [schedule.weights(block) for block in range(SHOWN)]
    rng = np.random.default_rng(0)
    random = np.array([rng.choice(len(WEIGHTS), p=chance) for chance in chances])
    targets = np.array([schedule.target(blocks) for blocks in range(1, SHOWN + 1)])
    given, by_chance = _counts(draws), _counts(random)

    figure = Figure(figsize=(WIDTH, 6.6))
    grid = figure.add_gridspec(
        3, 2, height_ratios=(1, 2.6, 2.6), hspace=0.55, left=0.08, right=0.97, top=0.95, bottom=0.08
    )
    top, middle = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, :])
    left = figure.add_subplot(grid[2, 0])
    right = figure.add_subplot(grid[2, 1], sharey=left)
    blocks = np.arange(1, SHOWN + 1)
    for row, (name, (style, colour)) in enumerate(zip(WEIGHTS, LINES.items(), strict=True)):
        top.eventplot(np.flatnonzero(draws == row) + 0.5, lineoffsets=row, linelengths=0.7, color=colour)
        middle.plot(blocks, given[:, row] / blocks, color=colour, linestyle=style, linewidth=1.8)
        middle.plot(blocks, targets[:, row] / blocks, color="#000000", linewidth=0.7)
        middle.text(60, targets[60, row] / 61 + 0.035, name, color=colour, weight="bold")
        for axes, counts in ((left, given), (right, by_chance)):
            axes.plot(blocks, (counts - targets)[:, row], color=colour, linestyle=style, label=name)
    _finish_shares(top, middle)
    most = np.abs(given - targets).max()
    label(left, f"By the schedule: at most {most:.2f} blocks away", "blocks", "blocks from target")
    most = np.abs(by_chance - targets).max()
    label(right, f"Drawn at random: up to {most:.1f}", "blocks")
    for axes in (left, right):
        axes.axhspan(-1, 1, color="#e8e8e8", zorder=0)
        axes.set_xlim(0, SHOWN)
    left.legend(loc="lower left", ncols=3, handlelength=2.4)
    left.text(SHOWN, 1.25, "± 1 block", ha="right", color="#444444")
    return figure


def _finish_shares(top: Axes, middle: Axes) -> None:
    label(top, "Which source each block comes from")
    top.set_yticks(range(len(WEIGHTS)), WEIGHTS)
    top.set_ylim(2.6, -0.6)
    label(middle, "Share of all tokens so far (black: by the weights)")
    middle.set_ylim(0, 1)
    middle.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    middle.text(CHANGE + 1, 0.9, "weight_changes: code 50, wiki 50", color="#444444")
    for axes in (top, middle):
        axes.axvline(CHANGE, color="#444444", linewidth=0.8, linestyle=(0, (1, 1)))
        axes.set_xlim(0, SHOWN)


def _counts(draws: np.ndarray) -> np.ndarray:
    """(blocks, sources): how many of the first n blocks each source gave."""
    return np.cumsum(draws[:, None] == np.arange(len(WEIGHTS)), axis=0)
