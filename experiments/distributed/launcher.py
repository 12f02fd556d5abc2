"""Lightning's way to start a rank for each device of a machine, the ranks hearing of each other's errors."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L

from experiments.cli.user_errors import UserError
from experiments.distributed import upstream
from experiments.distributed.ranks import ranks
from experiments.distributed.rendezvous import WAIT, Place, free_port, waiting_seconds

RANK_VARIABLES = (
    *("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
)
"""of the environment, by which Lightning tells the ranks that it starts who they are"""


class Launcher(upstream.SubprocessLauncher):
    """Starts this command again for every other device. Lightning's own would kill this process five seconds
    after another one's error, whatever it is doing; here `ranks` ends them all."""

    def launch(self, function: Callable, *args: Any, trainer: L.Trainer | None = None, **kwargs: Any) -> Any:
        with environment_restored():
            os.environ.setdefault("MASTER_PORT", str(free_port()))
            if self.num_nodes * self.num_processes > 1:
                self._start_ranks()
            return function(*args, **kwargs)

    def _start_ranks(self) -> None:
        environment = self.cluster_environment
        first, size = environment.node_rank() * self.num_processes, self.num_nodes * self.num_processes
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        os.environ["LOCAL_WORLD_SIZE"] = str(self.num_processes)
        host, port = environment.main_address, environment.main_port
        wait = waiting_seconds()
        if self.num_nodes > 1:
            print(f"waiting for {self.num_nodes} machines at {host}:{port}, {wait} seconds at most ({WAIT})")
        ranks.join(Place(first, size, local_rank=0, host=host, port=port, seconds=wait))
        upstream.start_other_ranks(self)
        ranks.children = self.procs
        for rank, child in enumerate(self.procs, first + 1):
            ranks.peers.add(rank, child.pid)
        upstream.share_threads(self.num_processes)
        others = set(range(size)) - set(range(first, first + self.num_processes))
        if absent := ranks.absent_after(wait, others):
            machines = sorted({rank // self.num_processes for rank in absent})
            one = len(machines) == 1
            raise UserError(
                f"trainer.num_nodes is {self.num_nodes}, but {'machine' if one else 'machines'} "
                f"{', '.join(map(str, machines))} did not come to {host}:{port} within {wait} seconds: start "
                f"the same command there with NODE_RANK={machines[0] if one else '…'}, see that the port is "
                f"reached from there, or wait longer ({WAIT})"
            )


@contextmanager
def environment_restored() -> Iterator[None]:
    """What Lightning tells the ranks it starts is not left to what this process starts later."""
    before = {name: os.environ.get(name) for name in RANK_VARIABLES}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def watch_over_ranks(trainer: L.Trainer) -> None:
    """Gives a trainer the launcher of this file where it would start processes itself."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, upstream.SubprocessLauncher):
        return
    environment = launcher.cluster_environment
    if not environment.creates_processes_externally:
        own = Launcher(environment, launcher.num_processes, launcher.num_nodes)
        upstream.set_launcher(trainer.strategy, own)
