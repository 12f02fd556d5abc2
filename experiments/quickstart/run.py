"""`trivium quickstart`: fetch data, train a tokenizer, run the four stages through the CLI, judge, report."""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from rich.console import Console

from experiments.atomic import write_text
from experiments.cli.user_errors import UserError
from experiments.quickstart.stages import BUDGETS, FOLDER, run_stage, trivium

STATE = "quickstart.json"


def main(argv: list[str]) -> int:
    """Runs `trivium quickstart`."""
    parser = argparse.ArgumentParser(
        prog="trivium quickstart",
        description="Takes a small language model through pretraining, SFT, a reward model and PPO on real "
        f"data, and writes {FOLDER}/report.html.",
    )
    parser.add_argument("--minutes", type=float, default=10, help="scales the training budget (10)")
    parser.add_argument("--resume", action="store_true", help="go on where the last run stopped")
    parser.add_argument("--overwrite", action="store_true", help="begin again where there is a run already")
    options = parser.parse_args(argv)
    if not options.minutes > 0:
        raise UserError(f"--minutes is {options.minutes}: give a number above 0")
    quickstart(options.minutes, options.resume, options.overwrite)
    return 0


def quickstart(minutes: float, resume: bool, overwrite: bool) -> None:
    """Runs what is not done yet and writes the report.

    Raises:
        UserError: there is a run already and neither `resume` nor `overwrite` is set.
    """
    from experiments.quickstart.data import build
    from experiments.quickstart.fetch import default_cache

    state = State.begin(minutes, resume, overwrite)
    console = Console()
    console.rule("[bold]Data")
    state.timed("data", lambda: build(default_cache(), FOLDER / "data"))
    corpus = FOLDER / "data/corpus"
    files = [str(corpus / f"{name}.train.jsonl") for name in ("english", "chinese", "code", "maths")]
    options = ("--vocab-size=4096", "--max-bytes=8000000", f"--output={FOLDER / 'tokenizer'}")
    state.timed("tokenizer", lambda: trivium("tokenizer", *options, *files))
    for budget in BUDGETS:
        console.rule(f"[bold]{budget.title}")
        state.timed(budget.name, partial(run_stage, budget, state.minutes))
    console.rule("[bold]Report")
    from experiments.quickstart.collect import collect
    from experiments.quickstart.page import verdict

    state.seconds.pop("evaluation", None)  # measured again by a run that goes on
    state.done = [name for name in state.done if name != "evaluation"]
    report = state.timed("evaluation", lambda: collect(state.seconds, state.minutes))
    console.print(f"report: {FOLDER / 'report.html'} and {FOLDER / 'report.json'}")
    for bar in report["bars"]:
        sign = "≥" if bar["at_least"] else "≤"
        console.print(f"{verdict(bar):6} {bar['name']}: {bar['value']:.3f} ({sign} {bar['bar']:g})")
    console.print(f"talk to it: trivium chat {FOLDER / 'ppo' / 'export'}")


@dataclass
class State:
    """What is done and how long it took over all attempts, kept in a file so that a run can go on."""

    minutes: float  # the budget
    seconds: dict[str, float] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, minutes: float, resume: bool, overwrite: bool) -> "State":
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
        state = cls(minutes)
        state.save()
        return state

    def save(self) -> None:
        write_text(FOLDER / STATE, json.dumps(asdict(self), indent=2))

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Does a piece of work and adds its seconds, unless it is done already; an interrupted one counts."""
        if name in self.done and (FOLDER / name).exists():
            Console().print(f"{name}: done already")
            return None
        start, before = time.perf_counter(), self.seconds.get(name, 0.0)
        try:
            result = work()
            self.done.append(name)
        finally:
            self.seconds[name] = round(before + time.perf_counter() - start, 1)
            self.save()
        return result
