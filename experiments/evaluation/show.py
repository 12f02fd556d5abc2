"""Results for people: a table of models by task, and the list of comparisons."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from experiments.evaluation.compare import Comparison
from experiments.evaluation.store import Result

SIGNIFICANT = 0.05


def show(results: Sequence[Result], comparisons: Sequence[Comparison], console: Console) -> None:
    """Prints every metric with its interval, a column a model, then what differs, then what to know."""
    models = list(dict.fromkeys(result.model for result in results))
    table = Table("task", "metric", "items", *models, title="abilities, with 95 % intervals")
    cells: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for result in results:
        for metric, estimate in result.metrics.items():
            cells.setdefault((result.label, metric), {})[result.model] = estimate
    before = ""
    for (label, metric), row in cells.items():
        counts = {int(estimate["n"]) for estimate in row.values()}
        shown = [estimate_text(row[model]) if model in row else "–" for model in models]
        table.add_row(label if label != before else "", metric, "/".join(map(str, sorted(counts))), *shown)
        before = label
    console.print(table)
    if comparisons:
        console.print(comparison_table(comparisons))
    notes = {f"{result.task}: {result.note}": None for result in results if result.note}
    for note in notes:
        console.print(note, highlight=False)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Differences with their intervals, and McNemar's p after Holm."""
    title = "paired by item; p by McNemar's exact test, adjusted by Holm over this table"
    table = Table("task", "first", "second", "metric", "second − first", "p", title=title)
    for each in comparisons:
        p = "–" if each.p is None else "<0.001" if each.p < 0.001 else f"{each.p:.3f}"
        significant = each.p is not None and each.p < SIGNIFICANT
        difference = f"{each.difference:+.3f} [{each.low:+.3f}, {each.high:+.3f}]"
        table.add_row(*each[:4], difference, p, style="bold" if significant else None)
    return table


def estimate_text(estimate: dict[str, float]) -> str:
    """A value and its interval."""
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
