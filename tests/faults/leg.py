"""One leg of a run: its ranks, from their start to their end or death."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

from experiments.distributed.rendezvous import free_port
from tests.ranks import fork_rank, torchrun

PATIENCE = 600  # seconds for what takes two on a machine with nothing else to do


class Leg:
    """Processes of one command line, started together.

    Args:
        folder: for what they print: `RANK.out`, `RANK.err`, and for temporary files.
        line: the command line of all.
        before: what each does first.
    """

    def __init__(self, folder: Path, line: list[str], before: Sequence[Callable[[], None]]):
        (folder / "tmp").mkdir(parents=True)
        self.folder, ranks, port = folder, len(before), free_port()
        self.processes = []
        for rank, prepare in enumerate(before):
            env = {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")}
            env |= torchrun(rank, ranks, port) if ranks > 1 else {}
            out, err = folder / f"{rank}.out", folder / f"{rank}.err"
            self.processes.append(fork_rank(env, [line], out, err, prepare))

    def wait(self, together: bool = False) -> list[int]:
        """Exit codes; `together`: the first one to end takes the others with it, as a machine that fails."""
        running = [process.sentinel for process in self.processes]
        while running:
            ended = wait(running, PATIENCE)
            running = [each for each in running if each not in ended]
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

    @property
    def told(self) -> list[str]:
        """What the user was told as wrong, by lines."""
        return [line for line in self.errors.splitlines() if line.startswith("trivium: ")]
