"""A report in the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from datamodules.receipt import printable
from experiments.web.rank.report_words import duration, interval, pair_verdict, place_verdict


def show(report: Mapping[str, Any], page: str | None) -> None:
    """Prints the tables; `page` is where the page lies."""
    console = Console(highlight=False, markup=False)
    counts = ", ".join(f"{count} {kind}" for kind, count in report["answers"].items() if count)
    console.print(f"{report['prompts']} prompts; answers: {counts}; {duration(report['seconds'])} a prompt")
    _models(console, report)
    _people(console, report)
    position = report["position"]
    if position["mean_rank"]:
        places = "  ".join(f"{n}: {rank:.2f}" for n, rank in enumerate(position["mean_rank"], 1))
        console.print(f"rank by place on the page (0 = best, 1 = worst): {places}")
    console.print(f"position bias: {place_verdict(position['p'])}")
    for entry in report["agreement"]["disagreed"]:
        _disagreed(console, entry)
    for flag in report["flags"]:
        console.print(printable(f"flagged by {flag['person']}: {_short(flag['prompt'])}: {flag['remark']}"))
    if page:
        console.print(f"page: {page}")


def _models(console: Console, report: Mapping[str, Any]) -> None:
    table = Table(title="models, best first", title_justify="left")
    for column in ("model", "replies", "win rate", "wins if not tied (Bradley–Terry)", "mean rank"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, model in report["models"].items():
        rates = (
            interval(model[key], percent=True) if key in model else "–" for key in ("win_rate", "chance")
        )
        table.add_row(printable(name), str(model["replies"]), *rates, interval(model["mean_rank"]))
    if report["models"]:
        console.print(table)
    for pair in report["pairs"]:
        counts = f"{pair['wins']} won, {pair['ties']} tied, {pair['losses']} lost"
        two = f"{pair['first']} against {pair['second']}"
        console.print(printable(f"{two}: {counts}: {pair_verdict(pair)}"))


def _people(console: Console, report: Mapping[str, Any]) -> None:
    table = Table(title="people", title_justify="left")
    for column in ("person", "ranked", "cannot say", "flagged", "skipped", "seconds a prompt"):
        table.add_column(column, justify="left" if column == "person" else "right")
    for name, person in report["people"].items():
        counts = (str(person[kind]) for kind in ("ranked", "cannot say", "flagged", "skipped"))
        table.add_row(printable(name), *counts, duration(person["seconds"]))
    console.print(table)
    agreement = report["agreement"]
    if not agreement["prompts"]:
        console.print("agreement: no prompt was ranked by two people (see --overlap)")
        return
    chance = agreement["by_chance"]
    alike, tied = (interval(agreement[key], percent=True) for key in ("alike", "tied"))
    console.print(
        f"agreement on {agreement['prompts']} prompts: Kendall's W {interval(agreement['kendall_w'])} (by "
        f"chance {chance:.2f}); pairs ordered alike {alike} (by chance 50%); tied by one or both {tied}"
    )
    for pair in agreement["pairs"]:
        two = f"{printable(pair['first'])} and {printable(pair['second'])}"
        console.print(f"  {two}: {interval(pair['alike'], percent=True)} alike on {pair['prompts']} prompts")


def _disagreed(console: Console, entry: Mapping[str, Any]) -> None:
    console.print(f"disagreed on (W {entry['kendall_w']:.2f}): {_short(entry['prompt'])}")
    for reply in entry["replies"]:
        ranks = ", ".join(f"{printable(person)} {rank}" for person, rank in reply["ranks"].items())
        console.print(f"  {_short(reply['text'])}  [{ranks}]")


def _short(text: str, width: int = 70) -> str:
    line = " ".join(printable(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"
