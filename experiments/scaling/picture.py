"""The picture of a fit: losses over sizes, budget by budget, and how the best size grows with compute."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

from experiments.atomic import whole
from experiments.plan.scaling import TOKENS_PER_PARAMETER, Fit, loss, optimum, training_flops
from experiments.plan.units import amount
from experiments.scaling.isoflop import Parabola
from experiments.scaling.points import Points

STYLE: dict[str, Any] = {
    "font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888",
    "axes.titlelocation": "left", "axes.titlesize": 10.5, "axes.titleweight": "bold",
    "legend.frameon": False, "text.parse_math": False,
}  # fmt: skip
CURVES = 9  # budgets of which the law's curve is drawn, at most
READABLE = FuncFormatter(
    lambda value, _: amount(value) if value < 1e13 else f"{value:.0e}".replace("e+", "e")
)
RULES = {"1.7x": "dotted", "20x": "dashed"}


def draw_law(points: Points, fit: Fit, curves: list[Parabola], file: Path) -> None:
    """Writes a picture as PNG."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        _losses(left, points, fit, curves)
        _sizes(right, points, fit, curves)
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn = BytesIO()
        figure.savefig(drawn, dpi=160, format="png")
        with whole(file) as part:  # in 64 colours, which halves the file
            Image.open(drawn).convert("RGB").quantize(64).save(part, format="png", optimize=True)


def _losses(axes: Axes, points: Points, fit: Fit, curves: list[Parabola]) -> None:
    """Measured losses, and of some budgets the law (solid) and the parabola (dashed)."""
    flops = points.flops
    norm = LogNorm(flops.min(), max(flops.max(), flops.min() * 1.001))
    colours = colormaps["viridis"].resampled(256)
    dots = axes.scatter(points.parameters, points.loss, c=flops, norm=norm, cmap="viridis", s=14, zorder=3)
    budgets = np.array([each.flops for each in curves]) if curves else np.array([flops.min(), flops.max()])
    shown = budgets[np.unique(np.linspace(0, len(budgets) - 1, CURVES).round().astype(int))]
    sizes = np.geomspace(points.parameters.min() / 1.3, points.parameters.max() * 1.3, 200)
    for budget in shown:
        losses = np.array([loss(fit, size, budget / training_flops(size, 1.0)) for size in sizes])
        axes.plot(sizes, losses, color=colours(norm(budget)), linewidth=1.2)
    for curve in (each for each in curves if each.flops in shown):
        own = np.geomspace(curve.smallest, curve.largest, 50)
        colour = colours(norm(curve.flops))
        axes.plot(own, [curve.loss(size) for size in own], color=colour, linewidth=1, linestyle=(0, (3, 2)))
    margin = 0.08 * np.ptp(points.loss)
    axes.set(xscale="log", ylim=(points.loss.min() - margin, points.loss.max() + margin))
    axes.set(
        title="Loss of each run",
        xlabel="parameters (lines: the law, dashed: parabolas)",
        ylabel="nats a token",
    )
    axes.figure.colorbar(dots, ax=axes, label="FLOPs", format=READABLE, aspect=40)
    axes.xaxis.set_major_formatter(READABLE)


def _sizes(axes: Axes, points: Points, fit: Fit, curves: list[Parabola]) -> None:
    """The best size by compute: the law, the parabolas' lowest points, and the rules of thumb."""
    flops = np.geomspace(points.flops.min(), points.flops.max() * 10, 50)
    axes.plot(flops, [optimum(fit, each).parameters for each in flops], color="#12507b", label="the fit")
    lowest = [(each.flops, each.parameters) for each in curves if each.parameters is not None]
    if lowest:
        axes.plot(*np.array(lowest).T, "o", color="#12507b", markersize=4, label="parabolas' lowest points")
    for rule, style in RULES.items():
        sizes = np.sqrt(flops / 6 / TOKENS_PER_PARAMETER[rule])
        axes.plot(
            flops,
            sizes,
            color="#e07b00",
            linestyle=style,
            label=f"{TOKENS_PER_PARAMETER[rule]:g} tokens a parameter",
        )
    axes.axvspan(points.flops.max(), flops[-1], color="#eeeeee", zorder=0)
    axes.set(xscale="log", yscale="log", xlim=(flops[0], flops[-1]), xlabel="FLOPs (grey: beyond the runs)")
    axes.set(title="Best size for a budget", ylabel="parameters")
    axes.yaxis.set_major_formatter(READABLE)
    axes.xaxis.set_major_formatter(READABLE)
    axes.legend(fontsize=7.5)
