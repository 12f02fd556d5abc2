"""Several ranks speak as one: what they say is said once, the first error ends them all within 30 seconds,
and ranks that were started differently are found out before the first step.

Ranks that torchrun would start are forked from a server that has imported everything already.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import psutil
import pytest

from experiments.cli.user_errors import REPORT
from experiments.distributed.ranks import differences, ranks
from experiments.distributed.rendezvous import free_port
from tests.ranks import fork_rank, torchrun

ROOT = Path(__file__).resolve().parent.parent
BOUND = 30  # seconds from a rank's death to the end of the others
PATIENCE = 600  # seconds for what takes ten on a machine with nothing else to do
# what Lightning says at every start; none of it may come twice
LIGHTNING = (
    "Seed set",
    "GPU available",
    "TPU available",
    "nitializing d",
    "distributed_backend",
    "---",
    "All d",
    "is exact here with",  # ours: the route of a network, told by the first rank
)


class Fault(L.Callback):
    """Does something bad to one rank before the third batch, and writes down when."""

    def __init__(self, rank: int, kind: str, file: str):
        self.rank, self.kind, self.file = rank, kind, file

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:  # once: a rank that is ended while it writes would leave nothing
            Path(f"{self.file}.{trainer.global_rank}").write_text(str(os.getpid()))
            for child in ranks.children:  # which in front of a warm Python is another process
                Path(f"{self.file}.child").write_text(str(child.pid))
        if batch_idx != 2 or trainer.global_rank != self.rank:
            return
        Path(self.file).write_text(str(time.time()))
        if self.kind == "raise":
            raise RuntimeError("the cable was pulled")
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}[self.kind])


def has_ended(pid: int) -> bool:
    """Whether a process is no more, or waits only for somebody to ask for its exit code."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def when_gone(*pids: int) -> dict[int, float]:
    """Waits for processes to end; gives when each did."""
    return ends(lambda: [list(pids)])


def ends(known: Callable[[], list[list[int]]]) -> dict[int, float]:
    """Waits until all commands have processes, none of which runs any more; gives when each ended, by its id.
    `known` gives each command's, nothing while it has none yet: each is watched from then on."""
    found: dict[int, float] = {}
    events, end = -1, 0.0
    while True:
        commands = known()
        pids = {pid for command in commands for pid in command}
        if len(pids) + len(found) > events:  # one has begun or ended: PATIENCE is for the next
            events, end = len(pids) + len(found), time.time() + PATIENCE
        for pid in pids - set(found):
            if has_ended(pid):
                found[pid] = time.time()
        hung = pids - set(found)
        if all(commands) and not hung:
            return found
        if time.time() > end:
            for pid in hung:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            pytest.fail(f"{len(hung)} processes hang")
        time.sleep(0.05)


class Pair:
    """Two ranks, as torchrun would start them on one machine, each with a command line of its own."""

    def __init__(self, folder: Path, *lines: list[str]):
        folder.mkdir()
        port = free_port()
        self.folder, self.ranks = folder, []
        for rank, line in enumerate(lines):
            files = folder / f"{rank}.out", folder / f"{rank}.err"
            self.ranks.append(fork_rank(torchrun(rank, 2, port), [line], *files))

    def pids(self) -> list[int]:
        return [rank.pid for rank in self.ranks]

    def wait(self) -> list[int]:
        """Exit codes."""
        when_gone(*self.pids())
        for rank in self.ranks:
            rank.join()
        return [rank.exitcode for rank in self.ranks]

    @property
    def told(self) -> list[str]:
        """What both have said to the user of their own accord."""
        files = sorted(self.folder.glob("*.err"))
        lines = [line for file in files for line in file.read_text().splitlines() if line.strip()]
        return [line for line in lines if not any(word in line for word in LIGHTNING)]


@pytest.fixture(scope="module")
def start(tiny_files, tiny_tokenizer, tiny_config, tmp_path_factory):
    """Makes the command line of a run: four steps of pretraining by two ranks."""
    out = tmp_path_factory.mktemp("ranks")
    runs = iter(range(100))

    def line(*more, strategy="ddp", files=tiny_files, devices=2, **source):
        sources = {
            "a": {
                "train": str(files / "a.train.jsonl"),
                "val": str(files / "a.val.jsonl"),
                "weight": 1.0,
                **source,
            }
        }
        return [
            *(
                "fit",
                "--config",
                str(ROOT / "experiments/configs/pretrain.yaml"),
                "--run",
                f"{out}/{next(runs)}",
            ),
            *(f"--model.init_args.config={json.dumps(tiny_config)}", "--model.init_args.warmup_steps=0"),
            *(
                f"--data.init_args.tokenizer={tiny_tokenizer}",
                f"--data.init_args.sources={json.dumps(sources)}",
            ),
            *("--data.init_args.sequence_length=32", "--data.init_args.micro_batch_size=4"),
            *("--trainer.accelerator=cpu", f"--trainer.devices={devices}", "--trainer.max_steps=4"),
            *(f"--trainer.strategy=strategies.{strategy}", "--trainer.limit_val_batches=0"),
            *("--trainer.precision=32-true", "--trainer.log_every_n_steps=1", *more),
        ]

    return line


def fault(rank: int, kind: str, file: Path) -> str:
    options = {"rank": rank, "kind": kind, "file": str(file)}
    return f"--trainer.callbacks+={json.dumps({'class_path': f'{__name__}.Fault', 'init_args': options})}"


def trivium(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("trivium: ")]


# --- errors of one rank, as torchrun starts it

FAULTS = [(1, "raise"), (1, "kill"), (0, "kill")]


@pytest.fixture(scope="module", params=["ddp", "fsdp", "deepspeed"])
def faults(request, start, tmp_path_factory):
    """All faults under a strategy, at the same time: (rank, kind) → its pair."""
    folder = tmp_path_factory.mktemp(request.param)
    pairs = {}
    for rank, kind in FAULTS:
        line = start(fault(rank, kind, folder / f"{rank}{kind}"), strategy=request.param)
        pairs[rank, kind] = Pair(folder / f"pair{rank}{kind}", line, line)
    ended = when_gone(*(pid for pair in pairs.values() for pid in pair.pids()))
    return folder, pairs, ended


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "kind"), FAULTS)
def test_an_error_of_one_rank_is_told_once_and_ends_the_other(faults, rank, kind):
    folder, pairs, ended = faults
    pair = pairs[rank, kind]
    died = float((folder / f"{rank}{kind}").read_text())
    assert all(died < ended[pid] < died + BOUND for pid in pair.pids())
    codes = pair.wait()
    assert codes[1 - rank] == 1
    assert codes[rank] == (1 if kind == "raise" else -signal.SIGKILL)
    if kind == "raise":
        told = ["trivium: rank 1: RuntimeError: the cable was pulled", f"trivium: {REPORT}"]
        assert trivium(pair.told) == pair.told[-2:] == told
        assert pair.told.count("Traceback (most recent call last):") == 1
    else:
        (line,) = trivium(pair.told)
        assert line.startswith(f"trivium: rank {rank} (process {pair.pids()[rank]}) was killed")
        assert pair.told == [line]


# --- under Lightning's launcher


class Launched:
    """A command of a user, whose processes Lightning starts."""

    def __init__(self, python: Path, line: list[str], folder: Path):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.out, self.err = folder.with_suffix(".out"), folder.with_suffix(".err")
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [python, "-m", "experiments.cli", *line], cwd=ROOT, env=env, stdout=out, stderr=err
            )
        self.pids: list[int] = []

    def known(self, files: list[Path]) -> list[int]:
        """The ids of its ranks, once both have written theirs to files."""
        written = [file.read_text() if file.is_file() else "" for file in files]
        assert all(written) or self.process.poll() is None, self.err.read_text()
        self.pids = [int(text) for text in written] if all(written) else []
        return self.pids


LAUNCHED = {
    "whole": ("ddp", None, None),
    "killed": ("fsdp", 1, "kill"),
    "head": ("deepspeed", 0, "kill"),
    "interrupt": ("ddp", 0, "interrupt"),
}


@pytest.fixture(scope="module")
def launched(start, tmp_path_factory, warm_folder):
    """All of them at the same time."""
    folder = tmp_path_factory.mktemp("launched")
    found = {}
    for name, (strategy, rank, kind) in LAUNCHED.items():
        more = [] if rank is None else [fault(rank, kind, folder / name)]
        line = start(*more, strategy=strategy)
        found[name] = Launched(warm_folder / "python", line, folder / name)
    files = {name: [folder / f"{name}.{rank}" for rank in (0, 1)] for name in found if name != "whole"}
    ended = ends(lambda: [found[name].known(pair) for name, pair in files.items()])
    for run in found.values():
        run.ended, run.code = [ended[pid] for pid in run.pids], run.process.wait()
        run.lines = [line for line in run.err.read_text().splitlines() if line.strip()]
        run.told = [line for line in run.lines if not any(word in line for word in LIGHTNING)]
    return folder, found


@pytest.mark.slow
def test_two_ranks_say_everything_once(launched):
    run = launched[1]["whole"]
    assert run.code == 0
    out = run.out.read_text()
    assert out.count("Data receipt") == out.count("networks: ") == out.count("optimizer steps in ") == 1
    once = [line for line in run.lines if "-----" not in line]  # Lightning's rule above and below
    assert len(once) == len(set(once))
    for word in ("Seed set", "nitializing d", "stopped"):
        assert sum(word in line for line in run.lines) == 1
    assert "rank: 1" not in run.err.read_text()
    assert "tokenising" not in run.err.read_text()  # a bar is for a terminal


@pytest.mark.slow
@pytest.mark.parametrize("name", ["killed", "head", "interrupt"])
def test_lightnings_ranks_end_together(launched, name):
    folder, runs = launched
    run, died = runs[name], float((folder / name).read_text())
    assert all(died < end < died + BOUND for end in run.ended)
    if name == "head":  # nobody is left who could give another code
        assert run.code == -signal.SIGKILL
    else:
        assert run.code == 1
    told = {
        "killed": f"trivium: rank 1 (process {(folder / 'killed.child').read_text()}) was killed",
        "head": f"trivium: rank 0 (process {run.pids[0]}) was killed",
    }
    if name == "interrupt":
        assert trivium(run.told) == []
        assert "Traceback" not in run.err.read_text()
    else:
        (line,) = trivium(run.told)
        assert line.startswith(told[name])
        assert "Traceback" not in run.err.read_text()


# --- refusals


@pytest.fixture(scope="module")
def elsewhere(tiny_files, tmp_path_factory):
    """The same data in another place, and data that differs in one row."""
    same, other = (tmp_path_factory.mktemp("files") / name for name in ("same", "other"))
    for folder in (same, other):
        shutil.copytree(tiny_files, folder)
    with (other / "a.val.jsonl").open("a") as file:
        file.write('{"text": "the film"}\n')
    return same, other


@pytest.fixture(scope="module")
def weights(tiny_files, tiny_tokenizer, tiny_config, tmp_path_factory):
    """Three folders with a model: the second's weights are the first's, the third's are others."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folders = [tmp_path_factory.mktemp("weights") / name for name in "abc"]
    config = AutoConfig.for_model(**tiny_config, vocab_size=330)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folders[0])
    model.save_pretrained(folders[1])
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight += 0.01
    model.save_pretrained(folders[2])
    return folders


@pytest.mark.slow
def test_ranks_that_differ_are_refused_with_what_differs(start, elsewhere, weights, tmp_path):
    from_weights = ["--model.init_args.config=null"]
    models = [[*from_weights, f"--model.init_args.pretrained={folder}"] for folder in weights]
    same, other = elsewhere
    cases = {
        "model.warmup_steps (1 instead of 0)": (start(), start("--model.init_args.warmup_steps=1")),
        "data.sources.a.val (content ": (start(), start(files=other)),
        "model.pretrained (content ": (start(*models[0]), start(*models[2])),
        "trainer.strategy ('strategies.fsdp' instead of 'strategies.ddp')": (start(), start(strategy="fsdp")),
    }
    pairs = [Pair(tmp_path / str(number), *lines) for number, lines in enumerate(cases.values())]
    for what, pair in zip(cases, pairs, strict=True):
        assert pair.wait() == [2, 2], "\n".join(pair.told)
        (line,) = pair.told
        assert line.startswith(f"trivium: rank 1 differs from rank 0 in {what}")
        assert " and " not in line.partition(":")[2].partition(":")[0]  # nothing else
    # another place, another folder for the run, workers, and how much is shown are a machine's own
    workers = ["--data.init_args.num_workers=1", "--trainer.enable_model_summary=false"]
    pair = Pair(tmp_path / "fine", start(*models[0]), start(*models[1], *workers, files=same))
    assert pair.wait() == [0, 0]
    assert pair.told == ["`Trainer.fit` stopped: `max_steps=4` reached."]


def test_versions_are_compared():
    there = {"the version of torch": "2.13.0", "trivium's own source": "ab", "trainer.max_steps": "4"}
    here = {"the version of torch": "2.13.1", "trivium's own source": "ab", "trainer.max_steps": "4"}
    assert differences(here, there) == "the version of torch (2.13.1 instead of 2.13.0)"
    assert differences(there, there) == ""


@pytest.mark.slow
def test_a_mistake_that_all_ranks_meet_is_told_once(start, rows, tiny_files, tmp_path):
    texts = [{"text": "the film is good and the story is not"} for _ in range(40)]
    bad = tmp_path / "bad"
    bad.mkdir()
    rows(bad / "a.train.jsonl", [*texts, {"text": 3}])
    shutil.copy(tiny_files / "a.val.jsonl", bad)
    cases = {
        "there is no option --trainer.max_stepz": (start("--trainer.max_stepz=3"),) * 2,
        "model.warmup_steps is -1": (start("--model.init_args.warmup_steps=-1"),) * 2,
        "trainer.devices × trainer.num_nodes is 1, but 2 processes were started": (start(devices=1),) * 2,
        f"data.sources.a: {bad}/a.train.jsonl:41": (start(files=bad, streaming=True),) * 2,
        f"data.sources.a: {bad}/a.train.jsonl:41:": (start(files=bad),) * 2,
    }
    pairs = [Pair(tmp_path / str(number), *lines) for number, lines in enumerate(cases.values())]
    for what, pair in zip(cases, pairs, strict=True):
        assert pair.wait() == [2, 2], "\n".join(pair.told)
        (line,) = pair.told
        assert line.removeprefix("trivium: ").removeprefix("rank 1: ").startswith(what)


ALONE = """
import os, sys
from experiments.cli.program import main
from experiments.distributed.launcher import RANK_VARIABLES
from experiments.distributed.ranks import ranks
assert main(sys.argv[1:]) == 0
assert ranks.store is None
assert not [name for name in RANK_VARIABLES if name in os.environ]
"""


@pytest.mark.slow
def test_a_strategy_on_one_device_leaves_nothing_behind_for_the_next_run(tiny_stages, warm_python):
    """The next run's errors are raised, as in any process that is alone."""
    line = [*tiny_stages.stage("sft", run="one_device"), "--trainer.max_steps=1", "--trainer.accelerator=cpu"]
    line += ["--trainer.devices=1", "--trainer.strategy=strategies.fsdp", "--trainer.limit_val_batches=0"]
    command = [sys.executable, "-c", ALONE, *line]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
