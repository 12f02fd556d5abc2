"""Writes the quickstart's `report.json` and `report.html`, one file that needs nothing else and no network.

Words and layout are in `report.html.j2`, which asks `Charts` for what it shows.
"""

import itertools
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes

from experiments.atomic import write_text
from experiments.html import charts
from experiments.html.charts import number
from experiments.html.pages import finite, page_template
from experiments.quickstart.instructions import REVIEW_PROMPT

Curve = list[tuple[int, float]]  # (step, value)
Pair = tuple[str, float, float]  # a name and its two values
Draw = Callable[[list[Pair]], Axes]
Measured = Mapping[str, Sequence[float | None]]  # name → its two values, as far as they were measured

SMOOTHED = 60  # points from which on a curve is drawn with its running mean


def write_report(report: dict[str, Any], curves: Mapping[str, Mapping[str, Curve]], folder: Path) -> None:
    """Writes `report.json` and `report.html` into `folder`, each whole or not at all.

    Args:
        report: what `report.json` holds; nan and infinity become null. Stages not run are left out.
        curves: stage to metric to (step, value) points; a step is an update, in PPO an iteration.
        folder: where the stages' `export` paths begin; made if it is missing.
    """
    report = finite(report)
    text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(folder / "report.json", text + "\n")
    functions = {"duration": duration, "verdict": verdict, "pivot": pivot, "quote": shlex.quote}
    template = page_template(Path(__file__).with_name("report.html.j2"), **functions)
    content = {"report": report, "folder": folder, "charts": Charts(curves)}
    write_text(folder / "report.html", template.render(**content, review_prompt=REVIEW_PROMPT))


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def verdict(bar: Mapping[str, Any]) -> str:
    """`met`, `missed`, or `not measured`."""
    if bar["value"] is None or bar["bar"] is None:
        return "not measured"
    met = bar["value"] >= bar["bar"] if bar["at_least"] else bar["value"] <= bar["bar"]
    return "met" if met else "missed"


def pivot(metrics: Mapping[str, float | None], prefixes: Sequence[str]) -> dict[str, list[float | None]]:
    """Metrics that exist once per source or task: its name to one value per prefix."""
    names = dict.fromkeys(m.removeprefix(p) for p in prefixes for m in metrics if m.startswith(p))
    return {name: [metrics.get(prefix + name) for prefix in prefixes] for name in names}


class Charts(charts.Inline):
    """Draws what the page asks for, as inline SVG; an empty text where there is nothing to draw."""

    def __init__(self, curves: Mapping[str, Mapping[str, Curve]]):
        super().__init__()
        self.curves = curves

    def lines(self, stage: str, metric: str, title: str, unit: str) -> Markup:
        """One metric over the steps; where `metric` ends with a slash, all that begin with it, each named."""
        series: dict[str, Curve] = {}
        for name, curve in self.curves.get(stage, {}).items():
            points = [point for point in curve if math.isfinite(point[1])]
            if points and (name.startswith(metric) if metric.endswith("/") else name == metric):
                series[name.removeprefix(metric)] = points
        if not series:
            return Markup()
        ends = {name: (number(curve[0][1]), number(curve[-1][1])) for name, curve in series.items()}
        words = [f"{name} from {first} to {last}".strip() for name, (first, last) in ends.items()]
        step = "iteration" if stage == "ppo" else "optimizer step"
        return self.inline(_lines(series, unit, step), title, unit, words)

    def changes(self, rows: Measured, title: str, unit: str, names: tuple[str, str]) -> Markup:
        """Two values a row, a line between them and the change on the right."""
        return self._pairs(rows, title, unit, names, lambda pairs: _changes(pairs, unit, names))

    def shares(self, rows: Measured, title: str, unit: str, names: tuple[str, str]) -> Markup:
        """A bar a row, and a mark where it was to end."""
        return self._pairs(rows, title, unit, names, lambda pairs: _shares(pairs, unit, names))

    def estimates(self, rows: Measured, title: str, unit: str, reference: float) -> Markup:
        """A value and its standard error a row, drawn ± 2 standard errors, beside a reference."""
        rows = {name: (value, error or 0.0) for name, (value, error) in rows.items()}
        names = ("value", "standard error")
        return self._pairs(rows, title, unit, names, lambda pairs: _estimates(pairs, unit, reference))

    def _pairs(self, rows: Measured, title: str, unit: str, names: tuple[str, str], draw: Draw) -> Markup:
        """A chart of the rows of which both values were measured."""
        pairs = [(name, x, y) for name, (x, y, *_) in rows.items() if x is not None and y is not None]
        words = [f"{name}, {names[0]} {number(x)}, {names[1]} {number(y)}" for name, x, y in pairs]
        return self.inline(draw(pairs), title, unit, words) if pairs else Markup()


@rc_context(charts.STYLE)
def _lines(series: Mapping[str, Curve], unit: str, step: str) -> Axes:
    smooth = {name: running_mean([value for _, value in curve]) for name, curve in series.items()}
    ends = [(charts.short(name), float(f"{mean[-1]:.3g}")) for name, mean in smooth.items()]
    labels = [f"{name} {number(end)}".strip() for name, end in ends]
    most = number(max(abs(value) for curve in series.values() for _, value in curve), 0)
    left, right = max(44, 12 + charts.CHARACTER * len(most)), 12 + charts.room(labels)
    axes = charts.data_axes(charts.LINES, left, right, unit, below=42)
    for colour, (name, curve) in zip(itertools.cycle(charts.SERIES), series.items(), strict=False):
        steps, values = np.array(curve, dtype=float).T
        if len(curve) >= SMOOTHED:
            axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.4)
        axes.plot(steps, smooth[name], color=colour, marker="o" if len(curve) == 1 else None)
    axes.grid(axis="y")
    axes.set_xlabel(step, loc="right")
    charts.ticks(axes.xaxis, 4, whole=True)
    charts.ticks(axes.yaxis, 5)
    low, high = axes.get_ylim()
    ends_at = [(values[-1] - low) / (high - low) for values in smooth.values()]
    places = charts.spread(ends_at, 14 / charts.LINES)
    for colour, place, label in zip(itertools.cycle(charts.SERIES), places, labels, strict=False):
        charts.beside(axes, label, place, colour)
    return axes


@rc_context(charts.STYLE)
def _changes(rows: Sequence[Pair], unit: str, names: tuple[str, str]) -> Axes:
    labels, before, after = zip(*rows, strict=True)
    axes, places = charts.row_axes(labels, 50, unit), range(len(rows))
    axes.hlines(places, before, after, color=charts.MUTED, linewidth=1.5)
    hollow: dict[str, Any] = {"color": charts.MUTED, "markerfacecolor": charts.PAPER, "markeredgewidth": 1.5}
    axes.plot(before, places, "o", label=names[0], **hollow)
    axes.plot(after, places, "o", color=charts.SERIES[0], label=names[1])
    for place, (_, old, new) in zip(places, rows, strict=True):
        charts.beside_row(axes, ("+" if new > old else "") + number(new - old, 2), place)
    return charts.legend(axes)


@rc_context(charts.STYLE)
def _estimates(rows: Sequence[Pair], unit: str, reference: float) -> Axes:
    labels, values, errors = zip(*rows, strict=True)
    axes = charts.row_axes(labels, 50, unit)
    axes.axvline(reference, color=charts.MUTED, linestyle=(0, (3, 3)), linewidth=1)
    for place, (value, error) in enumerate(zip(values, errors, strict=True)):
        colour = charts.SERIES[place % len(charts.SERIES)]
        axes.errorbar(value, place, xerr=2 * error or None, color=colour, fmt="o")
        charts.beside_row(axes, number(value, 3), place)
    return axes


@rc_context(charts.STYLE)
def _shares(rows: Sequence[Pair], unit: str, names: tuple[str, str]) -> Axes:
    labels, realised, wanted = zip(*rows, strict=True)
    axes, places = charts.row_axes(labels, 50, unit), range(len(rows))
    axes.barh(places, realised, height=0.5, color=charts.SERIES[0], label=names[0])
    axes.plot(wanted, places, "|", color=charts.INK, markersize=20, markeredgewidth=2, label=names[1])
    for place, share in enumerate(realised):
        charts.beside_row(axes, f"{100 * share:.1f} %", place)
    return charts.legend(axes)


def running_mean(values: Sequence[float]) -> np.ndarray:
    """The mean over a twentieth of a long curve's points before and after each; a short curve as it is."""
    width = len(values) // 20 if len(values) >= SMOOTHED else 0
    sums, at = np.cumsum([0.0, *values]), np.arange(len(values))
    low, high = np.maximum(at - width, 0), np.minimum(at + width + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
