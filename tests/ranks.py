"""Processes that run many command lines one after another, as torchrun would start them, and what is read of
their runs."""

import csv
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
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
SERVER.set_forkserver_preload(
    ["experiments.commands.fit", "deepspeed", "transformers.models.llama.modeling_llama"]
)
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


def _life_of_a_rank(
    env: dict[str, str], lines: list[list[str]], out: Path, err: Path, before: Callable[[], None] | None
) -> None:
    os.environ.clear()
    os.environ.update(env)
    for file, number in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    from experiments.cli.program import main

    multiprocessing.set_start_method("fork", force=True)  # of data workers: a child inherits the server's
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
    end, running = time.monotonic() + SECONDS, list(processes)
    while running and not any(process.exitcode for process in processes) and time.monotonic() < end:
        wait([process.sentinel for process in running], timeout=SECONDS)
        running = [process for process in running if process.is_alive()]
    for process in processes:
        process.kill()
        process.join()
    told = "\n".join((folder / f"errors.{rank}").read_text()[-3000:] for rank in range(ranks))
    assert [process.exitcode for process in processes] == [0] * ranks, told


def run_code(folder: Path, code: str, ranks: int, *arguments: str) -> str:
    """All ranks run Python code, each in a new process; gives rank 0's errors. Where one fails, the others
    end."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    processes = []
    for rank in range(ranks):
        env = {**os.environ, **torchrun(rank, ranks, port), "PYTHONPATH": str(ROOT)}
        with (folder / f"errors.{rank}").open("w") as errors:
            line = [sys.executable, "-c", code, *arguments]
            quiet = subprocess.DEVNULL
            processes.append(subprocess.Popen(line, cwd=ROOT, env=env, stdout=quiet, stderr=errors))
    end = time.monotonic() + SECONDS
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        if any(process.poll() for process in processes):
            break
        time.sleep(0.1)
    for process in processes:
        process.kill()
    told = [(folder / f"errors.{rank}").read_text() for rank in range(ranks)]
    assert [process.wait() for process in processes] == [0] * ranks, "\n".join(text[-3000:] for text in told)
    return told[0]


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
