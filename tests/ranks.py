"""Processes that run many command lines one after another, as torchrun would start them, and what is read of
their runs."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import torch
from safetensors.torch import load_file

from experiments.distributed.rendezvous import free_port

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 600  # for all command lines together

WORKER = """
import json, sys
from experiments.cli.program import main
for line in json.load(open(sys.argv[1])):
    print("RUN", line[line.index("--run") + 1], file=sys.stderr, flush=True)
    if main(line):
        sys.exit(1)
"""


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


def run_ranks(folder: Path, lines: list[list[str]], ranks: int = 2) -> None:
    """All ranks go through command lines."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "runs.json").write_text(json.dumps(lines))
    run_code(folder, WORKER, ranks, str(folder / "runs.json"))


def run_code(folder: Path, code: str, ranks: int, *arguments: str) -> str:
    """All ranks run Python code; gives rank 0's errors. Where one fails, the others end."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    processes = []
    for rank in map(str, range(ranks)):
        torchrun = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
        torchrun |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        torchrun |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        env = {**os.environ, **torchrun, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
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
