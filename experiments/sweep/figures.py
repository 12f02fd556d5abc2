"""The charts of `sweep.html`: parallel coordinates, the metric by each parameter, importances, curves."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from rich.cells import cell_len, set_cell_size

from experiments.html import charts
from experiments.html.charts import Inline, number
from experiments.sweep.distributions import Parameter
from experiments.sweep.table import short

LOGARITHMIC = 20  # how many times the least the greatest value must be, for an axis to be logarithmic
MANY = 7  # axes of parallel coordinates with names beside each other
HEIGHT, BELOW = 200, 44


class Point(NamedTuple):
    """A configuration, as the charts show it."""

    name: str
    values: Mapping[str, Any]
    metric: float
    seeds: Sequence[float]
    look: str
    """best, equal (not told from it) or other"""


class Scale(NamedTuple):
    """Where the values of a parameter stand between 0 and 1."""

    place: Callable[[Any], float]
    marks: Sequence[tuple[float, str]]
    is_logarithmic: bool


COLOURS = {"best": charts.SERIES[0], "equal": charts.SERIES[1], "other": charts.MUTED}
WIDTHS = {"best": 2.5, "equal": 1.5, "other": 1.0}


def scale_of(values: Sequence[Any], is_logarithmic: bool | None = None) -> Scale:
    """A scale for observed values: linear or logarithmic for numbers, as is told or as they are spread; a
    place each for anything else."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        logs = low > 0 and (high / low >= LOGARITHMIC or _are_geometric(sorted(set(values))))
        logs = logs if is_logarithmic is None else is_logarithmic and low > 0
        f: Callable[[float], float] = math.log if logs else float
        if low == high:
            return Scale(lambda value: 0.5, [(0.5, short(low))], False)
        return Scale(
            lambda value: (f(value) - f(low)) / (f(high) - f(low)), [(0, short(low)), (1, short(high))], logs
        )
    names = sorted({short(value) for value in values})
    places = {
        name: index / max(1, len(names) - 1) if len(names) > 1 else 0.5 for index, name in enumerate(names)
    }
    return Scale(lambda value: places[short(value)], [(place, name) for name, place in places.items()], False)


def _are_geometric(values: Sequence[float]) -> bool:
    """Whether each value is much the same multiple of the one before, as in 1, 2, 4 or 1, 3, 10."""
    ratios = [after / before for before, after in pairwise(values)]
    return len(ratios) > 1 and max(ratios) < 1.25 * min(ratios)


class Charts(Inline):
    """Draws for one page; an empty text where there is nothing to draw.

    Args:
        parameters: of the sweep.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        super().__init__()
        self.logarithmic = {each.name: each.is_logarithmic for each in parameters}

    def _scale(self, points: Sequence[Point], name: str) -> Scale:
        return scale_of([each.values[name] for each in points], self.logarithmic.get(name))

    def parallel(self, points: Sequence[Point], names: Mapping[str, str], metric: str) -> Markup:
        """A line a configuration through its parameters to its metric."""
        if len(points) < 2 or not names:
            return Markup()
        words = [f"{each.name}: {metric} {number(each.metric)}" for each in points[:20]]
        scales = [self._scale(points, name) for name in names]
        return self.inline(_parallel(points, names, scales, metric), "Configurations", metric, words)

    def by_parameter(self, points: Sequence[Point], name: str, label: str, metric: str) -> Markup:
        """The metric of each configuration by one of its parameters."""
        values = {short(each.values[name]) for each in points}
        if len(values) < 2:
            return Markup()
        words = [f"{short(each.values[name])}: {number(each.metric)}" for each in points[:20]]
        axes = _by_parameter(points, name, self._scale(points, name), metric)
        return self.inline(axes, f"{metric} by {label}", metric, words)

    def importances(self, shares: Mapping[str, float]) -> Markup:
        """How much of what differs comes from which parameter."""
        if not shares:
            return Markup()
        words = [f"{name} {share:.0%}" for name, share in shares.items()]
        return self.inline(_importances(shares), "Importances", "share", words)

    def curves(
        self, series: Sequence[tuple[str, str, Sequence[int], Sequence[float]]], metric: str
    ) -> Markup:
        """The metric of each run over its steps.

        Args:
            series: name, look, steps and values of each run.
        """
        series = [each for each in series if each[3]]
        if not series:
            return Markup()
        words = [f"{name} ends at {number(values[-1])}" for name, _, _, values in series[:20]]
        return self.inline(_curves(series, metric), "Learning curves", metric, words)


@rc_context(charts.STYLE)
def _parallel(
    points: Sequence[Point], names: Mapping[str, str], scales: Sequence[Scale], metric: str
) -> Axes:
    axes = charts.data_axes(HEIGHT, 26, 34, "", below=BELOW)
    scales = [*scales, scale_of([each.metric for each in points])]
    for each in sorted(points, key=lambda each: list(COLOURS).index(each.look), reverse=True):
        row = [*(each.values[name] for name in names), each.metric]
        heights = [scale.place(value) for scale, value in zip(scales, row, strict=True)]
        looks: dict[str, Any] = {"color": COLOURS[each.look], "linewidth": WIDTHS[each.look]}
        axes.plot(range(len(row)), heights, alpha=1 if each.look == "best" else 0.6, **looks)
    labels = [*names.values(), metric]
    for place, scale in enumerate(scales):
        axes.axvline(place, color=charts.RULE, linewidth=1, zorder=0)
        last = place == len(scales) - 1
        for height, text in scale.marks if len(scale.marks) < 6 else ():
            below = -9 if height == 0 and len(scale.marks) == 2 else 0
            offset = 9 if height == 1 and len(scale.marks) == 2 else below
            axes.annotate(
                charts.short(text), (place, height), (4 if last or offset else 0, offset), "data",
                "offset points", ha="left" if place == 0 or (last and not offset) else "center", va="center",
                fontsize=10.5, color=charts.INK, bbox={"color": charts.PAPER, "alpha": 0.7, "pad": 1},
            )  # fmt: skip
    room = max(3, int(44 / len(labels)) if len(labels) <= MANY else 6)
    shown = [label if len(label) <= room else "…" + label[1 - room :] for label in labels]
    _name_ticks(axes, range(len(labels)), shown)
    axes.set_yticks([])
    axes.set_ylim(-0.1, 1.1)
    axes.spines["bottom"].set_visible(False)
    return axes


@rc_context(charts.STYLE)
def _by_parameter(points: Sequence[Point], name: str, scale: Scale, metric: str) -> Axes:
    most = number(max(abs(each.metric) for each in points))
    axes = charts.data_axes(charts.LINES, max(44, 14 + charts.CHARACTER * len(most)), 14, metric, below=42)
    for each in sorted(points, key=lambda each: list(COLOURS).index(each.look), reverse=True):
        place, colour = scale.place(each.values[name]), COLOURS[each.look]
        if len(each.seeds) > 1:
            axes.plot([place] * len(each.seeds), each.seeds, "_", color=colour, markersize=7, alpha=0.8)
        axes.plot(place, each.metric, "o", color=colour, markersize=6, alpha=0.85)
    values = sorted({each.values[name] for each in points}) if _are_numbers(points, name) else []
    marks = [(scale.place(value), short(value)) for value in values] if 0 < len(values) <= 5 else scale.marks
    room = 34 // len(marks) if len(marks) < 3 else 60 // len(marks)
    shown = [text if cell_len(text) <= room else set_cell_size(text, room - 1) + "…" for _, text in marks]
    _name_ticks(axes, [place for place, _ in marks], shown)
    axes.set_xlim(-0.06, 1.06)
    axes.set_xlabel("logarithmic" if scale.is_logarithmic else "", loc="right")
    axes.grid(axis="y")
    charts.ticks(axes.yaxis, 5)
    return axes


def _name_ticks(axes: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    """Names below the axes, within their width; of more than two each second one a line further down."""
    lower = len(names) > 2 and sum(map(cell_len, names)) > 30
    axes.set_xticks(places, ["\n" * (lower and place % 2) + name for place, name in enumerate(names)])
    if len(names) > 1 and cell_len(names[0]) > 6:
        axes.get_xticklabels()[0].set_horizontalalignment("left")
    if len(names) > 1 and cell_len(names[-1]) > 6:
        axes.get_xticklabels()[-1].set_horizontalalignment("right")


def window(runs: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The least and the greatest value to show: what flies off is left out, as it would press all others into
    a line at the edge.

    Args:
        runs: the values of each, one at least.
    """
    low, high = (statistics.median([f(values) for values in runs]) for f in (min, max))
    ends = [values[-1] for values in runs]
    middle = statistics.median(ends)
    reach = 3 * (high - low) + 40 * statistics.median([abs(end - middle) for end in ends])
    shown = [v for values in runs for v in values if not reach or low - reach <= v <= high + reach]
    return min(shown), max(shown)


def _are_numbers(points: Sequence[Point], name: str) -> bool:
    return all(isinstance(each.values[name], int | float) for each in points)


@rc_context(charts.STYLE)
def _importances(shares: Mapping[str, float]) -> Axes:
    axes, places = charts.row_axes(list(shares), 50, ""), range(len(shares))
    axes.barh(places, list(shares.values()), height=0.5, color=charts.SERIES[0])
    axes.set_xlim(0, 1)
    for place, share in enumerate(shares.values()):
        charts.beside_row(axes, f"{share:.0%}", place)
    return axes


@rc_context(charts.STYLE)
def _curves(series: Sequence[tuple[str, str, Sequence[int], Sequence[float]]], metric: str) -> Axes:
    every = [value for _, _, _, values in series for value in values]
    most = number(max(map(abs, every)))
    axes = charts.data_axes(HEIGHT, max(44, 14 + charts.CHARACTER * len(most)), 46, metric, below=42)
    for _, look, steps, values in sorted(series, key=lambda each: list(COLOURS).index(each[1]), reverse=True):
        marker = "o" if len(values) == 1 else None
        alpha = 1 if look == "best" else 0.6
        axes.plot(steps, values, color=COLOURS[look], linewidth=WIDTHS[look], alpha=alpha, marker=marker)
    best = next((each for each in series if each[1] == "best"), None)
    if best:
        name, _, steps, values = best
        offset, colour = (6, 0), COLOURS["best"]
        axes.annotate(name[:4], (steps[-1], values[-1]), offset, "data", "offset points", color=colour)
    low, high = window([values for _, _, _, values in series])
    if low < high:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.grid(axis="y")
    axes.set_xlabel("step", loc="right")
    charts.ticks(axes.xaxis, 4, whole=True)
    charts.ticks(axes.yaxis, 5)
    return axes
