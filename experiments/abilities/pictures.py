"""The charts of `abilities.html`: curves with every seed as a dot, and rates with their intervals."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from experiments.html import charts
from experiments.html.charts import Inline, number

Points = Mapping[Any, Sequence[float]]  # place → the values of the seeds there


class Charts(Inline):
    """Draws for one page."""

    def curves(
        self, series: Mapping[str, Points], title: str, unit: str, x: str, logarithmic: bool = False
    ) -> Markup:
        """The mean of the seeds at every place, and each seed as a dot; nothing where there are none."""
        series = {name: points for name, points in series.items() if points}
        if not series:
            return Markup()
        words = [
            f"{name}: " + ", ".join(f"{number(_mean(values))} at {place}" for place, values in points.items())
            for name, points in series.items()
        ]
        return self.inline(_curves(series, unit, x, logarithmic), title, unit, words)

    def rates(self, rows: Mapping[str, Sequence[float]], title: str, unit: str, share: bool = True) -> Markup:
        """Rows of (value, low, high), drawn with their intervals; a `share` is one of a whole."""
        words = [
            f"{name} {number(value)} ({number(low)} to {number(high)})"
            for name, (value, low, high, *_) in rows.items()
        ]
        return self.inline(_rates(rows, unit, share), title, unit, words)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@rc_context(charts.STYLE)
def _curves(series: Mapping[str, Points], unit: str, x: str, logarithmic: bool) -> Axes:
    labels = [charts.short(name) for name in series]
    axes = charts.data_axes(charts.LINES, 44, 12 + charts.room(labels), unit, below=42)
    places = list(dict.fromkeys(place for points in series.values() for place in points))
    even = not logarithmic and len(places) <= 8
    at = {place: (index if even else place) for index, place in enumerate(places)}
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    for colour, points in zip(itertools.cycle(charts.SERIES), series.values(), strict=False):
        axes.plot([at[p] for p in points], [_mean(v) for v in points.values()], color=colour)
        for place, values in points.items():
            axes.plot([at[place]] * len(values), values, "o", color=colour, markersize=4, alpha=0.7)
    axes.grid(axis="y")
    axes.set_xlabel(x, loc="right")
    if even or logarithmic:
        named = places if even else _roomy(places)
        axes.set_xticks([at[place] for place in named], [str(place) for place in named])
    else:
        charts.ticks(axes.xaxis, 4, whole=True)
    charts.ticks(axes.yaxis, 5)
    low, high = axes.get_ylim()
    ends = [(_mean(list(points.values())[-1]) - low) / (high - low) for points in series.values()]
    for colour, place, label in zip(
        itertools.cycle(charts.SERIES), charts.spread(ends, 14 / charts.LINES), labels, strict=False
    ):
        charts.beside(axes, label, place, colour)
    return axes


def _roomy(places: Sequence[float]) -> list[float]:
    """Those of the places whose numbers do not run into each other on a logarithmic axis."""
    apart, kept = (math.log(places[-1]) - math.log(places[0])) / 6, [places[0]]
    for place in places[1:]:
        if math.log(place) - math.log(kept[-1]) >= apart:
            kept.append(place)
    return kept


@rc_context(charts.STYLE)
def _rates(rows: Mapping[str, Sequence[float]], unit: str, share: bool) -> Axes:
    axes = charts.row_axes(list(rows), 50, unit)
    for row, (value, low, high, *_) in enumerate(rows.values()):
        axes.hlines(row, low, high, color=charts.MUTED, linewidth=1.5)
        axes.plot(value, row, "o", color=charts.SERIES[0], markersize=6)
        charts.beside_row(axes, f"{value:.1%}" if share else number(value), row)
    if share:
        axes.set_xlim(-0.02, 1.02)
    return axes
