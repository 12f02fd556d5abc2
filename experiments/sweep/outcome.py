"""What a sweep has found: its configurations from best to worst, and which of them noise alone could
explain."""

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.atomic import write_text
from experiments.statistics import holm, paired_p
from experiments.sweep.ranking import Ranking, Row
from experiments.sweep.spec import Spec
from experiments.sweep.study import Configuration
from experiments.sweep.table import as_html, as_text


class SweepResult(Ranking):
    """A sweep's result; shows itself as a table, in a notebook and as text."""

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
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


def write_results(result: SweepResult) -> None:
    """Writes `runs.jsonl`: a line a run."""
    lines = (json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in result.runs())
    write_text(result.folder / "runs.jsonl", "".join(lines))
