"""A sweep's result as a table: in a terminal, as text, in a notebook."""

import io
import json
import statistics
from typing import Any

from markupsafe import Markup, escape
from rich.console import Console
from rich.table import Table

from experiments.sweep.ranking import Ranking, Row

LONGEST = 24  # characters of a value
SHOWN = 40  # rows


def short_names(result: Ranking) -> dict[str, str]:
    """The searched parameters → as few of their last words as tell them apart."""
    names = [each.name for each in result.spec.searched] or [each.name for each in result.spec.parameters]
    shortened = {}
    for name in names:
        words = name.split(".")
        for count in range(1, len(words) + 1):
            tail = ".".join(words[-count:])
            if sum(other == tail or other.endswith(f".{tail}") for other in names) == 1:
                break
        shortened[name] = tail
    return shortened


def short(value: Any) -> str:
    """A value of a parameter, as it fits a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def verdict(row: Row, result: Ranking) -> str:
    """What a configuration's metric means beside the best one's."""
    if row is result.best:
        return "best"
    if row.metric is None:
        lines = {run.line for run in row.configuration.runs if run.line}
        return "; ".join(sorted(lines)) or row.configuration.state
    stopped = "stopped early" if row.configuration.state == "stopped" else ""
    if row.p is None:
        return stopped
    told = f"p = {row.p:.2g}" if row.is_told_apart else f"not told from the best (p = {row.p:.2g})"
    return f"{told}, {stopped}" if stopped else told


def cells(result: Ranking) -> tuple[list[str], list[list[str]]]:
    """The table's head and rows, as text."""
    names = short_names(result)
    metric = result.spec.metric
    seeded = result.spec.seeds is not None
    head = ["run", "state", *names.values(), metric.name if metric else ""]
    head += ["sd over seeds", ""] if seeded else [""]
    rows = []
    for row in result.rows:
        configuration = row.configuration
        values = [short(configuration.values[name]) for name in names]
        shown = "–" if row.metric is None else f"{row.metric:.4f}"
        line = [f"{configuration.number:04d}", configuration.state, *values, shown]
        line += [_deviation(row)] if seeded else []
        rows.append([*line, verdict(row, result)])
    return head, rows


def as_table(result: Ranking) -> Table:
    """For rich to print."""
    head, rows = cells(result)
    table = Table(title=f"{result.spec.name}: {summary(result)}", title_justify="left")
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place in (0, 1, len(head) - 1) else "right", overflow="fold")
    for row in rows[:SHOWN]:
        table.add_row(*row)
    if len(rows) > SHOWN:
        table.caption = f"and {len(rows) - SHOWN} more"
    return table


def as_text(result: Ranking) -> str:
    """As a terminal of 120 columns shows it."""
    console = Console(file=io.StringIO(), width=120, force_jupyter=False)
    console.print(as_table(result))
    return console.file.getvalue()  # type: ignore[attr-defined]


def as_html(result: Ranking) -> str:
    """As a notebook shows it."""
    head, rows = cells(result)
    top = Markup("").join(Markup("<th scope='col'>{}</th>").format(name) for name in head)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row))
        for row in rows
    )
    caption = escape(f"{result.spec.name}: {summary(result)}")
    return f"<table><caption>{caption}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def summary(result: Ranking) -> str:
    """How many runs there are, by what became of them."""
    states: dict[str, int] = {}
    for row in result.rows:
        for run in row.configuration.runs:
            states[run.state] = states.get(run.state, 0) + 1
    total = sum(states.values())
    told = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{total} run{'' if total == 1 else 's'} ({told})" if total else "no run has begun"


def _deviation(row: Row) -> str:
    metrics = [run.metric for run in row.configuration.runs if run.metric is not None]
    return f"{statistics.stdev(metrics):.4f}" if len(metrics) > 1 else "–"
