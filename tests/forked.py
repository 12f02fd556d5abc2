"""Ranks forked from a server that has imported everything already, each as torchrun would start it."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

from experiments.distributed.rendezvous import free_port

os.environ.setdefault(
    "TORCH_CPP_LOG_LEVEL", "ERROR"
)  # the server imports torch before a command could say so
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])
INHERITED = ("TRIVIUM_CACHE", "WANDB_MODE", "HF_HUB_OFFLINE")  # the server keeps those that it was born with
PATIENCE = 240  # seconds for what takes ten on a machine with nothing else to do


def life(line: Sequence[str], env: Mapping[str, str], streams: Path, prepare: Callable[[], None] | None):
    """Of one process: its output goes to files, then the program runs its command line."""
    os.environ.update(env)
    for ending, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(f"{streams}.{ending}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    from experiments.cli.program import main

    multiprocessing.set_start_method("fork", force=True)  # of data workers: a child inherits the server's
    if prepare is not None:
        prepare()
    code = main(list(line))
    if hasattr(prepare, "end"):
        prepare.end()
    os._exit(code)


class Ranks:
    """Processes of one run, started together.

    Args:
        folder: for what they print: `RANK.out`, `RANK.err`.
        lines: the command line of each.
        prepare: what each does before its command line, if anything.
        env: of all.
    """

    def __init__(
        self,
        folder: Path,
        lines: Sequence[Sequence[str]],
        prepare: Sequence[Callable[[], None] | None] | None = None,
        env: Mapping[str, str] | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.processes = folder, []
        size, port = str(len(lines)), str(free_port())
        for rank, line in enumerate(lines):
            environment = {name: os.environ[name] for name in INHERITED} | {"OMP_NUM_THREADS": "1"}
            if len(lines) > 1:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
                environment |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "TORCHELASTIC_RUN_ID": "none"}
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment |= env or {}
            own = prepare[rank] if prepare else None
            process = SERVER.Process(target=life, args=(line, environment, folder / str(rank), own))
            process.start()
            self.processes.append(process)

    def wait(self, together: bool = False) -> list[int]:
        """Exit codes; `together`: the first one to end takes the others with it, as a machine that fails."""
        left = {process.sentinel for process in self.processes}
        while left:
            ended = wait(left, PATIENCE)
            left -= set(ended)
            if not ended or together:
                self.kill()
            assert ended, f"they hang:\n{self.errors}"
        for process in self.processes:
            process.join()
        return [process.exitcode for process in self.processes]

    def kill(self) -> None:
        """Ends all of them at once."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    @property
    def errors(self) -> str:
        """What all of them have printed as errors."""
        files = [self.folder / f"{rank}.err" for rank in range(len(self.processes))]
        return "\n".join(file.read_text() for file in files if file.is_file())
