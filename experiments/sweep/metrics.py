"""What a run has logged, from the files that it leaves: Trivium's `metrics.csv`, or a W&B run offline."""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.sweep.upstream import offline_history

FOLDERS = "folders.txt"
"""in a run's folder: the folders of what `trivium fit` has run for it, a line each"""

LENGTH = "length.txt"
"""beside it: how many steps a run of `trivium fit` has in all, as its metrics count them"""


class History(NamedTuple):
    """The values of one metric, in order."""

    steps: list[int]
    values: list[float]
    """finite ones only"""
    names: tuple[str, ...]
    """of all that was logged"""
    last_step: int
    """of all that was logged; 0 where nothing was"""


def history(run: Path, metric: str) -> History:
    """What a run has logged of a metric so far; a run that is writing it is no obstacle."""
    points: list[tuple[int, float]] = []
    names: dict[str, None] = {}
    last = 0
    logged = [list(_rows(file)) for file in _files(run)]
    for rows in logged or [offline_history(run)]:
        for row in rows:
            names |= dict.fromkeys(row)
            step = _number(row.get("step"))
            last = max(last, int(step)) if step is not None else last
            value = _number(row.get(metric))
            if value is not None:
                points.append((int(step) if step is not None else len(points), value))
    known = tuple(name for name in names if name not in ("step", "epoch"))
    return History([step for step, _ in points], [value for _, value in points], known, last)


def changed(run: Path) -> tuple[tuple[str, int], ...]:
    """What tells whether `history` would find anything new."""
    files = _files(run) or list(run.glob("wandb/*run-*/*.wandb"))
    return tuple((str(file), file.stat().st_size) for file in files if file.exists())


def _files(run: Path) -> list[Path]:
    """A run's files of metrics, in the order they were begun."""
    folders = [run]
    if (run / FOLDERS).is_file():
        named = (run / FOLDERS).read_text(encoding="utf-8").splitlines()
        folders += [Path(line) for line in dict.fromkeys(named) if Path(line) != run]
    found: list[Path] = []
    for folder in folders:
        versions = sorted(folder.glob("metrics/version_*/metrics.csv"), key=_version)
        found += versions or [file for file in (folder / "metrics.csv",) if file.is_file()]
    return found or sorted(run.rglob("metrics.csv"))


def _version(file: Path) -> int:
    number = file.parent.name.removeprefix("version_")
    return int(number) if number.isdigit() else 0


def _rows(file: Path) -> Iterator[dict[str, str]]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it is being written anew
        return
    whole, _, _ = text.rpartition("\n")  # the last line may be half written
    for row in csv.DictReader(io.StringIO(whole)):
        yield {name: value for name, value in row.items() if name and value}


def _number(text: object) -> float | None:
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
