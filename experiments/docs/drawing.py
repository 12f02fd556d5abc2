"""What the pictures of the documentation share: size, colours, letters, and how a figure becomes a file."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

STYLE: dict[str, Any] = {
    "figure.dpi": 100, "savefig.dpi": 200, "font.family": "DejaVu Sans", "font.size": 9.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888",
    "axes.titlelocation": "left", "axes.titlesize": 10.5, "axes.titleweight": "bold", "legend.frameon": False,
    "hatch.linewidth": 0.6, "hatch.color": "#888888", "text.parse_math": False,
}  # fmt: skip
WIDTH = 8  # inches: 800 px on the page, 1600 in the file
DARK, MIDDLE, LIGHT, EMPTY = "#12507b", "#e07b00", "#9bd3c0", "#ffffff"  # dark, middle and light in grey too
SHADES = (DARK, MIDDLE, LIGHT)
GIVEN, TRAINED = "#e8e8e8", "#8fd19e"
CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}
MONO = "DejaVu Sans Mono"
PADDING: dict[str, Any] = {"facecolor": EMPTY, "hatch": "////", "edgecolor": "#888888"}


def box(axes: Axes, left: float, top: float, width: float, height: float, **looks: Any) -> None:
    """A rectangle, in the units of the axes."""
    axes.add_patch(Rectangle((left, top), width, height, **looks))


def label(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    axes.set(title=title, xlabel=x, ylabel=y)


def save(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Writes figures by their file names in 64 colours, which halves the files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        drawn = BytesIO()
        figure.savefig(drawn)
        Image.open(drawn).convert("RGB").quantize(64).save(folder / name, optimize=True)
    return [folder / name for name in figures]
