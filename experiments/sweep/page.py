"""`sweep.html`: a sweep on a page, which needs nothing else."""

import warnings
from pathlib import Path

from experiments.atomic import write_text
from experiments.html.pages import page_template
from experiments.sweep.figures import Charts, Point
from experiments.sweep.metrics import history
from experiments.sweep.outcome import SweepResult
from experiments.sweep.ranking import Row
from experiments.sweep.sampling import Tried, study_of
from experiments.sweep.table import cells, short, short_names, summary

FEWEST = 5  # configurations from which importances are told


def write_page(result: SweepResult) -> None:
    """Writes it into the sweep's folder."""
    charts, names = Charts(result.spec.parameters), short_names(result)
    metric = result.spec.metric
    points = points_of(result)
    figures = []
    if metric is not None:
        figures = [
            ("Configurations", charts.parallel(points, names, metric.name), "parallel"),
            ("Learning curves", charts.curves(_curves(result), metric.name), "curves"),
            ("Which parameter matters", charts.importances(importances(result)), "importances"),
        ]
        for name, label in names.items():
            figures.append((f"By {label}", charts.by_parameter(points, name, label, metric.name), "by"))
    head, rows = cells(result)
    text = page_template(Path(__file__).with_name("sweep.html.j2"), short=short).render(
        result=result,
        head=head,
        rows=rows,
        figures=[figure for figure in figures if figure[1]],
        summary=summary(result),
        seconds=sum(run.seconds for row in result.rows for run in row.configuration.runs),
        untold=sum(row.p is not None and not row.is_told_apart for row in result.rows),
    )
    write_text(result.page, text)


def look(row: Row, result: SweepResult) -> str:
    """How the charts show a configuration."""
    if row is result.best:
        return "best"
    return "equal" if row.p is not None and not row.is_told_apart else "other"


def points_of(result: SweepResult) -> list[Point]:
    """The configurations that have a metric."""
    return [
        Point(
            f"{row.configuration.number:04d}",
            row.configuration.values,
            row.metric,
            [run.metric for run in row.configuration.runs if run.metric is not None],
            look(row, result),
        )
        for row in result.rows
        if row.metric is not None
    ]


def importances(result: SweepResult) -> dict[str, float]:
    """How much each parameter decides whether a configuration is among the best, by PED-ANOVA (Watanabe et
    al. 2023, arXiv:2304.10255), which optuna computes; nothing where there are too few."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    spec = result.spec
    rows = [row for row in result.rows if row.metric is not None]
    if spec.metric is None or len(rows) < FEWEST or len(spec.searched) < 2:
        return {}
    sign = spec.metric.sign
    tried = [
        Tried(row.configuration.places, row.configuration.values, sign * row.metric)
        for row in rows
        if row.metric is not None
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that optuna calls it experimental
        found = get_param_importances(study_of(spec, tried), evaluator=PedAnovaImportanceEvaluator())
    names = short_names(result)
    return {names[name]: share for name, share in found.items()} if sum(found.values()) else {}


def _curves(result: SweepResult) -> list[tuple[str, str, list[int], list[float]]]:
    """Name, look, steps and values of each run."""
    series = []
    assert result.spec.metric is not None
    for row in result.rows:
        for run in row.configuration.runs:
            logged = history(result.folder_of(run.name), result.spec.metric.name)
            series.append((run.name, look(row, result), logged.steps, logged.values))
    return series
