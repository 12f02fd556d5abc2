"""`sweep.png`: a sweep in one picture, for a page or a message: learning curves, and the metric by each
parameter that it searches."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from experiments.atomic import whole
from experiments.html.pictures import COLOURS, MUTED, STYLE
from experiments.sweep.figures import Scale, scale_of
from experiments.sweep.metrics import history
from experiments.sweep.outcome import SweepResult
from experiments.sweep.ranking import Row
from experiments.sweep.table import short, short_names, summary

PANEL, HEIGHT, DPI = 3.3, 3.5, 130  # inches, inches, pixels an inch
PARAMETERS = 3  # panels of them at most
LINES = 6  # values of the other parameter that are a line each
FEW = 5  # values of a parameter that are marked each
BEST, OTHERS = "#111827", "#9ca3af"


def draw(result: SweepResult, file: Path) -> bool:
    """Writes the picture as PNG; False where no run has a metric to show."""
    rows = [row for row in result.rows if row.metric is not None]
    names = short_names(result)
    searched = [name for name in names if len({short(row.configuration.values[name]) for row in rows}) > 1]
    if result.spec.metric is None or result.best is None:
        return False
    shown = searched[:PARAMETERS]
    with rc_context(STYLE | {"font.size": 9, "axes.titlesize": 10, "text.parse_math": False}):
        figure = Figure(figsize=(PANEL * (1 + max(1, len(shown))), HEIGHT), dpi=DPI, layout="constrained")
        figure.suptitle(_title(result), x=0.01, ha="left", fontsize=11, fontweight="bold")
        panels = figure.subplots(1, 1 + len(shown), squeeze=False)[0]
        _curves(panels[0], result)
        for axes, name in zip(panels[1:], shown, strict=True):
            others = [each for each in searched if each != name]
            listed = {each.name for each in result.spec.searched if each.choices is not None}
            paths = (name, *others) if len(searched) == 2 else (name,)
            _by_parameter(axes, rows, paths, names, name in listed)
        drawn = BytesIO()
        figure.savefig(drawn, format="png")
    with whole(file) as part:  # in 64 colours, which halves the file
        Image.open(drawn).convert("RGB").quantize(64).save(part, format="png", optimize=True)
    return True


def _title(result: SweepResult) -> str:
    best, names, metric = result.best, short_names(result), result.spec.metric
    assert best is not None
    assert metric is not None
    values = ", ".join(f"{label} {short(best.configuration.values[name])}" for name, label in names.items())
    return f"{result.spec.name}: {summary(result)}\nbest {metric.name} {best.metric:.4g}: {values}"


def _curves(axes: Axes, result: SweepResult) -> None:
    """The metric of each run over its steps, the best configuration's in front; the runs one after the other
    where each has logged it once."""
    assert result.spec.metric is not None
    name, most = result.spec.metric.name, 0
    for row in reversed(result.rows):  # the best last, on top
        is_best = row is result.best
        looks: dict[str, Any] = {"color": BEST if is_best else OTHERS, "linewidth": 2 if is_best else 1}
        for run in row.configuration.runs:
            logged = history(result.folder_of(run.name), name)
            most = max(most, len(logged.values))
            marker = "o" if len(logged.values) == 1 else None
            axes.plot(logged.steps, logged.values, marker=marker, **looks)
    if most == 1:
        axes.clear()
        for row in result.rows:
            if row.metric is not None:
                colour = BEST if row is result.best else OTHERS
                axes.plot(row.configuration.number, row.metric, "o", color=colour)
    axes.set(title=f"{name}; black: the best", xlabel="run" if most == 1 else "step")


def _by_parameter(
    axes: Axes, rows: Sequence[Row], paths: Sequence[str], names: dict[str, str], is_listed: bool
) -> None:
    """The metric by a parameter; where there is one other of few values, a line for each of these. A cross is
    what was stopped early."""
    name, *others = paths
    scale = scale_of([row.configuration.values[name] for row in rows])
    values = {short(row.configuration.values[each]): None for row in rows for each in others}
    groups = {value: [row for row in rows if short(row.configuration.values[others[0]]) == value]
              for value in values} if 0 < len(values) <= LINES else {"": list(rows)}  # fmt: skip
    ordered = sorted(groups.items(), key=lambda group: _order(group[0]))
    for place, (value, members) in enumerate(ordered):
        colour = COLOURS[place % len(COLOURS)]
        points = sorted((scale.place(row.configuration.values[name]), row.metric or 0.0) for row in members)
        if value:
            axes.plot(*zip(*points, strict=True), "-" if place < len(COLOURS) else "--", color=colour, lw=1.2)
        for row in members:
            at = scale.place(row.configuration.values[name])
            marker = "x" if row.configuration.state == "stopped" else "o"
            axes.plot(at, row.metric or 0.0, marker, color=colour, markersize=5)
            seeds = [run.metric for run in row.configuration.runs if run.metric is not None]
            axes.vlines(at, min(seeds), max(seeds), color=colour, linewidth=1)
    best = rows[0]
    axes.plot(
        scale.place(best.configuration.values[name]), best.metric or 0.0, "o", mfc="none", mec=BEST, ms=10
    )
    _marks(axes, [row.configuration.values[name] for row in rows], scale, is_listed)
    if groups.keys() != {""}:
        lines = [
            Line2D([], [], color=COLOURS[place % len(COLOURS)], label=value, marker="o", markersize=4)
            for place, (value, _) in enumerate(ordered)
        ]
        axes.legend(handles=lines, title=names[others[0]], fontsize=8, title_fontsize=8)
    logarithmic = ", logarithmic" if scale.is_logarithmic else ""
    axes.set(title=f"by {names[name]}", xlabel=names[name] + logarithmic, xlim=(-0.06, 1.06))


def _marks(axes: Axes, given: Sequence[Any], scale: Scale, is_listed: bool) -> None:
    """The values themselves where the YAML lists a few, else the ends and what is between them."""
    marks = {scale.place(value): short(value) for value in given}
    if len(scale.marks) < len(marks) and not (is_listed and len(marks) <= FEW):  # numbers
        low, high = min(given), max(given)
        middle = (low * high) ** 0.5 if scale.is_logarithmic else (low + high) / 2
        marks = {place: f"{value:.2g}" for place, value in ((0.0, low), (0.5, middle), (1.0, high))}
    axes.set_xticks(list(marks), list(marks.values()), color=MUTED)


def _order(text: str) -> tuple[bool, float, str]:
    """Numbers by their size, before what is none."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text
