"""Which rank of which run this process was started as, and where the ranks meet."""

import os
from typing import NamedTuple

from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

CONNECTING = 300  # seconds: a cluster's file system may be slow to import from
BESIDE = 20  # seconds: who started this process has been there before it


class Place(NamedTuple):
    """A rank's place among the others; the arguments of `Ranks.join`."""

    rank: int
    size: int
    local_rank: int
    host: str
    port: int
    seconds: int


def started_place() -> Place | None:
    """The place that torchrun, srun or our launcher gave this process; None where it is alone."""
    env = os.environ
    place = None
    if TorchElasticEnvironment.detect():
        rank, size, local = (int(env[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        place = Place(rank, size, local, env["MASTER_ADDR"], int(env["MASTER_PORT"]), CONNECTING)
    elif SLURMEnvironment.detect():
        slurm = SLURMEnvironment()
        rank, size, local = slurm.global_rank(), slurm.world_size(), slurm.local_rank()
        place = Place(rank, size, local, slurm.main_address, slurm.main_port, CONNECTING)
    elif int(env.get("LOCAL_RANK", 0)) > 0 and "LOCAL_WORLD_SIZE" in env:
        local, size = int(env["LOCAL_RANK"]), int(env["WORLD_SIZE"])
        rank = int(env["NODE_RANK"]) * int(env["LOCAL_WORLD_SIZE"]) + local
        place = Place(rank, size, local, env["MASTER_ADDR"], int(env["MASTER_PORT"]), BESIDE)
    return place if place is not None and place.size > 1 else None
