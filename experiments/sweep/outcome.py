"""What a sweep has found: its configurations from best to worst, and which of them noise alone could
explain."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.statistics import holm, paired_p
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


class SweepResult(NamedTuple):
    """A sweep's result; shows itself as a table, in a notebook and as text."""

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

    def runs(self) -> list[dict[str, Any]]:
        """A line a run, as `--json` prints them."""
        configurations = sorted((row.configuration for row in self.rows), key=lambda each: each.number)
        return [
            as_line(run.name, run.state, each.values, run.metric)
            for each in configurations
            for run in each.runs
        ]

    def __str__(self) -> str:
        from experiments.sweep.table import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from experiments.sweep.table import as_html

        return as_html(self)


def result_of(spec: Spec, folder: Path, configurations: Sequence[Configuration]) -> SweepResult:
    """Ranks the configurations of a sweep."""
    sign = spec.metric.sign if spec.metric else 1
    known = [each for each in configurations if spec.metric and each.metric is not None]
    known.sort(key=lambda each: sign * (each.metric or 0.0))
    others = [each for each in configurations if each not in known]
    apart = _apart(known)
    rows = [
        Row(
            each,
            each.metric,
            sign * ((each.metric or 0.0) - (known[0].metric or 0.0)),
            apart.get(each.number),
        )
        for each in known
    ]
    return SweepResult(spec, folder, (*rows, *(Row(each, None, None, None) for each in others)))


def _apart(known: Sequence[Configuration]) -> dict[int, float]:
    """p-values of the configurations after the best, paired with it by seed; none where there are no
    seeds."""
    if not known or len(known[0].runs) < 2:
        return {}
    best = [run.metric or 0.0 for run in known[0].runs]
    p_values = {
        str(each.number): paired_p([run.metric or 0.0 for run in each.runs], best) for each in known[1:]
    }
    return {int(number): p for number, p in holm(p_values).items()}


def as_line(run: str, state: str, parameters: Mapping[str, Any], metric: float | None) -> dict[str, Any]:
    return {"run": run, "state": state, "parameters": dict(parameters), "metric": metric}


def write_results(result: SweepResult) -> None:
    """Writes `runs.jsonl`: a line a run."""
    from experiments.atomic import write_text

    lines = (json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in result.runs())
    write_text(result.folder / "runs.jsonl", "".join(lines))


def run_folder(result: SweepResult, name: str) -> Path:
    return result.folder / RUNS / name
