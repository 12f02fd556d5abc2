"""The scripts that start a run on several machines, here as two "machines" of one process each on this one.
SLURM's commands are stood in for by two that set what SLURM sets."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from experiments.cli.program import main
from experiments.cli.user_errors import UserError
from experiments.distributed.rendezvous import free_port, waiting_seconds
from tests.ranks import curve, fork_rank

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "experiments" / "distributed"
PAGE = (ROOT / "experiments/docs/cluster.md").read_text(encoding="utf-8")
PATIENCE = 600  # seconds for what takes fifteen on a machine with nothing else to do
LOSS = 1e-4  # fp32 sums in another order; `test_strategies.py` says more
SRUN = """#!/usr/bin/env bash
# A task for each "machine", as `srun` would start them; all end when one fails.
shift  # --kill-on-bad-exit
export SLURM_NTASKS=2 SLURM_LOCALID=0 SLURM_NODELIST=127.0.0.1
for machine in 0 1; do
    SLURM_PROCID=$machine SLURM_NODEID=$machine "$@" &
    echo $! > "$TASKS.$machine"
done
status=0
for machine in 0 1; do wait -n || status=$?; done
exit $status
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> "$TASKS.scontrol"
"""


class Held(L.Callback):
    """Tells when the first step is over, goes on once that was noticed (the file is gone), and holds the job
    before its last step until SLURM ends it."""

    def __init__(self, file: str):
        self.file = Path(file)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_rank == 1 and batch_idx == 0:
            self.file.touch()
            wait_until(lambda: not self.file.exists())
        if batch_idx == 4:
            wait_until(lambda: False)


def wait_until(happened):
    """Looks again and again, but not for ever."""
    end = time.monotonic() + PATIENCE
    while not happened() and time.monotonic() < end:
        time.sleep(0.05)


class Asking(L.Callback):
    """Is this process's SLURM, shortly before the time limit."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture(scope="module")
def config(tiny_files, tiny_tokenizer, tiny_config, tmp_path_factory):
    """A YAML of one's own: pretraining for one process of 8 rows at once."""
    folder = tmp_path_factory.mktemp("cluster")
    document = yaml.safe_load((ROOT / "experiments/configs/pretrain.yaml").read_text())
    document["model"]["init_args"] |= {"config": tiny_config, "warmup_steps": 0}
    source = {"train": str(tiny_files / "a.train.jsonl"), "weight": 1.0}
    document["data"]["init_args"] |= {"tokenizer": tiny_tokenizer, "sources": {"a": source}}
    document["data"]["init_args"] |= {"sequence_length": 32}
    document["trainer"] = {"accelerator": "cpu", "max_steps": 6, "log_every_n_steps": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    return folder / "config.yaml"


@pytest.fixture(scope="module")
def alone(config):
    """The losses of one process."""
    run = config.parent / "alone"
    assert main(["fit", "--config", str(config), "--run", str(run)]) == 0
    losses = curve(run)
    assert len(losses) == 6
    assert losses[5] < 0.95 * losses[0]
    return losses


def started(line, folder, name, **environment):
    """A script, as from a shell on a machine."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    with (folder / f"{name}.out").open("w") as out, (folder / f"{name}.err").open("w") as err:
        return subprocess.Popen(line, cwd=ROOT, env=env | environment, stdout=out, stderr=err)


def torchrun(config, folder, port, *lines):
    """Two agents of torchrun; gives exit codes and what they told."""
    machines = [
        started(
            *(
                [SCRIPTS / "torchrun.sh", config, "--run", config.parent / folder.name, *line],
                folder,
                str(number),
            ),
            **{"MACHINES": "2", "MACHINE": str(number), "PROCESSES": "1", "MASTER_PORT": port},
        )
        for number, line in enumerate(lines)
    ]
    codes = [machine.wait(PATIENCE) for machine in machines]
    return codes, [(folder / f"{number}.err").read_text() for number in (0, 1)]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_two_machines_under_torchrun_train_as_one_process(config, alone, tmp_path):
    micro = "--data.init_args.micro_batch_size=4"
    codes, errors = torchrun(config, tmp_path, str(free_port()), [micro], [micro])
    assert codes == [0, 0], errors
    assert curve(config.parent / tmp_path.name) == pytest.approx(alone, rel=LOSS)
    assert (tmp_path / "1.out").read_text() == ""
    # the other machine's own terminal is silent
    assert [line for line in errors[1].splitlines() if line.strip()] == []


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_machines_that_differ_are_refused_without_torchruns_account(config, tmp_path):
    micro = "--data.init_args.micro_batch_size=4"
    codes, errors = torchrun(config, tmp_path, str(free_port()), [micro], [micro, "--trainer.max_steps=7"])
    assert codes == [2, 2]
    (line,) = [line for line in "".join(errors).splitlines() if line.startswith("trivium")]
    assert line.startswith("trivium: rank 1 differs from rank 0 in trainer.max_steps (7 instead of 6)")
    assert "Traceback" not in "".join(errors)
    assert "FAILED" not in "".join(errors)


def machine(config, folder, number, port, seconds):
    """One process of two machines that nobody but the environment has told of each other."""
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(number)}
    env |= {"TRIVIUM_WAIT_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"}
    line = ["fit", "--config", str(config), "--run", str(folder / "run"), "--trainer.num_nodes=2"]
    line += ["--trainer.devices=1", "--trainer.strategy=ddp", "--data.init_args.micro_batch_size=4"]
    return fork_rank(env, [line], folder / f"{number}.out", folder / f"{number}.err")


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (
            0,
            "trainer.num_nodes is 2, but machine 1 did not come to 127.0.0.1:{} within 1 seconds: start ",
        ),
        (
            1,
            "rank 1 cannot reach rank 0 at 127.0.0.1:{}, where the ranks meet, within 1 seconds: MASTER",
        ),
    ],
)
def test_a_machine_that_never_comes_is_told_after_the_wait_that_was_announced(config, tmp_path, number, told):
    port = free_port()
    alone = machine(config, tmp_path, number, port, seconds=1)
    alone.join(PATIENCE)
    assert alone.exitcode == 2
    said = f"waiting for 2 machines at 127.0.0.1:{port}, 1 seconds at most (TRIVIUM_WAIT_SECONDS)"
    assert said in (tmp_path / f"{number}.out").read_text()
    errors = (tmp_path / f"{number}.err").read_text()
    (line,) = [line for line in errors.splitlines() if line.startswith("trivium: ")]
    assert line.startswith(f"trivium: {told.format(port)}")
    assert "Traceback" not in errors
    assert "frame #" not in errors  # of torch's C++
    assert not (tmp_path / "run/config.yaml").exists()


def test_two_machines_that_find_each_other_by_the_environment_train_as_one_process(config, alone, tmp_path):
    port = free_port()
    machines = [machine(config, tmp_path, number, port, seconds=PATIENCE) for number in (0, 1)]
    for each in machines:
        each.join(PATIENCE)
    told = [(tmp_path / f"{number}.err").read_text() for number in (0, 1)]
    assert [each.exitcode for each in machines] == [0, 0], told
    assert curve(tmp_path / "run") == pytest.approx(alone, rel=LOSS)


@pytest.mark.parametrize("given", ["soon", "0", "-3"])
def test_a_wait_that_is_no_number_of_seconds_is_refused(monkeypatch, given):
    monkeypatch.setenv("TRIVIUM_WAIT_SECONDS", given)
    with pytest.raises(UserError, match=f"TRIVIUM_WAIT_SECONDS is '{given}': give seconds, 1 or more"):
        waiting_seconds()


@pytest.fixture
def slurm(tmp_path):
    """What a SLURM job's environment holds, with `srun` and `scontrol`."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    script = (SCRIPTS / "slurm.sbatch").read_text()
    signalled = re.search(r"#SBATCH --signal=(\w+)@\d+", script)
    assert signalled[1] == "SIGUSR1"
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "TASKS": str(tmp_path / "task"),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "trivium",
        "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_CPUS_PER_TASK": "1",
        "MASTER_PORT": str(free_port()),
    }


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_a_slurm_job_saves_before_its_time_limit_and_goes_on(config, alone, slurm, tmp_path):
    run = tmp_path / "run"
    line = ["bash", SCRIPTS / "slurm.sbatch", config, run, "--data.init_args.micro_batch_size=4"]
    step = tmp_path / "step"
    held = json.dumps({"class_path": f"{__name__}.Held", "init_args": {"file": str(step)}})
    job = started([*line, f"--trainer.callbacks+={held}"], tmp_path, "first", **slurm)
    wait_until(lambda: step.exists() or job.poll() is not None)
    # both ranks have their handlers; only one is signalled
    os.kill(int((tmp_path / "task.1").read_text()), signal.SIGUSR1)
    step.unlink()
    requeued = tmp_path / "task.scontrol"
    wait_until(lambda: job.poll() is not None or (requeued.exists() and requeued.read_text().endswith("\n")))
    assert requeued.exists(), (tmp_path / "first.err").read_text()
    assert requeued.read_text() == "requeue 4711\n"
    for machine in (0, 1):  # SLURM ends the job
        os.kill(int((tmp_path / f"task.{machine}").read_text()), signal.SIGKILL)
    job.wait(PATIENCE)
    steps = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 0 < steps < 6
    assert not list(run.glob("hpc*"))  # Lightning's own, which the next run would take
    again = started(
        line, tmp_path, "second", **{**slurm, "SLURM_RESTART_COUNT": "1", "MASTER_PORT": str(free_port())}
    )
    assert again.wait(PATIENCE) == 0, (tmp_path / "second.err").read_text()
    assert f"Restoring states from the checkpoint path at {run}" in (tmp_path / "second.err").read_text()
    assert curve(run) == pytest.approx(alone, rel=LOSS)
    assert (tmp_path / "second.out").read_text().count("Data receipt") == 1


def test_ppo_saves_before_the_time_limit_after_the_iteration_however_seldom_it_logs(
    tiny_stages, tmp_path, monkeypatch, caplog
):
    """8 optimizer steps an iteration; neither of two iterations ends at a multiple of 50."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    job = {"JOB_ID": "4711", "JOB_NAME": "trivium", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}
    for name, value in {**job, "NODEID": "0", "NODELIST": "127.0.0.1", "NTASKS_PER_NODE": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("TASKS", str(tmp_path / "task"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    asking = json.dumps({"class_path": f"{__name__}.Asking"})
    line = [*tiny_stages.stage("ppo"), "--run", str(tmp_path / "run"), f"--trainer.callbacks+={asking}"]
    before = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)]
    try:
        with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
            assert main([*line, "--trainer.max_steps=16", "--trainer.log_every_n_steps=50"]) == 0
    finally:
        for number, handler in zip((signal.SIGUSR1, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    assert (tmp_path / "task.scontrol").read_text() == "requeue 4711\n"
    assert "last.ckpt at step 8; the job is queued again" in caplog.text


@pytest.mark.parametrize(
    ("there", "restarts", "option"),
    [
        ([], "0", None),
        ([], "1", "--overwrite true"),
        (["last.ckpt"], "0", "--ckpt_path newest"),
        (["step=4.ckpt"], "1", "--ckpt_path newest"),  # killed between its two names
        (["last.ckpt.old", "last.ckpt.part"], "1", "--ckpt_path newest"),
        (["step=4.ckpt.part"], "1", "--overwrite true"),
    ],
)
def test_the_slurm_script_goes_on_from_what_is_there(tmp_path, there, restarts, option):
    (tmp_path / "srun").write_text('#!/usr/bin/env bash\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    for name in there:
        (tmp_path / "run" / "checkpoints" / name).mkdir(parents=True)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_NNODES": "1",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_RESTART_COUNT": restarts,
    }
    line = ["bash", SCRIPTS / "slurm.sbatch", "a.yaml", tmp_path / "run", "--more"]
    told = subprocess.run(line, env=environment, check=True, capture_output=True, text=True).stdout
    assert told.endswith("--trainer.devices=1" + (f" {option}" if option else "") + " --more\n")


def test_the_scripts_are_bash():
    for script in ("torchrun.sh", "slurm.sbatch"):
        subprocess.run(["bash", "-n", SCRIPTS / script], check=True)
    assert os.access(SCRIPTS / "torchrun.sh", os.X_OK)


def test_the_page_names_what_is_there():
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "experiments/docs" / link).exists()
    commands = [
        shlex.split(line)
        for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(commands) == 3
    for command in commands:
        assert any((ROOT / word).is_file() for word in command)
