"""`trivium quickstart`: fetch data, train a tokenizer, run the four stages through the CLI, judge, report."""

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import psutil
from rich.console import Console

from experiments.atomic import write_text
from experiments.cli.arguments import ArgumentParser
from experiments.cli.user_errors import UserError
from experiments.quickstart.pace import BUDGETS, StageBudget, choose, fixed_steps, least_minutes
from experiments.quickstart.stages import FOLDER, measure, train, trivium

STATE = "quickstart.json"
SHORTEST, LONGEST = 10.0, 20.0
"""minutes, where none are given"""


def main(argv: list[str]) -> int:
    """Runs `trivium quickstart`."""
    parser = ArgumentParser(
        prog="trivium quickstart",
        description="Takes a small language model through pretraining, SFT, a reward model and PPO on real "
        f"data, and writes {FOLDER}/report.html.",
    )
    minutes = "how long all of it takes; how many steps fit in is measured on this machine"
    unset = f"without it: {SHORTEST:g}, or on a slower machine as many as its bars want, up to {LONGEST:g}"
    parser.add_argument("--minutes", type=float, help=f"{minutes} ({unset})")
    number = "of the four stages, to repeat a run exactly: as PRETRAIN,SFT,REWARD,PPO; instead of --minutes"
    parser.add_argument("--steps", help=number)
    parser.add_argument("--resume", action="store_true", help="go on where the last run stopped")
    parser.add_argument("--overwrite", action="store_true", help="begin again where there is a run already")
    options = parser.parse_args(argv)
    if options.minutes is not None and not options.minutes > 0:
        raise UserError(f"--minutes is {options.minutes}: give a number above 0")
    steps = {} if options.steps is None else fixed_steps(options.steps)
    quickstart(options.minutes, steps, options.resume, options.overwrite)
    return 0


def quickstart(minutes: float | None, steps: dict[str, int], resume: bool, overwrite: bool) -> None:
    """Runs what is not done yet and writes the report. Steps that are not given follow from the minutes.

    Raises:
        UserError: there is a run already and neither `resume` nor `overwrite` is set.
    """
    from experiments.quickstart.data import build
    from experiments.quickstart.fetch import default_cache

    state = State.begin(minutes, steps, resume, overwrite)
    console = Console()
    console.rule("[bold]Data")
    state.timed("data", lambda: build(default_cache(), FOLDER / "data"))
    corpus = FOLDER / "data/corpus"
    files = [str(corpus / f"{name}.train.jsonl") for name in ("english", "chinese", "code", "maths")]
    options = ("--vocab-size=4096", "--max-bytes=8000000", f"--output={FOLDER / 'tokenizer'}", "--overwrite")
    state.timed("tokenizer", lambda: trivium("tokenizer", *options, *files))
    for budget in BUDGETS:
        console.rule(f"[bold]{budget.title}")
        state.timed(budget.name, partial(run_stage, budget, state))
    console.rule("[bold]Report")
    from experiments.quickstart.collect import collect
    from experiments.quickstart.page import verdict

    state.seconds.pop("evaluation", None)  # measured again by a run that goes on
    state.done = [name for name in state.done if name != "evaluation"]
    report = state.timed("evaluation", lambda: collect(asdict(state)))
    console.print(f"report: {FOLDER / 'report.html'} and {FOLDER / 'report.json'}")
    for bar in report["bars"]:
        sign = "≥" if bar["at_least"] else "≤"
        console.print(f"{verdict(bar):6} {bar['name']}: {bar['value']:.3f} ({sign} {bar['bar']:g})")
    console.print(f"talk to it: trivium chat {FOLDER / 'ppo' / 'export'}")


def run_stage(budget: StageBudget, state: "State") -> None:
    """Trains a stage for the steps that fit into the minutes, which its first ones tell, unless they are
    known already."""
    name, console = budget.name, Console()
    if name not in state.steps:
        state.pace[name] = measure(budget)
        least = math.ceil(least_minutes(state.pace, state.spent()))
        if state.stretches:
            state.minutes = min(max(least, state.minutes), LONGEST)
        left = 60 * state.minutes - state.spent()
        state.steps[name] = choose(budget, state.pace, left)
        state.save()
        text = f"{name}: {state.steps[name]} steps, at {state.pace[name]:.3g} s each on this machine"
        console.print(f"{text}, so that all takes {state.minutes:g} minutes", highlight=False)
        if state.steps[name] < budget.enough:
            console.print(
                f"{name}: its bars want {budget.enough} steps or more; all bars are expected to be met from "
                f"`--minutes {least}` on",
                highlight=False,
            )
    train(name, state.steps[name])


@dataclass
class State:
    """What is done and how long it took over all attempts, kept in a file so that a run can go on."""

    minutes: float  # the budget
    seconds: dict[str, float] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)  # of each stage, once they are chosen
    pace: dict[str, float] = field(default_factory=dict)  # seconds of a step, where it was measured
    stretches: bool = False  # the budget, to what the bars want on this machine

    @classmethod
    def begin(cls, minutes: float | None, steps: dict[str, int], resume: bool, overwrite: bool) -> "State":
        """The state of the run to go on with, or a new one."""
        file = FOLDER / STATE
        if file.is_file() and resume:
            return cls(**json.loads(file.read_text()))
        if file.is_file() and not overwrite:
            raise UserError(
                f"{FOLDER} holds a quickstart already: go on with `trivium quickstart --resume`, or begin "
                "again with `--overwrite`"
            )
        for budget in BUDGETS:
            shutil.rmtree(FOLDER / budget.name, ignore_errors=True)
        # the program's own start is part of the minutes
        start = {"start": round(time.time() - psutil.Process().create_time(), 1)}
        state = cls(minutes or SHORTEST, start, steps=steps, stretches=minutes is None)
        state.save()
        return state

    def save(self) -> None:
        write_text(FOLDER / STATE, json.dumps(asdict(self), indent=2))

    def __post_init__(self) -> None:
        self.since = time.perf_counter()  # when what is being done was begun, on the clock

    def spent(self) -> float:
        """Seconds so far, over all attempts."""
        return sum(self.seconds.values()) + time.perf_counter() - self.since

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Does a piece of work and adds its seconds, unless it is done already; an interrupted one counts."""
        if name in self.done and (FOLDER / name).exists():
            Console().print(f"{name}: done already")
            return None
        start, before = time.perf_counter(), self.seconds.get(name, 0.0)
        self.since = start
        try:
            result = work()
            self.done.append(name)
        finally:
            self.seconds[name] = round(before + time.perf_counter() - start, 1)
            self.save()
        return result
