"""The study of a sweep: optuna's, in SQLite in the sweep's folder, with what has become of each run.

A kill at any moment leaves SQLite whole, which a journal file with half a line is not. SQLite alone is not
safe on a network's file system, so that commands that share a folder come one after the other: each access
opens the file anew under the folder's lock, which the system gives free when its holder ends, however that
is. A run is held by a lock of its own, which its process inherits: what is called running and is held by
nobody was interrupted.
"""

import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cli.user_errors import UserError
from experiments.sweep.sampling import Tried, next_configuration
from experiments.sweep.spec import Spec

DATABASE, LOCK, LOCKS, RUNS = "study.db", "study.lock", "locks", "runs"
BUSY = 60  # seconds that SQLite waits for another process
ENDED = ("ended", "stopped", "failed")
WAITING, RUNNING = "waiting", "running"


class Run(NamedTuple):
    """One run of a sweep: a configuration with one of its seeds."""

    name: str
    """of its folder"""
    configuration: int
    seed: int | None
    state: str = WAITING
    """waiting (for ever, where another seed has failed), running, ended, stopped (early) or failed"""
    metric: float | None = None
    """its best value; None where it has none"""
    latest: float | None = None
    worst: float | None = None
    line: str = ""
    """why it failed"""
    seconds: float = 0.0
    """that it took, all its attempts together"""
    steps: int = 0
    host: str = ""
    process: int = 0
    """its process group on that host"""
    command: tuple[int, float] = (0, 0.0)
    """the process that looks after it: its id, and when it began"""


class Configuration(NamedTuple):
    """What is tried, and its runs."""

    number: int
    places: Mapping[str, Any]
    values: Mapping[str, Any]
    runs: tuple[Run, ...]

    @property
    def metric(self) -> float | None:
        """The mean over seeds; None until all of them have one."""
        metrics = [run.metric for run in self.runs if run.state in ("ended", "stopped")]
        known = [metric for metric in metrics if metric is not None]
        return sum(known) / len(known) if len(known) == len(self.runs) else None

    @property
    def state(self) -> str:
        states = {run.state for run in self.runs}
        for state in ("failed", "running", "waiting", "stopped"):
            if state in states:
                return "running" if state == "waiting" and len(states) > 1 else state
        return "ended"


class Claim(NamedTuple):
    """A run that this process has taken."""

    run: Run
    values: Mapping[str, Any]
    lock: int
    """descriptor of the lock that holds it"""
    begun: bool
    """whether it was begun before"""


class Study:
    """The study of a sweep in its folder, which other processes may share."""

    def __init__(self, folder: Path, spec: Spec, seed: int = 0):
        self.folder, self.spec, self.seed = folder, spec, seed
        (folder / LOCKS).mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._storage = self._opened()
            self._id: int = self._storage.get_all_studies()[0]._study_id  # it has no public name

    def configurations(self) -> list[Configuration]:
        """Everything that was begun so far."""
        with self._locked():
            return self._read()

    def record(self, run: Run) -> None:
        """Writes down what has become of a run."""
        with self._locked():
            trial = self._trial(run.configuration)
            has_failed = self._storage.get_trial(trial).state.is_finished()
            if has_failed:  # and was tried again: optuna ends a trial for good
                self._storage.set_study_user_attr(self._id, _key(run.name), run._asdict())
                return
            self._storage.set_trial_user_attr(trial, _key(run.name), run._asdict())
            self._settle(self._read()[run.configuration])

    def retry(self) -> None:
        """Lets each run that has failed begin again, from its checkpoint where it left one."""
        with self._locked():
            for configuration in self._read():
                for run in configuration.runs:
                    if run.state == "failed":
                        again = Run(run.name, run.configuration, run.seed, seconds=run.seconds)
                        self._storage.set_study_user_attr(self._id, _key(run.name), again._asdict())

    def _settle(self, configuration: Configuration) -> None:
        """Tells optuna what has become of a configuration whose runs have all ended."""
        from optuna.trial import TrialState

        if any(run.state == RUNNING for run in configuration.runs) or configuration.state in (
            RUNNING,
            WAITING,
        ):
            return
        metric = configuration.metric
        states = {"failed": TrialState.FAIL, "stopped": TrialState.PRUNED}
        state = states.get(configuration.state, TrialState.COMPLETE)
        values = None if metric is None or state == TrialState.FAIL else [metric]
        state = TrialState.FAIL if values is None else state
        self._storage.set_trial_state_values(self._trial(configuration.number), state, values)

    def _trial(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def claim(self, more: bool) -> Claim | None:
        """Takes a run: one that was interrupted, one that waits, or the first of a new configuration.

        Args:
            more: whether a new configuration may begin.
        """
        with self._locked():
            configurations = self._read()
            for state in (RUNNING, WAITING):
                for configuration in configurations:
                    runs = [run for run in configuration.runs if run.state == state]
                    for run in runs if configuration.state != "failed" or state == RUNNING else ():
                        if (lock := self._take(run.name)) is not None:
                            return Claim(run, configuration.values, lock, state == RUNNING)
            cap = self.spec.run_cap
            if not more or (cap is not None and len(configurations) >= cap):
                return None
            begun = self._begin(configurations)
            if begun is None:
                return None
            lock = self._take(begun.runs[0].name)
            assert lock is not None  # nobody else knows of it
            return Claim(begun.runs[0], begun.values, lock, False)

    def held(self, run: Run) -> bool:
        """Whether a process holds a run: its own, or the one that looks after it."""
        lock = self._take(run.name)
        if lock is not None:
            os.close(lock)
        return lock is None

    def _begin(self, configurations: list[Configuration]) -> Configuration | None:
        """Adds a configuration with its runs; None where there is no other."""
        from optuna.trial import TrialState, create_trial

        from experiments.sweep.distributions import searched

        chosen = next_configuration(self.spec, tried(self.spec, configurations), self.seed)
        if chosen is None:
            return None
        number = len(configurations)
        seeds = self.spec.seeds.values if self.spec.seeds else (None,)
        runs = [
            Run(f"{number:04d}" + ("" if seed is None else f"-seed{seed}"), number, seed) for seed in seeds
        ]
        space = {each.name: searched(each) for each in self.spec.searched}
        attributes = {"values": chosen.values, **{_key(run.name): run._asdict() for run in runs}}
        trial = create_trial(
            state=TrialState.RUNNING, params=dict(chosen.places), distributions=space, user_attrs=attributes
        )
        self._storage.create_new_trial(self._id, template_trial=trial)
        return Configuration(number, chosen.places, chosen.values, tuple(runs))

    def _read(self) -> list[Configuration]:
        configurations = []
        retried = self._storage.get_study_user_attrs(self._id)
        for trial in self._storage.get_all_trials(self._id):
            attributes = {**trial.user_attrs}
            attributes |= {key: retried[key] for key in attributes.keys() & retried.keys()}
            runs = [_run(value) for key, value in attributes.items() if key.startswith(_key(""))]
            runs.sort(key=lambda run: run.name)
            values = attributes["values"]
            configurations.append(Configuration(trial.number, trial.params, values, tuple(runs)))
        return configurations

    def _opened(self) -> Any:
        import optuna
        from optuna.study import StudyDirection
        from sqlalchemy.pool import NullPool

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        options = {"connect_args": {"timeout": BUSY}, "poolclass": NullPool}
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.folder / DATABASE}", engine_kwargs=options)
        if not storage.get_all_studies():
            metric = self.spec.metric
            maximize = metric is not None and metric.goal == "maximize"
            direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
            optuna.create_study(storage=storage, study_name=self.spec.name, direction=direction)
        return storage

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.folder / LOCK, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise UserError(
                    f"output: {self.folder} lies on a file system without locks ({error.strerror}), so that "
                    "its study could be damaged: give an --output on another one"
                ) from error
            yield

    def _take(self, name: str) -> int | None:
        """The lock of a run; None where another process has it."""
        lock = os.open(self.folder / LOCKS / name, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock


def tried(spec: Spec, configurations: list[Configuration]) -> list[Tried]:
    """What a sampler learns from: the mean metric of a configuration, and for one with a failed run what
    `metric.impute` says."""
    return [
        Tried(each.places, each.values, _objective(spec, each, configurations)) for each in configurations
    ]


def _objective(spec: Spec, configuration: Configuration, all_of_them: list[Configuration]) -> float | None:
    if spec.metric is None:
        return None
    sign = spec.metric.sign
    if configuration.metric is not None:
        return sign * configuration.metric
    if configuration.state != "failed":
        return None
    own = [run for run in configuration.runs if run.metric is not None]
    if spec.metric.impute == "worst":
        worst = [run.worst for each in all_of_them for run in each.runs if run.state in ENDED]
        return max((sign * value for value in worst if value is not None), default=0.0)
    values = [run.metric if spec.metric.impute == "best" else run.latest for run in own]
    known = [value for value in values if value is not None]
    return sign * sum(known) / len(known) if known else 0.0


def this_host() -> str:
    return socket.gethostname()


def _key(name: str) -> str:
    return f"run {name}"


def _run(fields: Mapping[str, Any]) -> Run:
    return Run(**{**fields, "command": tuple(fields["command"])})
