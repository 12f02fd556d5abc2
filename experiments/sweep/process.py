"""The process of a run: how it begins, what it is told, how it is ended."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml

from experiments.atomic import write_text
from experiments.sweep.study import Run, this_host

LOG = "log.txt"
PARAMETERS, AS_JSON = "parameters.yaml", "parameters.json"
PR_SET_PDEATHSIG = 1  # of Linux' prctl: the signal that a process gets when its parent ends
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def begin(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    lock: int,
    cores: set[int] | None = None,
) -> subprocess.Popen:
    """Starts a run in a process group of its own, with its log in its folder; it holds the run's lock as long
    as it lives, and is told to save and end (SIGTERM) when this process dies.

    Args:
        cores: those that the run, with all of its ranks and data workers, may use; None = all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOG, "ab") as log:
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        return subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
            pass_fds=(lock,),
            preexec_fn=partial(_on_its_own, cores) if sys.platform == "linux" else None,
        )


def environment_of(
    folder: Path, group: str, id: str, options: Mapping[str, Any], shared: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a run: what W&B's agent sets, so that its W&B run bears the sweep's parameters and
    group, and where it lies."""
    parameters = {name: {"value": value} for name, value in options.items()}
    text = yaml.safe_dump({"wandb_version": 1, **parameters}, sort_keys=False, allow_unicode=True)
    write_text(folder / PARAMETERS, text)
    own = Path(sys.executable).parent
    # W&B's service of this process, as in a notebook, would write a run's files from where it began itself
    mine = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return {
        **mine,
        "PATH": f"{own}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # `trivium` and `python` are ours
        "WANDB_RUN_ID": id,
        "WANDB_NAME": folder.name,
        "WANDB_RUN_GROUP": group,
        "WANDB_DIR": str(folder.resolve()),
        "WANDB_SWEEP_PARAM_PATH": str((folder / PARAMETERS).resolve()),
        "TRIVIUM_SWEEP_RUN": str(folder.resolve()),
        "SLURM_JOB_NAME": "bash",  # else Lightning takes the sweep's own SLURM task for one of its ranks
        **shared,
    }


def share(workers: int, place: int) -> dict[str, str]:
    """What the environment of one of several runs at a time says it may use of this machine: its part of the
    GPUs; of the cores where it cannot be held to them."""
    shared = {}
    if workers > 1 and sys.platform != "linux" and "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    if workers > 1 and (gpus := _gpus()):
        each = max(1, len(gpus) // workers)
        first = place * each % len(gpus)
        shared["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first : first + each])
    return shared


def cores_of(workers: int, place: int) -> set[int] | None:
    """The cores of one of several runs at a time; None = all. A number of threads would not do: a run's ranks
    share its cores out among themselves, and each would take that number."""
    if workers == 1 or sys.platform != "linux":
        return None
    cores = sorted(os.sched_getaffinity(0))
    each = max(1, len(cores) // workers)
    first = place * each % len(cores)
    return set(cores[first : first + each])


def tell(process: int, what: signal.Signals) -> None:
    """Sends a signal to all processes of a run."""
    assert process > 1, process  # 0 would be this process' own group, and 1 the machine
    with suppress(ProcessLookupError, PermissionError):  # it has ended
        os.killpg(process, what)


def is_looked_after(run: Run) -> bool:
    """Whether the command that began a run is alive; one on another machine is taken to be."""
    if run.host != this_host():
        return True
    pid, began = run.command
    try:
        return abs(psutil.Process(pid).create_time() - began) < 1
    except psutil.Error:
        return False


def this_command() -> tuple[int, float]:
    """This process: its id, and when it began."""
    return os.getpid(), psutil.Process().create_time()


def last_line(folder: Path) -> str:
    """What a run that failed has said last: its refusal, or the exception that it ended with."""
    try:
        text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.split("\r")[-1].strip() for line in COLOURS.sub("", text).splitlines()]
    begun = max((place for place, line in enumerate(lines) if line.startswith("$ ")), default=-1)
    lines = [line for line in lines[begun + 1 :] if line]
    told = [line.removeprefix("trivium: ") for line in lines if line.startswith("trivium: ")]
    told = [line for line in told if not line.startswith("that is a bug and no mistake")]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (told or errors or lines or [""])[-1]


def begin_anew(folder: Path) -> None:
    """Removes what a run has left that has no checkpoint to go on from."""
    for path in folder.glob("*"):
        if path.name != LOG:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _on_its_own(cores: set[int] | None) -> None:
    """In the new process, before its program begins."""
    if cores is not None:
        os.sched_setaffinity(0, cores)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _gpus() -> list[str]:
    if given := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return given.split(",")
    import torch

    return [str(place) for place in range(torch.cuda.device_count())]
