"""The ranks of a run: what one of them says, all hear. The first error is told once and ends them all, a rank
that is killed does not leave the others waiting, and what must be the same everywhere is compared.

They share torch's own `TCPStore`, the one that `init_process_group` uses: torchrun's agent holds it, else
rank 0. Its keys of a run begin with the run's number, since a process may run one command after another. A
process that is the only one of its run has no store, and nothing here does anything.
"""

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments import TorchElasticEnvironment

from experiments.cli.user_errors import UserError, refusal_of, tell
from experiments.distributed.failure import Failure, failure_of, is_echo
from experiments.distributed.liveness import Peers, this_process
from experiments.distributed.rendezvous import Place, is_listening, started_place

# All in seconds.
TICK = 1.0  # between two looks at the store and at the other processes
GRACE = 5.0  # that a rank has to end by itself after another one's error
PATIENCE = 3.0  # in which another rank may tell the same, rank 0 before all
ECHO = 15.0  # in which the cause of a broken connection becomes known, also on a machine that is busy
LINGER = 10.0  # that a rank stays after an error so that all others have read it
LAST = 60.0  # that the store's holder stays for ranks that have not ended yet
SHOWN = 5  # differences between ranks that are listed


class Ranks:
    """This process among the processes of its run."""

    def __init__(self) -> None:
        self.rank, self.size, self.local_rank = 0, 1, 0
        self.store: dist.TCPStore | None = None
        self.children: list[subprocess.Popen] = []  # ranks that this process has started
        self.absent: set[int] = set()  # ranks that have not joined when that was asked
        self.runs = 0  # that these ranks have begun together
        self.compared: list[Mapping[str, str]] = []  # by this run's ranks, so far
        self._failure: Failure | None = None
        self._has_printed = False
        self._over = threading.Event()
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Begins a run: joins the ranks that torchrun, srun or Lightning has started with this one."""
        self.runs += 1
        self.compared, self._failure, self._has_printed, self.absent = [], None, False, set()
        self._over = threading.Event()
        if self.store is not None:
            self._watch()
        elif place := started_place():
            self.join(place)

    def join(self, place: Place) -> None:
        """Connects to the store; the first rank holds it where torchrun does not.

        Raises:
            UserError: it cannot be had.
        """
        rank, size, self.local_rank, host, port, seconds = place
        self.rank, self.size = rank, size
        agent_holds = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
        self.holds = rank == 0 and not agent_holds
        self.runs = 1  # the first of these ranks, whatever this process has done alone before
        try:
            if not self.holds and not is_listening(host, port, seconds):
                raise RuntimeError(f"nobody listens at {host}:{port}")  # torch would print stacks of C++
            self.store = dist.TCPStore(
                host,
                port,
                size,
                is_master=self.holds,
                timeout=timedelta(seconds=seconds),
                wait_for_workers=False,
                multi_tenant=not agent_holds,  # `init_process_group` opens it again
            )
        except RuntimeError as error:
            action = "open" if self.holds else "reach rank 0 at"
            raise UserError(
                f"rank {rank} cannot {action} {host}:{port}, where the ranks meet, within {seconds} seconds: "
                "MASTER_ADDR must be rank 0's machine, MASTER_PORT a port that is free there and not blocked"
            ) from error
        self.store.set_timeout(timedelta(seconds=20))
        self.peers = Peers(rank, size, agent=os.getppid() if TorchElasticEnvironment.detect() else None)
        self._set(f"process/{rank}", this_process())
        if rank and not agent_holds:
            pid, began = self._get("process/0")
            self.peers.add(0, pid, began)
        for number, values in enumerate(self.compared):  # of before it has started the others
            self._set(self._key(f"compared/{number}"), dict(values))
        self._watch()

    def absent_after(self, seconds: float, others: set[int]) -> set[int]:
        """Waits until other ranks have joined, or one has failed; gives those that have not within a time."""
        end, self.absent = time.monotonic() + seconds, others
        while self._first() is None:
            self.absent = {rank for rank in self.absent if not self._has(f"process/{rank}")}
            if not self.absent or time.monotonic() > end:
                return self.absent
            time.sleep(0.1)
        return set()

    def end(self, code: int) -> int:
        """Ends a run; who holds the store leaves last. Returns the exit code: the first error's, if any."""
        if self.store is None:
            return code
        failed = code != 0
        if not (self.holds or failed):
            self._stop_watching()
        with suppress(RuntimeError):  # the store is gone, and with it those who need it
            ended = self._key(f"ended/{self.rank}")
            self._set(ended, True)
            self._get(ended)  # nobody answers to what is set: once it is read, all find it
            if self.holds or failed:
                self._wait_for_others()
        self._stop_watching()
        if self.children:  # the next run may have other ranks, or none
            self._wait_for_children()
            self.store, self.rank, self.size, self.local_rank = None, 0, 1, 0
        return code if self._failure is None else self._failure.code

    def agree(self, values: Mapping[str, str]) -> None:
        """Compares values, by their names, with rank 0's; every rank must ask, as often as the others.

        Raises:
            UserError: naming what differs.
        """
        number = len(self.compared)
        self.compared.append(values)
        if self.store is None:
            return
        key = self._key(f"compared/{number}")
        if self.rank == 0:
            self._set(key, dict(values))
            return
        while not self._has(key):
            time.sleep(0.1)
        different = differences(values, self._get(key))
        if different:
            raise UserError(
                f"rank {self.rank} differs from rank 0 in {different}: give all ranks the same "
                "configuration, data, weights and versions"
            )

    def report(self, error: BaseException) -> int:
        """Tells an error, if it is the run's first, and lets the other ranks know; returns the exit code."""
        failure = failure_of(error, self.rank)
        if failure.code == 0 or self.store is None:
            return failure.code
        patience = ECHO if is_echo(error) else PATIENCE if self.rank and failure.text else 0.0
        end = time.monotonic() + patience
        while self._first() is None and time.monotonic() < end:
            time.sleep(0.1)
        trace = error if refusal_of(error) is None else None
        return self._make_first(failure, trace).code

    def _first(self) -> Failure | None:
        """The run's first error, as far as it is known here."""
        if self._failure is None:
            try:
                key = self._key("failure")
                self._failure = Failure(*self._get(key)) if self._has(key) else None
            except RuntimeError:
                self._failure = self._store_lost()
        return self._failure

    def _make_first(self, failure: Failure, trace: BaseException | None = None) -> Failure:
        """Makes an error the run's first, unless there is one, and prints that, after its trace."""
        with self._lock:
            if self._first() is None:
                assert self.store is not None
                try:
                    # atomic: it sets the key only where it is empty, and gives what it holds then
                    first = self.store.compare_set(f"trivium/{self._key('failure')}", "", json.dumps(failure))
                    self._failure = Failure(*json.loads(first))
                except RuntimeError:
                    self._failure = self._store_lost()
                if self._failure == failure and trace is not None and failure.text:
                    traceback.print_exception(trace)
            assert self._failure is not None
            if not self._has_printed and self._speaks_for(self._failure):
                tell(self._failure.text)
            self._has_printed = True
        return self._failure

    def _store_lost(self) -> Failure:
        """The error of a run whose store is gone: who held it was killed."""
        end, death = time.monotonic() + 2 * TICK, None
        while death is None and time.monotonic() < end:  # a killed process loses its connections first
            death = self.peers.death(announced=lambda rank: rank != 0)
            time.sleep(0.05)
        text = death or "rank 0, or torchrun on the first machine, was killed, or that machine failed"
        return Failure(-1, text, 1)

    def _speaks_for(self, failure: Failure) -> bool:
        """Whether this rank prints an error: its own, and one that its machine's output does not show."""
        if failure.rank == self.rank:
            return True
        if failure.rank < 0:  # who would have told it is gone
            return self.local_rank == (1 if 0 in self.peers.processes else 0)
        one_output_for_all = "SLURM_PROCID" in os.environ
        return self.local_rank == 0 and failure.rank not in self.peers.processes and not one_output_for_all

    def _watch(self) -> None:
        self._watcher = threading.Thread(target=self._keep_watch, name="ranks", daemon=True)
        self._watcher.start()

    def _stop_watching(self) -> None:
        self._over.set()
        self._watcher.join()

    def _keep_watch(self) -> None:
        while not self._over.wait(TICK):
            failure = self._first()
            if failure is None:
                with suppress(RuntimeError):  # the store is gone: the next look finds out why
                    failure = self._death_of_a_peer()
            if failure is not None:
                failure = self._make_first(failure)
                with suppress(RuntimeError):
                    self._set(self._key(f"seen/{self.rank}"), True)
                if not self._over.wait(GRACE):
                    self._exit_now(failure.code)

    def _death_of_a_peer(self) -> Failure | None:
        """The error that a rank of this machine would have told if it had not been killed."""
        for rank in [rank for rank in self.peers.unknown if self._has(f"process/{rank}")]:
            pid, began = self._get(f"process/{rank}")
            self.peers.add(rank, pid, began)
        death = self.peers.death(announced=lambda rank: self._has(self._key(f"ended/{rank}")))
        return None if death is None else Failure(self.rank, death, 1)

    def _exit_now(self, code: int) -> None:
        """Ends this process where its main thread waits for a rank that will not come."""
        for child in self.children:
            child.kill()
        for stream in (sys.stdout, sys.stderr):
            if stream.isatty():
                stream.write("\x1b[?25h")  # a progress bar hides the cursor
            stream.flush()
        os._exit(code)

    def _wait_for_others(self) -> None:
        """Waits until the other ranks have ended or, after an error, have read it."""
        begun = time.monotonic()
        others = set(range(self.size)) - {self.rank} - self.absent
        while others:
            failed = self._first() is not None
            words = ("ended", "seen") if failed else ("ended",)
            others -= self.peers.ended()
            others -= {
                rank for rank in others if any(self._has(self._key(f"{word}/{rank}")) for word in words)
            }
            if time.monotonic() - begun > (LINGER if failed else LAST):
                return
            time.sleep(0.05)

    def _wait_for_children(self) -> None:
        for child in self.children:
            try:
                child.wait(2 * GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
        self.children = []

    def _key(self, name: str) -> str:
        """A key of this run alone."""
        return f"{self.runs}/{name}"

    def _has(self, key: str) -> bool:
        assert self.store is not None
        return self.store.check([f"trivium/{key}"])

    def _get(self, key: str) -> Any:
        assert self.store is not None
        return json.loads(self.store.get(f"trivium/{key}"))

    def _set(self, key: str, value: Any) -> None:
        assert self.store is not None
        self.store.set(f"trivium/{key}", json.dumps(value))


def differences(values: Mapping[str, str], of_rank_0: Mapping[str, str]) -> str:
    """What differs, with both values: `a (1 instead of 2), b (…)`; nothing where nothing does."""
    different = []
    for name in dict.fromkeys([*of_rank_0, *values]):
        here, there = values.get(name, "nothing"), of_rank_0.get(name, "nothing")
        if here != there:
            different.append(f"{name} ({here} instead of {there})")
    more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
    return ", ".join(different[:SHOWN]) + more


def world_errors(size: int) -> list[str]:
    """Refuses a run that was started as another number of processes than the `size` (devices × nodes) that it
    is configured for."""
    if ranks.store is None or size == ranks.size:
        return []
    return [
        f"trainer.devices × trainer.num_nodes is {size}, but {ranks.size} processes were started: give "
        "--trainer.devices those of a machine, --trainer.num_nodes the machines, and a --trainer.strategy"
    ]


ranks = Ranks()
"""this process"""


def as_one_of_many(run: Callable[[], Any]) -> int:
    """Does a run as one of its ranks; returns the exit code. A process that is alone raises what it meets."""
    ranks.begin()
    try:
        run()
        code = 0
    except BaseException as error:
        if ranks.store is None:
            raise
        code = ranks.report(error)
    return ranks.end(code)
