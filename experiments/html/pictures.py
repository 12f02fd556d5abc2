"""The looks of pictures that stand by themselves, as PNG."""

from typing import Any

COLOURS = ("#0060a8", "#b45309", "#047857", "#7c3aed")
MUTED = "#6b7280"
STYLE: dict[str, Any] = {
    "font.size": 10, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e5e7eb",
    "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "axes.labelcolor": MUTED,
    "axes.axisbelow": True, "legend.frameon": False,
}  # fmt: skip
