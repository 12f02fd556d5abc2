"""How a sweep goes, while it goes: a live table in a terminal, else a line for each thing that happens."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from experiments.plan.units import duration
from experiments.sweep.metrics import LENGTH
from experiments.sweep.ranking import as_line
from experiments.sweep.sampling import grid_size
from experiments.sweep.spec import Spec
from experiments.sweep.study import ENDED, Configuration, Run
from experiments.sweep.table import short
from experiments.sweep.worker import Active

EARLY = 0.05  # share of a run after which its rate tells how long it will take
LAST = 12  # rows of the live table


class Display:
    """Shows a sweep on stderr; with `as_json` prints a line for each run that ends on stdout."""

    def __init__(self, spec: Spec, workers: int, as_json: bool, quiet: bool = False):
        self.spec, self.workers, self.as_json, self.quiet = spec, workers, as_json, quiet
        self.console = Console(stderr=True)
        self.live: Live | None = None
        self.told_plan = False
        self.lengths: dict[str, int] = {}
        self.firsts: dict[str, tuple[float, float]] = {}
        if self.console.is_terminal and not quiet:
            self.live = Live(console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Display":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def note(self, line: str) -> None:
        if not self.quiet:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def ended(self, run: Run, values: Mapping[str, Any]) -> None:
        if self.as_json:
            line = as_line(run.name, run.state, values, run.metric)
            print(json.dumps(line, ensure_ascii=False, default=str), flush=True)
        metric = self.spec.metric
        told = "" if run.metric is None or metric is None else f", {metric.name} {run.metric:.4f}"
        told += f": {run.line}" if run.line else ""
        self.note(f"{run.name} {run.state} after {duration(run.seconds)}{told}")

    def progress(self, configurations: list[Configuration], active: Sequence[Active]) -> None:
        runs = [run for each in configurations for run in each.runs]
        seconds = self._seconds_a_run(runs, active)
        total = self._total()
        if seconds is not None and not self.told_plan:
            self.told_plan = True
            self.note(self._plan(seconds, total))
        if self.live:
            self.live.update(self._drawn(configurations, runs, active, seconds, total))

    def _plan(self, seconds: float, total: int | None) -> str:
        if total is None:
            return f"plan: a run takes about {duration(seconds)}; the sweep has no end: Ctrl+C ends it"
        whole = seconds * total / self.workers
        at_once = f", {self.workers} at once" if self.workers > 1 else ""
        return f"plan: {total} runs of about {duration(seconds)}{at_once}: about {duration(whole)} in all"

    def _total(self) -> int | None:
        """Runs that there will be; None where the sweep has no end."""
        seeds = len(self.spec.seeds.values) if self.spec.seeds else 1
        ends = [self.spec.run_cap] if self.spec.run_cap else []
        ends += [grid_size(self.spec)] if self.spec.method == "grid" else []
        return min(ends) * seeds if ends else None

    def _seconds_a_run(self, runs: Sequence[Run], active: Sequence[Active]) -> float | None:
        """That a run takes: the mean of those that ended, or what the first one's rate says."""
        ended = [run.seconds for run in runs if run.state == "ended"]
        if ended:
            return sum(ended) / len(ended)
        lengths = [seconds for each in active if (seconds := self._forecast(each)) is not None]
        return sum(lengths) / len(lengths) if lengths else None

    def _forecast(self, active: Active) -> float | None:
        """The seconds that a run will take, by its rate since it first logged: it read its data before."""
        share = self.share(active)
        if not share:
            return None
        since, then = self.firsts.setdefault(active.run.name, (active.seconds, share))
        if share < then + EARLY:
            return None
        return since + (1 - then) * (active.seconds - since) / (share - then)

    def share(self, active: Active) -> float | None:
        """How far a run is, where it is known how many steps it has."""
        if active.run.name not in self.lengths:
            length = steps_of(active.folder)
            if length is None:
                return None
            self.lengths[active.run.name] = length
        length = self.lengths[active.run.name]
        return min(1.0, active.history.last_step / length) if length > 0 else None

    def _drawn(
        self,
        configurations: Sequence[Configuration],
        runs: Sequence[Run],
        active: Sequence[Active],
        seconds: float | None,
        total: int | None,
    ) -> Group:
        ended = sum(run.state in ENDED for run in runs)
        bar = Progress(
            TextColumn(self.spec.name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
        )
        bar.add_task("", total=total, completed=ended, left=self._left(runs, active, seconds, total))
        table = Table(box=None, pad_edge=False)
        metric = self.spec.metric.name if self.spec.metric else ""
        for name in ("run", "state", *(p.path[-1].split(".")[-1] for p in self.spec.searched), metric, ""):
            table.add_column(name)
        live = {each.run.name: each for each in active}
        shown = [(each, run) for each in configurations for run in each.runs if run.state != "waiting"]
        for configuration, run in shown[-LAST:]:
            current = live.get(run.name)
            values = [short(configuration.values[each.name]) for each in self.spec.searched]
            logged = (
                current.history.values[-1:] if current else [run.metric] if run.metric is not None else []
            )
            share = self.share(current) if current else None
            note = f"{share:.0%}" if share is not None else run.line
            state = "running" if current else "interrupted" if run.state == "running" else run.state
            table.add_row(run.name, state, *values, *([f"{logged[0]:.4f}"] if logged else ["–"]), note)
        return Group(table, bar)

    def _left(
        self, runs: Sequence[Run], active: Sequence[Active], seconds: float | None, total: int | None
    ) -> str:
        if seconds is None or total is None:
            return "" if total else "no end"
        begun = sum(min(seconds, each.seconds) for each in active)
        ended = sum(run.state in ENDED for run in runs)
        left = max(0.0, seconds * (total - ended) - begun) / self.workers
        return f"about {duration(left)} left"


def steps_of(folder: Path) -> int | None:
    """The steps that a run of `trivium fit` has in all, as its metrics count them; None where it has not
    begun, or is another program's."""
    try:
        return int((folder / LENGTH).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
