"""A sweep's configurations in order, from best to worst."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.sweep.spec import Spec
from experiments.sweep.study import RUNS, Configuration

LEVEL = 0.05


class Row(NamedTuple):
    """A configuration in the table of results."""

    configuration: Configuration
    metric: float | None
    """the mean over seeds"""
    difference: float | None
    """from the best, over the same seeds; above 0 = worse"""
    p: float | None
    """of a difference at least as large, were the two equally good: paired by seed, corrected by Holm"""

    @property
    def is_told_apart(self) -> bool:
        return self.p is not None and self.p < LEVEL


class Ranking(NamedTuple):
    """What a sweep has found."""

    spec: Spec
    folder: Path
    rows: tuple[Row, ...]
    """from best to worst; those that have no metric last"""

    @property
    def best(self) -> Row | None:
        return self.rows[0] if self.rows and self.rows[0].metric is not None else None

    @property
    def best_config(self) -> Path:
        """The file that `trivium fit --config` runs."""
        return self.folder / "best.yaml"

    @property
    def page(self) -> Path:
        return self.folder / "sweep.html"

    @property
    def picture(self) -> Path:
        return self.folder / "sweep.png"

    def runs(self) -> list[dict[str, Any]]:
        """A line a run, as `--json` prints them."""
        configurations = sorted((row.configuration for row in self.rows), key=lambda each: each.number)
        return [
            as_line(run.name, run.state, each.values, run.metric)
            for each in configurations
            for run in each.runs
        ]

    def folder_of(self, name: str) -> Path:
        """Of a run."""
        return self.folder / RUNS / name


def as_line(run: str, state: str, parameters: Mapping[str, Any], metric: float | None) -> dict[str, Any]:
    return {"run": run, "state": state, "parameters": dict(parameters), "metric": metric}
