"""Sweeps of real runs: one that is cut off resumes from its checkpoint, one of two ranks has what the sweep
sets on both."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from experiments.cli.program import main
from experiments.sweep.metrics import history
from tests.wandb_files import kept

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("warm_python")
CALLBACKS = """
import json, os, pathlib, time, torch
from lightning.pytorch.callbacks import Callback

class Ranks(Callback):
    def on_train_start(self, trainer, module):
        told = {"rate": trainer.optimizers[0].param_groups[0]["initial_lr"], "world": trainer.world_size}
        told |= {"threads": torch.get_num_threads(), "cores": len(os.sched_getaffinity(0))}
        folder = pathlib.Path(os.environ["TRIVIUM_SWEEP_RUN"])
        (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(told))

class Gate(Callback):
    def on_train_batch_start(self, trainer, *args):
        here = pathlib.Path(os.environ["GATE"])
        if trainer.global_step == 5 and os.environ["TRIVIUM_SWEEP_RUN"].endswith("0001") and here.exists():
            (here / "reached").write_text(str(os.getpid()))
            while True:
                time.sleep(0.01)
"""
EXACT = ["--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=1", "--trainer.max_steps=8"]


@pytest.fixture
def sweep_of(tmp_path, stage_lines):
    """Writes the YAML of a sweep of pretraining runs with further options; gives what starts its command."""

    def write(*options: str, workers=1, **keys):
        (_, *line) = stage_lines(tmp_path).stage("pretrain")
        del line[line.index("--run") : line.index("--run") + 2]
        document = {
            "name": "fits",
            "program": "trivium",
            "command": ["${interpreter}", "-m", "experiments.cli", "fit", *line, *EXACT, *options, "${args}"],
            "method": "grid",
            "metric": {"name": "train/loss"},
            "parameters": {"model.init_args.optimizer.init_args.lr": {"values": [0.001, 0.002]}},
            **keys,
        }
        (tmp_path / "callbacks_of_runs.py").write_text(CALLBACKS)
        (tmp_path / "fits.yaml").write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "experiments.cli", "sweep", "fits.yaml", "--output", "out", "--json"]
        command += ["--workers", str(workers)]
        (tmp_path / "gate").mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
            "GATE": str(tmp_path / "gate"),
        }

        def start() -> subprocess.Popen:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            return subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes)

        return start

    return write


@pytest.mark.slow
def test_a_run_that_a_power_cut_ends_resumes_at_its_checkpoint_and_those_that_ended_are_not_repeated(
    sweep_of, tmp_path, monkeypatch
):
    start = sweep_of("--checkpoint_minutes=0.00001", "--trainer.callbacks+=callbacks_of_runs.Gate")
    gate, runs = tmp_path / "gate", tmp_path / "out" / "runs"
    process = start()
    while not (gate / "reached").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    os.killpg(os.getpgid(int((gate / "reached").read_text())), signal.SIGKILL)
    process.communicate()
    first = (runs / "0000" / "log.txt").read_bytes()
    (gate / "reached").unlink()
    gate.rmdir()
    process = start()
    printed, told = process.communicate()
    assert process.returncode == 0, told
    assert [json.loads(line)["state"] for line in printed.splitlines()] == ["ended", "ended"]
    assert (runs / "0000" / "log.txt").read_bytes() == first
    log = (runs / "0001" / "log.txt").read_text()
    assert log.count("\n$ ") == 1  # a second attempt after the first line's
    assert log.count("--ckpt_path=newest") == 1
    assert history(runs / "0001", "train/loss").steps == list(range(8))  # none twice, none left out
    again = (runs / "0001" / "metrics" / "version_1" / "metrics.csv").read_text().splitlines()
    assert [dict(zip(again[0].split(","), again[1].split(","), strict=True))["step"]] == ["5"]
    best = min((json.loads(line) for line in printed.splitlines()), key=lambda line: line["metric"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # of the configuration's callbacks
    assert main(["fit", "--config", "out/best.yaml", "--trainer.callbacks=null"]) == 0
    trained = yaml.safe_load((tmp_path / "out" / "best" / "config.yaml").read_text())
    rate = trained["model"]["init_args"]["optimizer"]["init_args"]["lr"]
    assert {"model.init_args.optimizer.init_args.lr": rate} == best["parameters"]
    assert (
        history(tmp_path / "out" / "best", "train/loss").values
        == history(runs / best["run"], "train/loss").values
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are shared out on Linux")
def test_both_ranks_of_a_run_have_what_the_sweep_sets_and_share_the_runs_cores(
    sweep_of, tmp_path, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ranks = [
        "--trainer.devices=2",
        "--trainer.strategy=strategies.ddp",
        "--data.init_args.micro_batch_size=4",
    ]
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SERVICE", "3-1-tcp-localhost-1")  # of a process that W&B has a run in
    start = sweep_of(*ranks, "--trainer.callbacks+=callbacks_of_runs.Ranks", workers=2, run_cap=1)
    process = start()
    printed, told = process.communicate()
    assert process.returncode == 0, told
    assert [json.loads(line)["state"] for line in printed.splitlines()] == ["ended"]
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    for rank in (0, 1):
        seen = json.loads((tmp_path / "out" / "runs" / "0000" / f"rank{rank}.json").read_text())
        assert seen == {"rate": 0.001, "threads": max(1, cores // 2), "cores": cores, "world": 2}
    # one W&B run, in the group that bears the sweep's name, which `wandb sync` takes later
    told = kept(tmp_path / "out" / "runs" / "0000")
    (run,) = [record.run for record in told if record.run.run_id]
    id = json.loads((tmp_path / "out" / "sweep.json").read_text())["id"]
    assert (run.run_group, run.run_id, run.display_name) == ("fits", f"{id}-0000", "0000")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["model.init_args.optimizer.init_args.lr"] == 0.001
