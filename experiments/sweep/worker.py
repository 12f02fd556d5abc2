"""Works a sweep off: begins runs, watches what they log, stops them, and writes down what became of them."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from experiments.cli.user_errors import UserError
from experiments.plan.units import nearest
from experiments.sweep.command import expanded, is_fit, nested
from experiments.sweep.hyperband import falls_behind
from experiments.sweep.metrics import History, changed, history
from experiments.sweep.process import (
    AS_JSON,
    begin,
    begin_anew,
    cores_of,
    environment_of,
    is_looked_after,
    last_line,
    share,
    tell,
    this_command,
)
from experiments.sweep.spec import Spec
from experiments.sweep.study import ENDED, RUNNING, RUNS, Claim, Configuration, Run, Study, this_host

POLL = 0.25  # seconds between looks at the runs
KILL_AFTER = 120.0  # seconds that a run has to save and end before it is killed
EQUAL_FAILURES = 3


class Watcher(Protocol):
    """Who is told how a sweep goes."""

    def progress(self, configurations: list[Configuration], active: "list[Active]") -> None:
        """Called at each look."""

    def ended(self, run: Run, values: Mapping[str, Any]) -> None:
        """A run has come to its end."""

    def note(self, line: str) -> None:
        """Something else to know."""


class Active:
    """A run that this process looks after."""

    def __init__(self, claim: Claim, process: subprocess.Popen, folder: Path, place: int):
        self.claim, self.process, self.folder, self.place = claim, process, folder, place
        self.run = claim.run
        self.began = time.monotonic()
        self.history = History([], [], (), 0)
        self.seen: tuple = ()
        self.stopping = ""
        """why it was told to end: hyperband or interrupted"""
        self.told = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def stop(self, why: str) -> None:
        """Tells the run to save and end; a second time, later than it should need, ends it."""
        if not self.stopping:
            self.stopping, self.told = why, time.monotonic()
            tell(self.process.pid, signal.SIGTERM)
        elif time.monotonic() - self.told > KILL_AFTER:
            tell(self.process.pid, signal.SIGKILL)


class Interruption:
    """Counts how often this process was asked to end."""

    def __init__(self) -> None:
        self.count = 0
        self.signal: int = signal.SIGINT

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Takes SIGINT and SIGTERM for as long as it lasts; only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self._ask) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _ask(self, signum: int, frame: Any) -> None:
        self.count, self.signal = self.count + 1, signum


class Outcome(NamedTuple):
    """How a command's work ended."""

    interrupted: int | None
    """the signal that ended it"""
    elsewhere: int
    """runs that other commands are at"""


class Worker:
    """Works at a sweep, several runs at a time, until nothing is left to begin or it is told to end."""

    def __init__(self, study: Study, workers: int, watcher: Watcher, identity: str):
        self.study, self.workers, self.watcher, self.identity = study, workers, watcher, identity
        self.spec: Spec = study.spec
        self.active: list[Active] = []
        self.failures: dict[int, str] = {}
        self.histories: dict[str, tuple[tuple, History]] = {}
        self.interruption = Interruption()
        self.hastened: set[str] = set()

    def work(self) -> Outcome:
        """Does what there is to do.

        Raises:
            UserError: runs fail three times in the same way, or do not log the metric.
        """
        with self.interruption.heard():
            try:
                return self._work()
            except BaseException:
                for active in self.active:
                    active.stop("interrupted")
                while any(active.process.poll() is None for active in self.active):
                    if self.interruption.count > 1:
                        self._end_all(signal.SIGKILL)
                    time.sleep(POLL)
                raise

    def _work(self) -> Outcome:
        orphans_since = time.monotonic()
        configurations = self.study.configurations()
        told = 0
        while True:
            if self.interruption.count > told:
                told = self.interruption.count
                self._interrupt(told)
            if not told:
                more = not self._target_reached(configurations)
                while len(self.active) < self.workers and (claim := self.study.claim(more)):
                    self._begin(claim)
                    configurations = self.study.configurations()
            ended = [active for active in self.active if active.process.poll() is not None]
            for active in self.active:
                self._look(active, configurations)
            for active in ended:
                self._end(active)
            if ended:
                configurations = self.study.configurations()
            self.watcher.progress(configurations, self.active)
            if ended:
                continue
            if not self.active:
                others = self._others(configurations)
                orphans = [run for run in others if not is_looked_after(run)]
                if told or not orphans:
                    break
                self._hasten(orphans, time.monotonic() - orphans_since)
                configurations = self.study.configurations()
            time.sleep(POLL)
        return Outcome(self.interruption.signal if told else None, len(self._others(configurations)))

    def _hasten(self, orphans: list[Run], seconds: float) -> None:
        """Lets runs end whose command was killed; they have been told to already where the system can."""
        for run in orphans:
            if run.process > 1 and (run.name not in self.hastened or seconds > KILL_AFTER):
                self.hastened.add(run.name)
                tell(run.process, signal.SIGKILL if seconds > KILL_AFTER else signal.SIGTERM)

    def _others(self, configurations: list[Configuration]) -> list[Run]:
        """Runs that are under way, held by processes that are not this one's."""
        runs = [run for each in configurations for run in each.runs if run.state == RUNNING]
        return [run for run in runs if self.study.held(run)]

    def _begin(self, claim: Claim) -> None:
        run, folder = claim.run, self.study.folder / RUNS / claim.run.name
        paths = {each.path: claim.values[each.name] for each in self.spec.parameters}
        options = nested(paths)
        if self.spec.seeds:
            options[self.spec.seeds.parameter] = run.seed
        if is_fit(self.spec.command, self.spec.program):
            options["run"] = str(folder)
        begun = claim.begun or folder.exists()
        goes_on = begun and self._goes_on(folder)
        if begun and not goes_on:
            begin_anew(folder)
        if goes_on and "run" in options:
            options["ckpt_path"] = "newest"
        folder.mkdir(parents=True, exist_ok=True)
        words = expanded(self.spec.command, self.spec.program, options, folder / AS_JSON)
        taken = {active.place for active in self.active}
        place = next(place for place in range(self.workers) if place not in taken)
        shared = share(self.workers, place)
        for name, value in (("WANDB_PROJECT", self.spec.project), ("WANDB_ENTITY", self.spec.entity)):
            if value and name not in os.environ:
                shared[name] = value
        group, id = self.spec.name, f"{self.identity}-{run.name}"
        try:
            environment = environment_of(folder, group, id, options, shared)
            process = begin(words, folder, environment, claim.lock, cores_of(self.workers, place))
        except OSError as error:
            os.close(claim.lock)
            raise UserError(f"program: {words[0]} cannot be started: {error.strerror}") from error
        active = Active(claim, process, folder, place)
        active.run = run._replace(
            state=RUNNING, host=this_host(), process=process.pid, command=this_command(), line=""
        )
        self.active.append(active)
        self.study.record(active.run)

    def _goes_on(self, folder: Path) -> bool:
        """Whether an interrupted run can go on from where it was; a program of a user's own sees to that
        itself."""
        if not is_fit(self.spec.command, self.spec.program):
            return True
        from strategies.checkpoints.intact import newest

        return newest(folder / "checkpoints")[0] is not None

    def _look(self, active: Active, configurations: list[Configuration]) -> None:
        """Reads what a run has logged, and stops it where it falls behind."""
        if active.stopping:
            active.stop(active.stopping)
        metric = self.spec.metric
        if metric is None or (now := changed(active.folder)) == active.seen:
            return
        active.seen, before = now, len(active.history.values)
        active.history = history(active.folder, metric.name)
        early = self.spec.early_terminate
        if early is None or active.stopping or len(active.history.values) == before:
            return
        sign = metric.sign
        runs = [[sign * v for v in each.values] for each in self._histories(configurations)]
        if falls_behind(early, [sign * value for value in active.history.values], runs):
            active.stop("hyperband")

    def _histories(self, configurations: list[Configuration]) -> list[History]:
        """Of all runs that were begun, wherever they run."""
        assert self.spec.metric is not None
        found = []
        for run in (run for each in configurations for run in each.runs if run.state != "waiting"):
            folder = self.study.folder / RUNS / run.name
            known = self.histories.get(run.name)
            if known is None or known[0] != changed(folder):
                known = self.histories[run.name] = changed(folder), history(folder, self.spec.metric.name)
            found.append(known[1])
        return found

    def _end(self, active: Active) -> None:
        """Writes down what became of a run whose process has ended."""
        self.active.remove(active)
        metric, code = self.spec.metric, active.process.returncode
        run = active.run._replace(seconds=active.run.seconds + active.seconds)
        if metric is not None:
            logged = history(active.folder, metric.name)
            values = sorted(logged.values, key=lambda value: metric.sign * value)
            if values:
                run = run._replace(metric=values[0], worst=values[-1], latest=logged.values[-1])
            run = run._replace(steps=logged.last_step)
            if code == 0 and not values and not active.stopping:
                os.close(active.claim.lock)
                self.study.record(run._replace(state="failed", line=f"{metric.name} was never logged"))
                raise UserError(_never_logged(active.folder, metric.name, logged.names))
        if active.stopping == "hyperband" and code != 0:
            run = run._replace(state="stopped")
        elif active.stopping and code != 0:
            run = run._replace(state=RUNNING)  # by nobody: interrupted
        elif code == 0:
            run = run._replace(state="ended")
        else:
            run = run._replace(state="failed", line=_why(active.folder, code))
        self.study.record(run)
        os.close(active.claim.lock)
        if run.state in ENDED:
            self.watcher.ended(run, active.claim.values)
            self._count_failures(run, active.folder)

    def _count_failures(self, run: Run, folder: Path) -> None:
        """Ends the sweep where its runs fail one after the other in the same way."""
        if run.state != "failed":
            self.failures.clear()
            return
        kind = _kind(run, folder)
        if any(before != kind for before in self.failures.values()):
            self.failures.clear()
        self.failures[run.configuration] = kind  # its seeds count once
        if len(self.failures) >= EQUAL_FAILURES:
            raise UserError(
                f"{EQUAL_FAILURES} runs in a row have failed in the same way: {run.line} (all of it in "
                f"{folder}/log.txt): mend that, and give the same command again with --retry"
            )

    def _target_reached(self, configurations: list[Configuration]) -> bool:
        metric = self.spec.metric
        if metric is None or metric.target is None:
            return False
        best = [run.metric for each in configurations for run in each.runs if run.metric is not None]
        best += [value for active in self.active for value in active.history.values]
        return any(metric.sign * value <= metric.sign * metric.target for value in best)

    def _interrupt(self, times: int) -> None:
        if times == 1:
            if self.active:
                runs = f"{len(self.active)} run{'s' * (len(self.active) > 1)}"
                again = "Ctrl+C again ends them at once"
                self.watcher.note(f"stopping {runs}, each after a checkpoint; {again}")
            for active in self.active:
                active.stop("interrupted")
        else:
            self._end_all(signal.SIGKILL)

    def _end_all(self, what: signal.Signals) -> None:
        for active in self.active:
            active.stopping = active.stopping or "interrupted"
            tell(active.process.pid, what)


def _never_logged(folder: Path, name: str, names: tuple[str, ...]) -> str:
    known = [each for each in names if not each.startswith("_")]
    if known:
        return f"metric.name: {folder.name} has logged no {name}: {nearest(name, known)}"
    return (
        f"metric.name: {folder.name} has ended and logged nothing: a run of `trivium fit` does so by itself, "
        "a program of your own logs it with wandb.log, or writes the columns step and "
        f"{name} to metrics.csv in the folder that TRIVIUM_SWEEP_RUN names"
    )


def _why(folder: Path, code: int) -> str:
    line = last_line(folder)
    if code < 0:
        name = signal.Signals(-code).name
        hint = ": its memory may have run out" if code == -signal.SIGKILL else ""
        return f"ended by {name}{hint}"
    return line or f"ended with exit code {code} and said nothing"


def _kind(run: Run, folder: Path) -> str:
    """What a failure says, but for the run's own name and numbers."""
    return re.sub(r"\d+(\.\d+)?(e-?\d+)?", "#", run.line.replace(run.name, "").replace(str(folder), ""))
