"""Writes the quickstart's `report.json` and `report.html`, one file that needs nothing else and no network.

Words and layout are in `report.html.j2`, which asks `Charts` for what it shows. Charts are drawn by
matplotlib as SVG; their colours are the page's CSS variables, so that they follow its light and dark.
"""

import io
import itertools
import json
import math
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from experiments.quickstart.instructions import REVIEW_PROMPT

Curve = list[tuple[int, float]]
Row = tuple[str, float, float]
Rows = Mapping[str, Sequence[float | None]]

INK, MUTED, RULE, PAPER = "#000001", "#000002", "#000003", "#000004"  # stand for CSS variables, as SERIES do
SERIES = [f"#0000a{n}" for n in range(1, 7)]
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper"}
VARIABLES |= {colour: f"series-{n}" for n, colour in enumerate(SERIES, 1)}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "trivium", "text.parse_math": False, "font.size": 12.5,
    "text.color": MUTED, "axes.labelcolor": MUTED, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "axes.edgecolor": RULE, "grid.color": RULE, "axes.axisbelow": True, "legend.frameon": False,
    "axes.xmargin": 0.02, "axes.ymargin": 0.08, "legend.borderaxespad": 0, "legend.handlelength": 1,
    "legend.handletextpad": 0.4, "legend.columnspacing": 1, "lines.linewidth": 2,
}  # fmt: skip
# px at scale 1, a phone's: a chart, the space above its axes, the height of lines, a row, a mean character.
WIDTH, ABOVE, LINES, LINE, CHARACTER = 360, 28, 160, 26, 6.9
LONGEST = 20  # characters of a name in a chart
SMOOTHED = 60  # points from which on a curve is drawn with its running mean
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def write_report(report: dict[str, Any], curves: Mapping[str, Mapping[str, Curve]], folder: Path) -> None:
    """Writes `report.json` and `report.html` into `folder`, each whole or not at all.

    Args:
        report: what `report.json` holds; nan and infinity become null. Stages not run are left out.
        curves: stage to metric to (step, value) points; a step is an update, in PPO an iteration.
        folder: where the stages' `export` paths begin; made if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = finite(report)
    _replace(folder / "report.json", json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    _replace(folder / "report.html", render(report, curves, folder))


def render(report: dict[str, Any], curves: Mapping[str, Mapping[str, Curve]], folder: Path) -> str:
    """The page. Every text that is put into it is escaped, and its control characters made visible."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: "–" if value is None else visible(value) if isinstance(value, str) else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration, "verdict": verdict}
    environment.globals |= {"pivot": pivot, "quote": shlex.quote, "review_prompt": REVIEW_PROMPT}
    template = environment.get_template("report.html.j2")
    return template.render(report=report, folder=folder, charts=Charts(curves))


def finite(value: Any) -> Any:
    """The same data with None for each number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def visible(text: str) -> str:
    """Text in which control characters, and what turns the reading direction, are shown by their numbers."""
    return text if isinstance(text, Markup) else UNSEEN.sub(lambda found: rf"\u{ord(found[0]):04x}", text)


def number(value: float | None, decimals: int | None = None) -> str:
    """Four significant digits or as many `decimals` as asked for, a real minus sign, thousands kept apart."""
    if value is None:
        return "–"
    decimals = 0 if abs(value) >= 1000 else decimals
    return (f"{value:.4g}" if decimals is None else f"{value:,.{decimals}f}").replace("-", "−")


def short(name: str) -> str:
    """A name that leaves room for the chart beside it."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


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


class Charts:
    """Draws what the page asks for, as inline SVG; an empty text where there is nothing to draw."""

    def __init__(self, curves: Mapping[str, Mapping[str, Curve]]):
        self.curves = curves
        self.ids = itertools.count()

    def lines(self, stage: str, metric: str, title: str, unit: str) -> Markup:
        """One metric over the steps; where `metric` ends with a slash, all that begin with it, each named."""
        series: dict[str, Curve] = {}
        for name, curve in self.curves.get(stage, {}).items():
            points = [point for point in curve if math.isfinite(point[1])]
            if points and (name.startswith(metric) if metric.endswith("/") else name == metric):
                series[name.removeprefix(metric)] = points
        told = [f"{name} from {number(c[0][1])} to {number(c[-1][1])}".strip() for name, c in series.items()]
        step = "iteration" if stage == "ppo" else "optimizer step"
        return self._inline(_lines(series, unit, step), title, unit, told) if series else Markup()

    def changes(self, rows: Rows, title: str, unit: str, names: tuple[str, str]) -> Markup:
        """Two values a row, a line between them and the change on the right."""
        return self._pairs(rows, title, unit, names, lambda found: _changes(found, unit, names))

    def shares(self, rows: Rows, title: str, unit: str, names: tuple[str, str]) -> Markup:
        """A bar a row, and a mark where it was to end."""
        return self._pairs(rows, title, unit, names, lambda found: _shares(found, unit, names))

    def estimates(self, rows: Rows, title: str, unit: str, reference: float) -> Markup:
        """A value and its standard error a row, drawn ± 2 standard errors, beside a reference."""
        rows = {name: (value, error or 0.0) for name, (value, error) in rows.items()}
        names = ("value", "standard error")
        return self._pairs(rows, title, unit, names, lambda found: _estimates(found, unit, reference))

    def _pairs(
        self, rows: Rows, title: str, unit: str, names: tuple[str, str], draw: Callable[[list[Row]], Axes]
    ) -> Markup:
        found = [(name, x, y) for name, (x, y, *_) in rows.items() if x is not None and y is not None]
        told = [f"{name}, {names[0]} {number(x)}, {names[1]} {number(y)}" for name, x, y in found]
        return self._inline(draw(found), title, unit, told) if found else Markup()

    def _inline(self, axes: Axes, title: str, unit: str, told: list[str]) -> Markup:
        """The figure as SVG for the page: nothing external, no date, ids of its own, described in words."""
        file, figure = io.StringIO(), axes.get_figure(root=True)
        assert figure is not None
        with rc_context(STYLE):
            figure.savefig(file, format="svg", transparent=True)
        inner = file.getvalue().partition("<svg")[2].partition(">")[2]
        inner = re.sub(
            r"<metadata>.*?</metadata>|<style.*?</style>|xlink:(?=href)", "", inner, flags=re.DOTALL
        )
        prefix = f"chart-{next(self.ids)}-"
        inner = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", inner)
        inner = re.sub("|".join(VARIABLES), lambda found: f"var(--{VARIABLES[found[0]]})", visible(inner))
        height = round(figure.get_figheight() * 72)
        label = escape(visible(f"{title}, {unit}: {'; '.join(told)}"))
        return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{inner}')


def _axes(height: float, left: float, right: float, unit: str, below: float) -> Axes:
    """Axes with `height` px for the data, room for labels at both sides and the unit above, on the left."""
    total = height + ABOVE + below
    figure = Figure(figsize=(WIDTH / 72, total / 72))
    axes = figure.add_axes((left / WIDTH, below / total, 1 - (left + right) / WIDTH, height / total))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, pad=6)
    figure.text(0.005, 1 - 14 / total, unit)
    return axes


def _ticks(axis: Any, count: int, whole: bool = False) -> None:
    axis.set_major_locator(MaxNLocator(count, integer=whole, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


@rc_context(STYLE)
def _lines(series: Mapping[str, Curve], unit: str, step: str) -> Axes:
    smooth = {name: running_mean([value for _, value in curve]) for name, curve in series.items()}
    labels = [f"{short(name)} {number(float(f'{mean[-1]:.3g}'))}".strip() for name, mean in smooth.items()]
    most = number(max(abs(value) for curve in series.values() for _, value in curve), 0)
    left, right = max(44, 12 + CHARACTER * len(most)), 12 + CHARACTER * max(map(len, labels))
    axes = _axes(LINES, left, right, unit, below=42)
    for colour, (name, curve) in zip(itertools.cycle(SERIES), series.items(), strict=False):
        steps, values = np.array(curve, dtype=float).T
        if len(curve) >= SMOOTHED:
            axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.4)
        axes.plot(steps, smooth[name], color=colour, marker="o" if len(curve) == 1 else None)
    axes.grid(axis="y")
    axes.set_xlabel(step, loc="right")
    _ticks(axes.xaxis, 4, whole=True)
    _ticks(axes.yaxis, 5)
    low, high = axes.get_ylim()
    places = spread([(values[-1] - low) / (high - low) for values in smooth.values()], 14 / LINES)
    for colour, place, label in zip(itertools.cycle(SERIES), places, labels, strict=False):
        _beside(axes, label, place, colour)
    return axes


@rc_context(STYLE)
def _changes(rows: Sequence[Row], unit: str, names: tuple[str, str]) -> Axes:
    labels, before, after = zip(*rows, strict=True)
    axes, places = _rows(labels, 50, unit), range(len(rows))
    axes.hlines(places, before, after, color=MUTED, linewidth=1.5)
    axes.plot(before, places, "o", color=MUTED, markerfacecolor=PAPER, markeredgewidth=1.5, label=names[0])
    axes.plot(after, places, "o", color=SERIES[0], label=names[1])
    for place, (_, old, new) in zip(places, rows, strict=True):
        _beside(axes, ("+" if new > old else "") + number(new - old, 2), 1 - (place + 0.5) / len(rows), INK)
    return _legend(axes)


@rc_context(STYLE)
def _estimates(rows: Sequence[Row], unit: str, reference: float) -> Axes:
    labels, values, errors = zip(*rows, strict=True)
    axes = _rows(labels, 50, unit)
    axes.axvline(reference, color=MUTED, linestyle=(0, (3, 3)), linewidth=1)
    for place, (value, error) in enumerate(zip(values, errors, strict=True)):
        axes.errorbar(value, place, xerr=2 * error or None, color=SERIES[place % len(SERIES)], fmt="o")
        _beside(axes, number(value, 3), 1 - (place + 0.5) / len(rows), INK)
    return axes


@rc_context(STYLE)
def _shares(rows: Sequence[Row], unit: str, names: tuple[str, str]) -> Axes:
    labels, found, wanted = zip(*rows, strict=True)
    axes, places = _rows(labels, 50, unit), range(len(rows))
    axes.barh(places, found, height=0.5, color=SERIES[0], label=names[0])
    axes.plot(wanted, places, "|", color=INK, markersize=20, markeredgewidth=2, label=names[1])
    for place, share in enumerate(found):
        _beside(axes, f"{100 * share:.1f} %", 1 - (place + 0.5) / len(rows), INK)
    return _legend(axes)


def running_mean(values: Sequence[float]) -> np.ndarray:
    """The mean over a twentieth of a long curve's points before and after each; a short curve as it is."""
    width = len(values) // 20 if len(values) >= SMOOTHED else 0
    sums, at = np.cumsum([0.0, *values]), np.arange(len(values))
    low, high = np.maximum(at - width, 0), np.minimum(at + width + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved apart so that two are never closer than `gap`; their order stays."""
    order, moved = np.argsort(places, kind="stable"), list(places)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    shift = sum(new - old for new, old in zip(moved, places, strict=True)) / max(len(places), 1)
    return [place - shift for place in moved]


def _rows(labels: Sequence[str], right: float, unit: str) -> Axes:
    """Axes with one row a label, the first at the top."""
    labels = [short(label) for label in labels]
    axes = _axes(LINE * len(labels) + 6, 14 + CHARACTER * max(map(len, labels)), right, unit, below=26)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels, color=INK)
    axes.grid(axis="x")
    _ticks(axes.xaxis, 4)
    return axes


def _beside(axes: Axes, text: str, place: float, colour: str) -> None:
    """Writes on the right of the axes, `place` of their height up."""
    axes.annotate(text, (1, place), (6, 0), "axes fraction", "offset points", color=colour, va="center")


def _legend(axes: Axes) -> Axes:
    axes.figure.legend(loc="upper right", ncols=2)
    return axes


def _replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all; half a character (a lone surrogate) is written as its escape."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(unfinished, path)
