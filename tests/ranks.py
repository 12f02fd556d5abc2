"""Processes that run many command lines one after another, as torchrun would start them, and what is read of
their runs."""

import csv
import ctypes
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import lightning as L
import torch
from safetensors.torch import load_file

from experiments.distributed.rendezvous import free_port

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 600  # for all command lines together

SERVER = multiprocessing.get_context("forkserver")
# the server imports torch before a command could say so
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
SERVER.set_forkserver_preload(["tests.preloaded"])
"""ranks are forked from a process that has imported everything: a start of Python costs seconds"""


class Record(L.Callback):
    """Writes the metrics of `validate`, which go to the terminal alone.

    Args:
        path: of the JSON file.
    """

    def __init__(self, path: str):
        self.path = path

    def on_validation_end(self, trainer, pl_module):
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.is_global_zero:
            Path(self.path).write_text(json.dumps(found))


def torchrun(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank of one machine by its environment."""
    env = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
    env |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    return env | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}


def fork_rank(
    env: dict[str, str],
    lines: list[list[str]],
    out: Path,
    err: Path,
    before: Callable[[], None] | None = None,
) -> Any:
    """A started process that goes through command lines, to the first that fails, and ends with its code.
    `before` is called in it first."""
    # the server keeps the environment that it was born with
    environment = {**os.environ, **env, "PYTHONPATH": str(ROOT)}
    process = SERVER.Process(target=_life_of_a_rank, args=(environment, lines, out, err, before))
    process.start()
    return process


def _begin(env: dict[str, str], out: Path, err: Path) -> None:
    """Makes a forked process what a new one would be."""
    os.environ.clear()
    os.environ.update(env)
    for file, number in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND), number)
    multiprocessing.set_start_method("fork", force=True)  # of data workers: a child inherits the server's


def _life_of_a_rank(
    env: dict[str, str], lines: list[list[str]], out: Path, err: Path, before: Callable[[], None] | None
) -> None:
    _begin(env, out, err)
    from experiments.cli.program import main

    if before is not None:
        before()
    os._exit(next((code for code in map(main, lines) if code), 0))


def run_ranks(folder: Path, lines: list[list[str]], ranks: int = 2) -> None:
    """All ranks go through command lines; where one fails, the others end."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    processes = [
        fork_rank(torchrun(rank, ranks, port), lines, folder / f"out.{rank}", folder / f"errors.{rank}")
        for rank in range(ranks)
    ]
    _wait_for_all(processes, folder)


def _wait_for_all(processes: list[Any], folder: Path) -> None:
    """Until all have ended well, or the first has not and the others are ended."""
    end, running = time.monotonic() + SECONDS, list(processes)
    while running and not any(process.exitcode for process in processes) and time.monotonic() < end:
        wait([process.sentinel for process in running], timeout=SECONDS)
        running = [process for process in running if process.is_alive()]
    for process in processes:
        process.kill()
        process.join()
    told = "\n".join((folder / f"errors.{rank}").read_text()[-3000:] for rank in range(len(processes)))
    codes = [process.exitcode for process in processes]
    assert not any(codes), f"exit codes {codes}\n{told}"


def run_code(folder: Path, code: str, ranks: int, *arguments: str) -> str:
    """All ranks run Python code, as `python -c` would; gives rank 0's errors. Where one fails, the others
    end."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    processes = []
    for rank in range(ranks):
        env = {**os.environ, **torchrun(rank, ranks, port)}
        files = folder / f"out.{rank}", folder / f"errors.{rank}"
        processes.append(fork_code(env, code, arguments, *files))
    _wait_for_all(processes, folder)
    return (folder / "errors.0").read_text()


def fork_code(env: Mapping[str, str], code: str, arguments: Sequence[str], out: Path, err: Path) -> Any:
    """A started process with this environment that runs Python code, as `python -c` would."""
    environment = {**env, "PYTHONPATH": str(ROOT)}
    process = SERVER.Process(target=_code, args=(environment, code, arguments, out, err))
    process.start()
    return process


def _code(env: dict[str, str], code: str, arguments: Sequence[str], out: Path, err: Path) -> None:
    _begin(env, out, err)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def take_tensors_one_by_one() -> None:
    """From now on tensors come from the system one by one and go back to it at once, none from what is free
    already: a process has what its tensors have."""
    libc = ctypes.CDLL(None)
    assert libc.mallopt(-3, 65536)  # M_MMAP_THRESHOLD, bytes
    assert libc.mallopt(-1, 0)  # M_TRIM_THRESHOLD
    libc.malloc_trim(0)


def zero(stage, devices=2, **more):
    """The YAML's form; parameters of any size are split."""
    options = {"stage": stage, "persistent_elements": 0, **more}
    form = {"class_path": "strategies.deepspeed", "init_args": options}
    return [f"--trainer.devices={devices}", f"--trainer.strategy={json.dumps(form)}"]


def curve(run, metric="train/loss", version="*"):
    """Step → value over all legs of a run, or of one of them."""
    values: dict[int, float] = {}
    for file in sorted(run.glob(f"metrics/version_{version}/metrics.csv")):
        with file.open() as rows:
            values |= {
                int(row["step"]): float(row[metric]) for row in csv.DictReader(rows) if row.get(metric)
            }
    return values


def weights(run, folder="export"):
    return load_file(run / folder / "model.safetensors")


def assert_weights(found, expected, atol):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
