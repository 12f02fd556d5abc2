"""The looks of pictures that stand by themselves, as PNG, and the fonts that their texts need."""

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.font_manager import findfont, findSystemFonts, fontManager, get_font

COLOURS = ("#0060a8", "#b45309", "#047857", "#7c3aed")
MUTED = "#6b7280"
STYLE: dict[str, Any] = {
    "font.size": 10, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e5e7eb",
    "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "axes.labelcolor": MUTED,
    "axes.axisbelow": True, "legend.frameon": False,
}  # fmt: skip


def legible(text: str) -> str:
    """The text with what no font of this machine has by its number, as \\u5927: a box would stand for any."""
    return "".join(
        letter if letter.isspace() or _family(letter) else rf"\u{ord(letter):04x}" for letter in text
    )


def families(texts: Iterable[str]) -> list[str]:
    """What `font.family` must be for these texts: matplotlib's own, then those with what it lacks."""
    needed = [_family(letter) for letter in dict.fromkeys("".join(texts))]
    return list(dict.fromkeys(filter(None, [get_font(_fonts()[0]).family_name, *needed])))


@cache
def _family(letter: str) -> str | None:
    """The first family that has a letter; matplotlib then knows it, however newly installed."""
    for path in _fonts():
        try:
            font = get_font(path)
        except (OSError, RuntimeError):  # coloured bitmaps, or broken
            continue
        if font.get_char_index(ord(letter)):
            if all(entry.fname != path for entry in fontManager.ttflist):
                fontManager.addfont(path)
            if path != _fonts()[0]:
                logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it may have no bold
            return font.family_name
    return None


@cache
def _fonts() -> list[str]:
    """Files of fonts: matplotlib's default, then sans serif, then others; without the one of boxes."""
    listed = {entry.fname for entry in fontManager.ttflist} | set(findSystemFonts())
    others = {path for path in listed if "lastresort" not in Path(path).name.lower()}
    ordered = sorted(others, key=lambda path: ("serif" in Path(path).name.lower(), path))
    return [findfont("DejaVu Sans"), *ordered]
