"""The processes of a run's other ranks, as far as they run on this machine: whether they are still there."""

import os
from collections.abc import Callable
from contextlib import suppress

import psutil


def this_process() -> list[float]:
    """What identifies this process on its machine: its number, and when it began (seconds since 1970)."""
    process = psutil.Process()
    return [process.pid, process.create_time()]


class Peers:
    """The processes of the ranks below `size` other than `rank`, and the one that watches over this rank and
    must outlive it, where there is one: torchrun's agent."""

    def __init__(self, rank: int, size: int, agent: int | None):
        self.agent = agent
        self.unknown = [other for other in range(size) if other != rank]  # which process they are
        self.processes: dict[int, psutil.Process] = {}  # by rank: those that run, or ran, on this machine

    def add(self, rank: int, pid: int, began: float | None = None) -> None:
        """Takes note of a rank's process, by its number and when it began; one of another machine is
        forgotten: here, a process of that number began at another time."""
        if rank not in self.unknown:
            return
        self.unknown.remove(rank)
        with suppress(psutil.Error):
            process = psutil.Process(int(pid))
            if began is None or abs(process.create_time() - began) < 0.5:  # seconds, by the system's ticks
                self.processes[rank] = process

    def ended(self) -> set[int]:
        """Ranks of this machine whose processes have ended, one way or another."""
        return {rank for rank, process in self.processes.items() if not _runs(process)}

    def death(self, announced: Callable[[int], bool]) -> str | None:
        """Says which rank of this machine ended without having `announced` it, if any."""
        for rank in sorted(self.ended()):
            if not announced(rank):
                return (
                    f"rank {rank} (process {self.processes[rank].pid}) was killed, as the system does when "
                    "memory runs out, or died before it could tell why: the other ranks have been ended"
                )
        if self.agent is not None and os.getppid() != self.agent:
            return f"torchrun (process {self.agent}) was killed: its ranks have been ended"
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
