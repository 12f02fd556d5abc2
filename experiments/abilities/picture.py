"""`abilities.png`: all claims in one picture, the one that the documentation shows; and each by
itself, for the book."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.abilities.stories import STORIES
from experiments.html.pictures import COLOURS, MUTED, STYLE

Results = Mapping[str, Any]


def draw(claims: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draws the claims that were tried, three in a row, each with its verdict."""
    rows, columns = -(-len(claims) // 3), min(3, len(claims))
    with rc_context(STYLE):
        figure = Figure(figsize=(13 / 3 * columns, 3.7 * rows), dpi=100, layout="constrained")
        places = figure.subplots(rows, columns, squeeze=False).flat
        for axes, (name, claim) in zip(places, claims.items(), strict=False):
            _panel(axes, name, claim)
        for axes in figure.axes[len(claims) :]:
            axes.set_visible(False)
        figure.savefig(file, metadata={"Software": None})


def draw_claims(claims: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draws each claim by itself, as `abilities-NAME.png`; returns the files."""
    files = []
    with rc_context(STYLE):
        for name, claim in claims.items():
            figure = Figure(figsize=(8, 4.2), dpi=100, layout="constrained")
            _panel(figure.subplots(), name, claim)
            files.append(folder / f"abilities-{name}.png")
            figure.savefig(files[-1], metadata={"Software": None})
    return files


def _panel(axes: Axes, name: str, claim: Mapping[str, Any]) -> None:
    panels = {
        "emergence": _emergence, "in-context": _in_context, "instructions": _instructions,
        "chain-of-thought": _chain_of_thought, "retrieval": _retrieval, "restriction": _restriction,
    }  # fmt: skip
    axes.set_title(f"{STORIES[name].title}: {claim['verdict']}", fontsize=10)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("share right")
    panels[name](axes, claim["results"])


def _emergence(axes: Axes, results: Results) -> None:
    sizes = results["parameters"]
    for place, seeds in zip(sizes, results["seeds"].values(), strict=True):
        axes.plot([place] * len(seeds), seeds, "o", color=COLOURS[0], markersize=4)
    axes.plot(sizes, results["exact"], color=COLOURS[0], label="all six digits right")
    axes.plot(sizes, results["digits"], color=COLOURS[1], label="digits right")
    axes.set_xscale("log")
    axes.set_xlabel("parameters; every seed a dot")
    axes.legend(loc="lower right")


def _in_context(axes: Axes, results: Results) -> None:
    for colour, arm in zip(COLOURS, ("two layers", "one layer"), strict=False):
        points = {
            name.split(", ")[1].split()[0]: value for name, value in results.items() if name.startswith(arm)
        }
        axes.plot(list(points), [value[0] for value in points.values()], "o-", color=colour, label=arm)
    axes.axhline(1 / 8, color=MUTED, linestyle=":", linewidth=1)
    axes.set_xlabel("examples in the prompt; dotted: chance")
    axes.legend(loc="center right")


def _instructions(axes: Axes, results: Results) -> None:
    counts = [int(name.split()[0]) for name in results]
    values = list(results.values())
    below, above = ([abs(value[0] - value[side]) for value in values] for side in (1, 2))
    axes.errorbar(counts, [value[0] for value in values], (below, above), fmt="o-", color=COLOURS[0])
    axes.set_xscale("log")
    axes.set(xlabel="different instructions trained on", ylabel="share of new ones followed")


def _chain_of_thought(axes: Axes, results: Results) -> None:
    lines = {"in steps": "both: steps", "at once": "both: direct", "after dots": "dots: dots"}
    lines["at once, no steps trained"] = "direct: direct"
    for colour, (label, key) in zip(COLOURS, lines.items(), strict=True):
        points = [(n, results[f"{key} {n}"][0]) for n in (2, 4, 6, 8)]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=label)
    axes.set_xlabel("operations in the program")
    axes.legend(loc="center right")


def _retrieval(axes: Axes, results: Results) -> None:
    names = {
        "known,\nno passage": "known, none, free", "unseen,\nno passage": "unseen, none, free",
        "right one\nof three": "unseen, gold, free", "wrong\npassages": "unseen, wrong, free",
        "BM25": "BM25, all", "BM25 in\n70 %": "BM25, 70 %",
    }  # fmt: skip
    _bars(axes, {label: results[name][0] for label, name in names.items()})


def _restriction(axes: Axes, results: Results) -> None:
    made_up, refused = "made up: unseen, wrong", "refused: unseen, gold"
    names = {
        "made up,\nfree": f"{made_up}, free", "made up,\nrestricted": f"{made_up}, restricted",
        "made up,\nnew wording": f"{made_up}, held-out", "refused\nthough told": f"{refused}, restricted",
    }  # fmt: skip
    _bars(axes, {label: results[name][0] for label, name in names.items()})
    axes.set_ylabel("share of replies")


def _bars(axes: Axes, values: Mapping[str, float]) -> None:
    axes.bar(list(values), list(values.values()), color=COLOURS[0], width=0.6)
    for place, value in enumerate(values.values()):
        axes.text(place, value + 0.02, f"{value:.0%}", ha="center", color="#111827")
    axes.set_ylim(-0.03, 1.12)
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", labelsize=8.5 if len(values) < 6 else 7)
