"""What only a GPU can show, in one table, within eight minutes and without a network.

    make gpu-check            # or: python -m experiments.benchmarks.gpu_check --parts stages,speed

Every part runs in a process of its own with a limit of time, so that one that fails, hangs or runs out of
memory leaves the others as they are; what it had measured is kept. Ends with 1 where a bar was missed or
something failed. `--tiny` is for a look at the program itself, on a CPU too. Where $OUT names a folder, the
rows are written there as `gpu_check.json`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch

from experiments.atomic import write_text
from experiments.benchmarks.gpu_report import FAILED, MISSED, Report, Row, read_rows, table

ROOT = Path(__file__).resolve().parents[2]


class Part(NamedTuple):
    """A function of a module beside this one."""

    module: str
    seconds: int
    """how long it may take"""


PARTS = {
    "stages": Part("gpu_stages", 130),
    "strategies": Part("gpu_stages", 110),
    "attention": Part("gpu_networks", 40),
    "sampling": Part("gpu_networks", 40),
    "packed": Part("gpu_networks", 40),
    "memory": Part("gpu_stages", 110),
    "ppo": Part("gpu_stages", 110),
    "resume": Part("gpu_runs", 70),
    "averages": Part("gpu_runs", 40),
    "replies": Part("gpu_runs", 40),
    "speed": Part("gpu_networks", 150),
}


def main() -> int:
    """Runs the parts and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--tiny", action="store_true", help="networks and data of a toy's size")
    parser.add_argument("--seconds", type=float, default=465, help="limit for all parts together")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts: there is no {unknown[0]}: there is {', '.join(PARTS)}")
    if options.child:
        part = import_module(f"experiments.benchmarks.{PARTS[names[0]].module}")
        getattr(part, names[0])(Report(Path(options.child), names[0], options.tiny))
        return 0
    if out := os.environ.get("OUT"):
        Path(out).mkdir(parents=True, exist_ok=True)
    rows, end = [], time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            limit = PARTS[name].seconds * (3 if options.tiny else 1)  # a CPU that has other work as well
            left = min(limit, end - time.monotonic())
            rows += run_part(name, options.tiny, Path(folder), left)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    title = f"{card}, torch {torch.__version__}"
    table(rows, title)
    if out := os.environ.get("OUT"):
        text = json.dumps({"machine": title, "rows": [row._asdict() for row in rows]}, indent=1)
        write_text(Path(out) / "gpu_check.json", text)
    return int(any(row.verdict in (MISSED, FAILED) for row in rows))


def run_part(name: str, tiny: bool, folder: Path, seconds: float) -> list[Row]:
    """A part's rows, and one more that says how it ended."""
    if seconds < 5:
        return [Row(name, "not begun", "no time left", verdict=FAILED)]
    file = folder / f"{name}.jsonl"
    line = [sys.executable, "-m", "experiments.benchmarks.gpu_check", "--parts", name, "--child", str(file)]
    log = folder / f"{name}.log"
    start, ending = time.monotonic(), ""
    with log.open("w") as output:
        process = subprocess.Popen(
            line + ["--tiny"] * tiny,
            cwd=ROOT,
            env=environment(folder),
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that what it starts, compilers, is ended with it
        )
        try:
            if code := process.wait(seconds):
                said = [text for text in log.read_text(errors="replace").splitlines() if text.strip()]
                ending = f"exit code {code}: {said[-1][:160] if said else 'said nothing'}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            ending = f"stopped at its limit of {seconds:.0f} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    rows = read_rows(file)
    for row in rows:
        print(*(text for text in row[:5] if text), sep="  ", flush=True)
    took = f"{time.monotonic() - start:.0f} s"
    print(f"{name}: {took} {ending}", flush=True)
    if out := os.environ.get("OUT"):
        shutil.copy(log, Path(out) / log.name)
    if ending:
        print("\n".join(log.read_text(errors="replace").splitlines()[-15:]), flush=True)
        return [*rows, Row(name, "the part", ending, verdict=FAILED)]
    return [*rows, Row(name, "the part took", took)]


def environment(folder: Path) -> dict[str, str]:
    """Of a part: no network, a token cache of its own, and the program where it is now."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"TRIVIUM_CACHE": str(folder / "cache"), "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **own, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "DS_BUILD_OPS": "0"}


if __name__ == "__main__":
    raise SystemExit(main())
