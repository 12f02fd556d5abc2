"""`sweep.png`: a sweep in one picture, for a page or a message: learning curves, and the metric by each
parameter that it searches."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator
from PIL import Image
from rich.cells import cell_len, set_cell_size

from experiments.atomic import whole
from experiments.html.pictures import COLOURS, MUTED, STYLE, families, legible
from experiments.sweep.figures import Scale, scale_of, window
from experiments.sweep.metrics import history
from experiments.sweep.outcome import SweepResult
from experiments.sweep.ranking import Row
from experiments.sweep.table import short, short_names, summary

PANEL, HEIGHT, DPI = 3.3, 3.5, 130  # inches, inches, pixels an inch
LETTER, BOLD = 0.075, 0.1  # inches of a character in a legend, in the picture's title
ROOM, MARKS = 32, 40  # characters above a panel, and below it
PARAMETERS = 3  # panels of them at most
LINES = 6  # values of the other parameter that are a line each
FEW = 6  # values of a parameter that are marked each
BEST, OTHERS = "#111827", "#9ca3af"


def draw(result: SweepResult, file: Path) -> bool:
    """Writes the picture as PNG; False where no run has a metric to show."""
    figure = figure_of(result)
    if figure is None:
        return False
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    with whole(file) as part:  # in 128 colours, which halves the file
        Image.open(drawn).convert("RGB").quantize(128).save(part, format="png", optimize=True)
    return True


def figure_of(result: SweepResult) -> Figure | None:
    """The picture: curves, and a panel for each of the first parameters."""
    if result.spec.metric is None or result.best is None:
        return None
    names = short_names(result)
    values = (short(row.configuration.values[name]) for row in result.rows for name in names)
    fonts = families([result.spec.name, result.spec.metric.name, *names.values(), *values])
    sizes = {"font.size": 9, "axes.titlesize": 10}
    with rc_context(STYLE | sizes | {"font.family": fonts, "text.parse_math": False}):
        return _figure(result, {name: legible(label) for name, label in names.items()})


def _figure(result: SweepResult, names: Mapping[str, str]) -> Figure:
    rows = [row for row in result.rows if row.metric is not None]
    searched = [name for name in names if len({short(row.configuration.values[name]) for row in rows}) > 1]
    shown = searched[:PARAMETERS]
    lines = {name: _lines(rows, [other for other in searched if other != name]) for name in shown}
    width = PANEL * (1 if shown else 2)
    width += sum(PANEL + _legend_width(names, *each) for each in lines.values())
    figure = Figure(figsize=(width, HEIGHT), dpi=DPI, layout="constrained")
    title = _title(result, names, int(width / BOLD))
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    panels = figure.subplots(1, 1 + len(shown), squeeze=False)[0]
    _curves(panels[0], result)
    for axes, (name, (other, groups)) in zip(panels[1:], lines.items(), strict=True):
        _by_parameter(axes, rows, groups, name, result)
        axes.set_title(f"by {_end(names[name], ROOM)}")
        if other:
            _legend(axes, groups, _end(names[other], ROOM // 2))
    return figure


def _title(result: SweepResult, names: Mapping[str, str], width: int) -> str:
    """Two lines of at most `width` characters, wide ones twice, or four."""
    best, metric = result.best, result.spec.metric
    assert best is not None
    assert metric is not None
    values = ", ".join(f"{label} {short(best.configuration.values[name])}" for name, label in names.items())
    lines = f"{result.spec.name}: {summary(result)}", f"best {metric.name} {best.metric:.4g}: {values}"
    return "\n".join(_wrapped(legible(line), width) for line in lines)


def _wrapped(line: str, width: int) -> str:
    wide = max(1.0, cell_len(line) / len(line))
    wrap = textwrap.TextWrapper(int(width / wide), max_lines=2, placeholder=" …", break_on_hyphens=False)
    return wrap.fill(line)


def _end(name: str, room: int) -> str:
    """A name, or the end of it, which tells more than its beginning."""
    return name if cell_len(name) <= room else "…" + set_cell_size(name[::-1], room - 1).rstrip()[::-1]


def _beginning(text: str, room: int) -> str:
    return text if cell_len(text) <= room else set_cell_size(text, room - 1).rstrip() + "…"


def _curves(axes: Axes, result: SweepResult) -> None:
    """The metric of each run over its steps, the best configuration's in front; the runs one after the other
    where each has logged it once."""
    assert result.spec.metric is not None
    name = result.spec.metric.name
    logged = [
        (row, history(result.folder_of(run.name), name))
        for row in reversed(result.rows)  # the best last, on top
        for run in row.configuration.runs
    ]
    logged = [(row, curve) for row, curve in logged if curve.values]
    once = all(len(curve.values) == 1 for _, curve in logged)
    limits = _limits(axes, [curve.values for _, curve in logged])
    for row, (steps, values, *_) in logged:
        looks: dict[str, Any] = (
            {"color": OTHERS, "lw": 1} if row is not result.best else {"color": BEST, "lw": 2}
        )
        if once:
            _dot(axes, row.configuration.number, values[0], limits, **looks)
        else:
            axes.plot(steps, values, marker="o" if len(values) == 1 else None, **looks)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set(title=f"{_end(legible(name), ROOM - 17)}; black: the best", xlabel="run" if once else "step")


def _limits(axes: Axes, runs: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Sets and gives the least and the greatest value that is shown."""
    low, high = window(runs) if runs else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    axes.set_ylim(low - margin, high + margin)
    axes.ticklabel_format(axis="y", useOffset=False)
    return low, high


def _dot(
    axes: Axes, x: float, y: float, limits: tuple[float, float], marker: str = "o", **looks: Any
) -> None:
    """A value; at the edge, and pointing beyond it, where it is not shown."""
    low, high = limits
    marker = "^" if y > high else "v" if y < low else marker
    axes.plot(x, min(max(y, low), high), marker, **looks)


def _lines(rows: Sequence[Row], others: Sequence[str]) -> tuple[str, dict[str, list[Row]]]:
    """The one other parameter, where its values are few, and the configurations that have each of them; else
    no name, and all of them together."""
    if len(others) == 1:
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(legible(short(row.configuration.values[others[0]])), []).append(row)
        if len(groups) <= LINES:
            return others[0], dict(sorted(groups.items(), key=lambda group: _order(group[0])))
    return "", {"": list(rows)}


def _by_parameter(
    axes: Axes, rows: Sequence[Row], groups: Mapping[str, Sequence[Row]], name: str, result: SweepResult
) -> None:
    """The metric by a parameter, a line for each group where there are several. A cross is what was stopped
    early; a line leaves it out, as it might have come further; a triangle is beyond the edge."""
    parameter = next(each for each in result.spec.parameters if each.name == name)
    values = [row.configuration.values[name] for row in rows]
    scale = scale_of(values, parameter.is_logarithmic)
    metrics = [[run.metric for run in row.configuration.runs if run.metric is not None] for row in rows]
    limits = _limits(axes, metrics)
    for place, members in enumerate(groups.values()):
        looks = _looks(place)
        at = [scale.place(row.configuration.values[name]) for row in members]
        ended = [(x, row.metric) for x, row in zip(at, members, strict=True) if not _is_stopped(row)]
        if len(groups) > 1 and ended:
            axes.plot(*zip(*sorted(ended), strict=True), lw=1.2, **looks)
        for x, row in zip(at, members, strict=True):
            marker = "x" if _is_stopped(row) else "o"
            _dot(axes, x, row.metric or 0.0, limits, marker, color=looks["color"], markersize=5)
            seeds = [run.metric for run in row.configuration.runs if run.metric is not None]
            axes.vlines(x, min(seeds), max(seeds), color=looks["color"], linewidth=1)
    best = rows[0]
    ring: dict[str, Any] = {"mfc": "none", "mec": BEST, "ms": 10}
    _dot(axes, scale.place(best.configuration.values[name]), best.metric or 0.0, limits, **ring)
    _marks(axes, values, scale, parameter.choices is not None)
    axes.set(xlim=(-0.06, 1.06), xlabel="logarithmic" if scale.is_logarithmic else "")


def _is_stopped(row: Row) -> bool:
    return row.configuration.state == "stopped"


def _looks(place: int) -> dict[str, Any]:
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": "-" if place < len(COLOURS) else "--"}


def _legend(axes: Axes, groups: Mapping[str, Sequence[Row]], title: str) -> None:
    """Beside the panel, where it hides nothing."""
    labels = [_beginning(value, ROOM) for value in groups]
    lines = [Line2D([], [], label=label, **_looks(place)) for place, label in enumerate(labels)]
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0}
    axes.legend(handles=lines, title=title, fontsize=8, title_fontsize=8, alignment="left", **beside)


def _legend_width(names: Mapping[str, str], other: str, groups: Mapping[str, Sequence[Row]]) -> float:
    """Inches."""
    if not other:
        return 0.0
    title = cell_len(_end(names[other], ROOM // 2))
    return LETTER * max(title, *(6 + cell_len(_beginning(value, ROOM)) for value in groups)) + 0.2


def _marks(axes: Axes, given: Sequence[Any], scale: Scale, is_listed: bool) -> None:
    """The values themselves where the YAML lists a few or they are no numbers, else round numbers; where
    there is no room names are slanted, and some of the numbers are left out."""
    marks = {scale.place(value): _written(value) for value in given}
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
    if are_numbers and not (is_listed and len(marks) <= FEW):
        marks = {scale.place(value): _written(value) for value in _round(min(given), max(given), scale)}
    places = sorted(marks)
    gap = min((b - a for a, b in zip(places, places[1:], strict=False)), default=1.0)
    is_tight = max(map(cell_len, marks.values()), default=0) + 1 > gap * MARKS
    if is_tight and are_numbers:
        marks, is_tight = _spaced(marks), False
    slant: dict[str, Any] = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if is_tight else {}
    axes.set_xticks(list(marks), list(marks.values()), color=MUTED, **slant)


def _round(low: float, high: float, scale: Scale) -> list[float]:
    """Round numbers between two, the two themselves where there are fewer than two."""
    if scale.is_logarithmic:
        for subs in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
            ticks = [t for t in LogLocator(10, subs, numticks=99).tick_values(low, high) if low <= t <= high]
            if len(ticks) > 2:
                return ticks[:: math.ceil(len(ticks) / 5)]
    ticks = [tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    return ticks if len(ticks) > 1 else [low, high]


def _spaced(marks: Mapping[float, str]) -> dict[float, str]:
    """Marks from the left, without those that would touch the one before."""
    kept: dict[float, str] = {}
    for place, text in sorted(marks.items()):
        last = max(kept, default=-math.inf)
        if (place - last) * MARKS > (len(text) + len(kept.get(last, ""))) / 2 + 1:
            kept[place] = text
    return kept


def _written(value: Any) -> str:
    """A value, large numbers with a letter: 16M."""
    is_large = isinstance(value, int | float) and abs(value) >= 10_000
    return _beginning(
        EngFormatter(sep="").format_eng(value) if is_large else legible(short(value)), ROOM // 2
    )


def _order(text: str) -> tuple[bool, float, str]:
    """Numbers by their size, before what is none."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text
