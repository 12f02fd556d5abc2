"""Writes `abilities.json`, `abilities.html` and `abilities.png`: what became of each claim."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.abilities.earlier import REPORT
from experiments.abilities.figures import figures
from experiments.abilities.picture import draw as draw_all
from experiments.abilities.pictures import Charts
from experiments.abilities.stories import STORIES
from experiments.atomic import write_text
from experiments.html.pages import page_template


def write_page(
    report: Mapping[str, Any], folders: Mapping[str, Mapping[str, Sequence[Path]]], folder: Path
) -> None:
    """Writes all three into `folder`.

    Args:
        report: language, test_items, and claims as `earlier.judged` gives them.
        folders: experiment → arm → the folders of its seeds.
    """
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / REPORT, text + "\n")
    draw, claims = Charts(), report["claims"]
    drawn = {name: figures(name, claim["results"], folders[name], draw) for name, claim in claims.items()}
    template = page_template(Path(__file__).with_name("abilities.html.j2"), p_value=p_value, rows=rows)
    shown = sum(claim["verdict"] == "shown" for claim in claims.values())
    content = {"report": report, "stories": STORIES, "figures": drawn, "shown": shown}
    write_text(folder / "abilities.html", template.render(**content))
    draw_all(claims, folder / "abilities.png")


def p_value(p: float) -> str:
    """A p-value as people write it."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def rows(results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every figure as a label and a text."""
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}, {label}", text) for label, text in rows(value))
        elif isinstance(value, Sequence) and len(value) == 4 and isinstance(value[0], float):
            yield name, f"{value[0]:.4f} [{value[1]:.4f}, {value[2]:.4f}]"
        elif isinstance(value, Sequence):
            yield name, ", ".join(_short(item) for item in value)
        else:
            yield name, _short(value)


def _short(value: float | None) -> str:
    return "∞" if value is None else f"{value:.4g}"
