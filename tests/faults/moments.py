"""The moment at which a rank dies: a place in its training, validating, sampling or writing, found by
counting what the process does, so that the same moment comes again in every run."""

import itertools
import json
import os
import re
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

COMPUTING = ("training", "validating", "sampling")
WRITES = os.O_WRONLY | os.O_RDWR
FILE_EVENTS = {
    **{
        "open": 0,
        "os.rename": 0,
        "os.remove": 0,
        "os.rmdir": 0,
        "os.mkdir": 0,
        "os.link": 1,
        "os.symlink": 1,
    },
    "trivium.fsync": 0,
}
"""events of Python's audit → which of their arguments is the path"""
REMOVALS = ("os.remove", "os.rmdir")


class Moment(NamedTuple):
    """When a rank gets a signal; it dies by SIGKILL.

    `training`, `validating`, `sampling`: before the `number`-th call of a function, in Python or C, of those
    that it makes in that phase. `saving`, `pruning`, `exporting`, `beginning`: before the `number`-th thing
    that it does to the run's files. `bytes`: in the write that would make a file of the `number`-th saving
    (−1: of the export) longer than `size` bytes; the system's own signal for that ends it as abruptly. With
    `signal` 0 that write fails, as on a full disk.
    """

    phase: str
    number: int
    size: int = 0
    signal: int = signal.SIGKILL


class Watch:
    """Counts what a rank does in each phase and kills it at a moment.

    Args:
        run: the run's folder.
        log: a file that tells what the rank has done: a JSON line for a beginning and for each saving that is
            over, with the step, and after the export what was counted.
        moment: when to die; None to go on to the end.
        counts: whether to count all phases, which takes time.
    """

    def __init__(self, run: Path, log: Path, moment: Moment | None = None, counts: bool = False):
        self.run, self.log, self.moment = run, log, moment
        self.profiled = [phase for phase in COMPUTING if counts or (moment and moment.phase == phase)]
        self.phases: list[str] = []
        self.counts: Counter[str] = Counter()
        self.files: list[tuple[str, str]] = []  # phase and what was done to which file
        self.savings = 0

    def __call__(self) -> None:
        """Begins to watch, in the process itself."""
        import lightning as L
        from lightning.pytorch.callbacks import model_checkpoint
        from lightning.pytorch.loops import evaluation_loop, fit_loop

        import modules.ppo as ppo
        from experiments.callbacks import results

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        minute = itertools.count(1)  # every look at the clock is a minute later
        model_checkpoint.time = SimpleNamespace(monotonic=lambda: 60.0 * next(minute))
        # Lightning's loops have no hook for a callback that would see all that happens within them
        self._within(fit_loop._FitLoop, "run", "training", before=self._begins)
        self._within(evaluation_loop._EvaluationLoop, "run", "validating")
        self._within(ppo.PPOModule, "sample", "sampling")
        self._within(L.Trainer, "save_checkpoint", "saving", before=self._saves, after=self._saved)
        self._within(results.Export, "on_fit_end", "exporting", self._exports, self._exported)
        fsync = os.fsync

        def audited_fsync(file: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            sys.audit("trivium.fsync", os.readlink(f"/proc/self/fd/{number}"))
            fsync(file)

        os.fsync = audited_fsync
        sys.addaudithook(self._audit)

    def _within(
        self, owner: Any, name: str, phase: str, before: Callable = print, after: Callable | None = None
    ) -> None:
        """Makes a method of a class a phase of its own."""
        method = getattr(owner, name)

        def wrapped(this: Any, *args: Any, **kwargs: Any) -> Any:
            if before is not print:
                before(this)
            with self._phase(phase):
                result = method(this, *args, **kwargs)
            if after is not None:
                after(this)
            return result

        setattr(owner, name, wrapped)

    @contextmanager
    def _phase(self, phase: str) -> Iterator[None]:
        self.phases.append(phase)
        sys.setprofile(self._count if phase in self.profiled else None)
        try:
            yield
        finally:
            self.phases.pop()
            sys.setprofile(self._count if self.phases and self.phases[-1] in self.profiled else None)

    def _count(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call") and self.phases:
            self._happens(self.phases[-1])

    def _audit(self, event: str, arguments: tuple) -> None:
        if event not in FILE_EVENTS:
            return
        if event == "open" and not (arguments[2] or 0) & WRITES:
            return
        path = arguments[FILE_EVENTS[event]]
        if not isinstance(path, str | os.PathLike):
            return
        path = os.path.abspath(path)
        if not path.startswith(f"{self.run}/"):
            return
        name = os.path.relpath(path, self.run)
        phase = self.phases[-1] if self.phases else "beginning"
        if name.startswith("checkpoints"):
            phase = "pruning" if event in REMOVALS else "saving"
        elif name.startswith("export"):
            phase = "exporting"
        elif phase != "beginning":
            return
        self.files.append((phase, f"{event} {re.sub('[0-9]+', 'N', name)}"))
        self._happens(phase)

    def _happens(self, phase: str) -> None:
        self.counts[phase] += 1
        if self.moment is not None and self.moment[:2] == (phase, self.counts[phase]):
            os.kill(os.getpid(), self.moment.signal)

    def _begins(self, loop: Any) -> None:
        self._tell(begins=loop.trainer.global_step)

    def _saves(self, trainer: Any) -> None:
        self.savings += 1
        if self.moment is not None and self.moment[:2] == ("bytes", self.savings):
            self._limit(self.moment.size)

    def _exports(self, callback: Any) -> None:
        if self.moment is not None and self.moment[:2] == ("bytes", -1):
            self._limit(self.moment.size)

    def _exported(self, callback: Any) -> None:
        self._tell(counts=self.counts, files=self.files)

    def _limit(self, size: int) -> None:
        if self.moment is not None and self.moment.signal:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def _saved(self, trainer: Any) -> None:
        self._tell(saved=trainer.global_step)

    def _tell(self, **values: Any) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps(values) + "\n")


def told(log: Path, what: str) -> list[Any]:
    """What a rank has told of one kind, in order."""
    if not log.is_file():
        return []
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line[what] for line in lines if what in line]
