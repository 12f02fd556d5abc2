"""Charts as inline SVG for a page that needs nothing else: colours, axes, labels, and numbers for people.

matplotlib draws; a chart's colours are the page's CSS variables, so that it follows its light and dark. The
quickstart's report and `trivium data inspect` draw with it.
"""

import io
import itertools
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from rich.cells import cell_len, set_cell_size

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
LONGEST = 20  # characters of a name in a chart, wide ones twice
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Text in which control characters, and what turns the reading direction, are shown by their numbers."""
    return text if isinstance(text, Markup) else UNSEEN.sub(lambda match: rf"\u{ord(match[0]):04x}", text)


def number(value: float | None, decimals: int | None = None) -> str:
    """Four significant digits or as many `decimals` as asked for, a real minus sign, thousands kept apart."""
    if value is None:
        return "–"
    decimals = 0 if abs(value) >= 1000 else decimals
    return (f"{value:.4g}" if decimals is None else f"{value:,.{decimals}f}").replace("-", "−")


def short(name: str) -> str:
    """A name that leaves room for the chart beside it."""
    return name if cell_len(name) <= LONGEST else set_cell_size(name, LONGEST - 1).rstrip() + "…"


def room(names: Iterable[str]) -> float:
    """What the widest of these names fills, in px at scale 1; a wide character is as wide as two."""
    return CHARACTER * max(map(cell_len, names))


class Inline:
    """Turns the figures of one page into SVG for it; no two of them share an id."""

    def __init__(self) -> None:
        self.ids = itertools.count()

    def inline(self, axes: Axes, title: str, unit: str, words: list[str]) -> Markup:
        """The figure of these axes as SVG for the page: nothing external, no date, ids of its own, described
        in words for who cannot see it: its title, its unit and its values."""
        file, figure = io.StringIO(), axes.get_figure(root=True)
        assert figure is not None
        with rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # that its font lacks: the browser's writes the text
            figure.savefig(file, format="svg", transparent=True)
        inner = file.getvalue().partition("<svg")[2].partition(">")[2]
        inner = re.sub(
            r"<metadata>.*?</metadata>|<style.*?</style>|xlink:(?=href)", "", inner, flags=re.DOTALL
        )
        prefix = f"chart-{next(self.ids)}-"
        inner = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", inner)
        inner = re.sub("|".join(VARIABLES), lambda match: f"var(--{VARIABLES[match[0]]})", visible(inner))
        height = round(figure.get_figheight() * 72)
        label = escape(visible(f"{title}, {unit}: {'; '.join(words)}"))
        return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{inner}')


def data_axes(height: float, left: float, right: float, unit: str, below: float) -> Axes:
    """Axes with `height` px for the data, room for labels at both sides and the unit above, on the left."""
    total = height + ABOVE + below
    figure = Figure(figsize=(WIDTH / 72, total / 72))
    axes = figure.add_axes((left / WIDTH, below / total, 1 - (left + right) / WIDTH, height / total))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, pad=6)
    figure.text(0.005, 1 - 14 / total, unit)
    return axes


def ticks(axis: Any, count: int, whole: bool = False) -> None:
    """About `count` round ticks on an x or y axis, `whole`: at whole numbers."""
    axis.set_major_locator(MaxNLocator(count, integer=whole, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def row_axes(labels: Sequence[str], right: float, unit: str) -> Axes:
    """Axes with one row a label, the first at the top."""
    labels = [short(label) for label in labels]
    axes = data_axes(LINE * len(labels) + 6, 14 + room(labels), right, unit, below=26)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels, color=INK)
    axes.grid(axis="x")
    ticks(axes.xaxis, 4)
    return axes


def beside(axes: Axes, text: str, place: float, colour: str) -> None:
    """Writes on the right of the axes, `place` of their height up."""
    axes.annotate(text, (1, place), (6, 0), "axes fraction", "offset points", color=colour, va="center")


def beside_row(axes: Axes, text: str, row: int) -> None:
    """Writes on the right of a row of `row_axes`."""
    beside(axes, text, 1 - (row + 0.5) / len(axes.get_yticks()), INK)


def legend(axes: Axes) -> Axes:
    """The same axes, what their labels say above them on the right."""
    axes.figure.legend(loc="upper right", ncols=2)
    return axes


def spread(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved apart so that two are never closer than `gap`; their order stays."""
    order, moved = np.argsort(places, kind="stable"), list(places)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    shift = sum(new - old for new, old in zip(moved, places, strict=True)) / max(len(places), 1)
    return [place - shift for place in moved]
