"""Where ranks meet: which rank of which run this process was started as, and a port that is free."""

import os
import random
import socket
import time
from contextlib import suppress
from typing import Any, NamedTuple

from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from experiments.cli.user_errors import UserError

CONNECTING = 300  # seconds, as long as WAIT says nothing: a cluster's file system may be slow to import from
WAIT = "TRIVIUM_WAIT_SECONDS"
"""the variable of the environment that says how long machines wait for each other when a run starts"""
BESIDE = 20  # seconds: who started this process has been there before it
PORTS = range(15_000, 32_000)  # below those that the system gives to connections


class Place(NamedTuple):
    """A rank's place among all `size`, and where they meet: at rank 0's machine, within so many seconds."""

    rank: int
    size: int
    local_rank: int  # on its machine
    host: str
    port: int
    seconds: int


def waiting_seconds() -> int:
    """How long the machines of a run wait for each other when it starts.

    Raises:
        UserError: the environment says no such number.
    """
    given = os.environ.get(WAIT, str(CONNECTING))
    if not given.isdecimal() or not int(given):
        raise UserError(f"{WAIT} is {given!r}: give seconds, 1 or more")
    return int(given)


def started_place() -> Place | None:
    """The place that torchrun, srun or our launcher gave this process; None where it is alone."""
    env = os.environ
    place = None
    kinds = (TorchElasticEnvironment, SLURMEnvironment)  # a job of SLURM may start torchrun
    if job := next((kind() for kind in kinds if kind.detect()), None):
        rank, size, local_rank = job.global_rank(), job.world_size(), job.local_rank()
        place = Place(rank, size, local_rank, job.main_address, job.main_port, waiting_seconds())
    elif int(env.get("LOCAL_RANK", 0)) > 0 and "LOCAL_WORLD_SIZE" in env:
        local_rank, size = int(env["LOCAL_RANK"]), int(env["WORLD_SIZE"])
        rank = int(env["NODE_RANK"]) * int(env["LOCAL_WORLD_SIZE"]) + local_rank
        place = Place(rank, size, local_rank, env["MASTER_ADDR"], int(env["MASTER_PORT"]), BESIDE)
    return place if place is not None and place.size > 1 else None


def is_listening(host: str, port: int, seconds: float) -> bool:
    """Whether somebody comes to listen at a port within so many seconds."""
    end = time.monotonic() + seconds
    while True:
        with suppress(OSError), socket.create_connection((host, port), timeout=max(1.0, seconds)):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


def machines_errors(machines: int, environment: Any) -> list[str]:
    """Refuses a run on several machines whose processes nobody has told where to meet: they would wait.

    Args:
        machines: `trainer.num_nodes`.
        environment: Lightning's, of the trainer.
    """
    if machines == 1 or getattr(environment, "creates_processes_externally", True):
        return []
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if not missing:
        return []
    return [
        f"trainer.num_nodes is {machines}, but neither torchrun nor SLURM has started this process, and "
        f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set, by which machines find each "
        "other: start it on each machine by experiments/distributed/torchrun.sh, or set them"
    ]


def free_port() -> int:
    """A port of this machine that can be opened: nobody listens at it, and no connection of before lingers at
    it. One that the system names might be given to a connection before it is opened."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as candidate, suppress(OSError):
            candidate.bind(("", port))
            return port
    raise OSError(f"no port of this machine is free between {PORTS[0]} and {PORTS[-1]}")
