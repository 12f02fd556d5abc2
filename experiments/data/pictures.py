"""The pictures of `inspect.html.j2`: a histogram of lengths and bars of counts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from experiments.data.survey import share
from experiments.html import charts
from experiments.html.charts import number

BINS = 24
BARS = 8  # the most frequent; the others are one bar, as are those below the least share
LEAST_SHARE = 0.001


class Pictures(charts.Inline):
    """Draws what the page asks for as inline SVG."""

    def lengths(self, values: Sequence[int], title: str, unit: str) -> Markup:
        """How many rows have which length; bins of equal ratio, since lengths differ by magnitudes."""
        if not values:
            return Markup()
        words = [f"{name} {number(value, 0)}" for name, value in self.statistics(values).items()]
        return self.inline(_histogram(np.array(values)), title, f"rows by {unit}", words)

    def statistics(self, values: Sequence[int]) -> dict[str, float]:
        """What the page says of lengths beside their picture, by its name there."""
        array = np.array(values)
        return {
            "shortest": int(array.min()),
            "median": float(np.median(array)),
            "mean": float(array.mean()),
            "99 % are at most": float(np.percentile(array, 99, method="inverted_cdf")),
            "longest": int(array.max()),
            "all together": int(array.sum()),
        }

    def counts(self, counts: Mapping[str, int], title: str, unit: str) -> Markup:
        """A bar for each of the most frequent names, and its share of all."""
        if not counts:
            return Markup()
        rows = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        total = sum(counts.values())
        shown = min(BARS, sum(count >= LEAST_SHARE * total or not count for count in counts.values()))
        if len(rows) > shown + 1:
            others = sum(count for _, count in rows[shown:])
            rows = [*rows[:shown], (f"{len(rows) - shown} others", others)]
        words = [f"{name} {number(count, 0)}" for name, count in rows]
        return self.inline(_bars(rows, unit), title, unit, words)


@rc_context(charts.STYLE)
def _histogram(lengths: np.ndarray) -> Axes:
    least, most = max(int(lengths.min()), 1), max(int(lengths.max()), 1)
    edges = np.array([least, least + 1])
    if most > least:
        edges = np.unique(np.round(np.geomspace(least, most + 1, BINS + 1)))
    counts, _ = np.histogram(np.maximum(lengths, 1), np.append(edges[:-1], edges[-1]))
    left = 12 + charts.CHARACTER * max(4, len(number(int(counts.max()), 0)) + 1)
    axes = charts.data_axes(charts.LINES, left, 20, "rows", below=26)
    axes.set_xscale("log")
    looks: dict[str, Any] = {"color": charts.SERIES[0], "edgecolor": charts.PAPER, "linewidth": 0.7}
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", **looks)
    axes.set_xlim(edges[0], edges[-1])
    axes.grid(axis="y")
    charts.ticks(axes.yaxis, 4, whole=True)
    places = ticks(float(edges[0]), float(edges[-1]))
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FixedFormatter([number(place, 0) for place in places]))
    return axes


def ticks(low: float, high: float) -> list[float]:
    """Round places on a logarithmic axis, at most seven."""
    for steps in ((1, 2, 5), (1, 3), (1,)):
        every = [step * 10.0**power for power in range(20) for step in steps]
        places = [place for place in every if low <= place <= high]
        if len(places) <= 7:
            break
    return places if len(places) > 1 else [low, high]


@rc_context(charts.STYLE)
def _bars(rows: Sequence[tuple[str, int]], unit: str) -> Axes:
    axes = charts.row_axes([name for name, _ in rows], 58, unit)
    axes.barh(range(len(rows)), [count for _, count in rows], height=0.5, color=charts.SERIES[0])
    axes.set_xlim(left=0)
    charts.ticks(axes.xaxis, 3, whole=True)
    total = sum(count for _, count in rows)
    for place, (_, count) in enumerate(rows):
        charts.beside_row(axes, share(count, total), place)
    return axes
