"""A fit tells its memory before the first step, warns where it will not do, and ends with the plan when
memory runs out."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from experiments.callbacks import memory_forecast
from experiments.cli.parser import ParseOnly, parse
from experiments.cli.program import main
from experiments.cli.user_errors import UserError
from experiments.distributed.rendezvous import free_port
from experiments.plan import advice, budget
from experiments.plan.config import read_run, run_of
from experiments.plan.estimate import estimate_memory
from experiments.plan.strategies_memory import DDP
from tests.ranks import SECONDS, fork_code, torchrun

ROOT = Path(__file__).resolve().parent.parent
WIDE = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 512,
}


def one_step(tiny_stages, run: str, *more: str) -> list[str]:
    line = [*tiny_stages.stage("pretrain", run=run), "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu"]
    return [*line, *more]


def test_a_fit_tells_what_a_rank_needs_and_has(tiny_stages, capsys):
    assert main(one_step(tiny_stages, "told")) == 0
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if line.startswith("memory: ")]
    assert len(lines) == 1
    assert lines[0].startswith("memory: a rank needs about ")
    assert " states, " in lines[0]
    assert ": this machine's RAM" in lines[0]
    assert "warning" not in err


def test_too_little_memory_is_a_warning_with_what_helps_most(tiny_stages, capsys, monkeypatch):
    monkeypatch.setattr(budget, "ram_bytes", lambda: 2_000_000)  # no machine of this size is at hand
    more = ["--data.init_args.micro_batch_size=8", "--data.init_args.global_batch_size=8"]
    assert main(one_step(tiny_stages, "warned", *more)) == 0
    out, err = capsys.readouterr()
    assert "it has 2 MB: this machine's RAM" in out
    (line,) = [line for line in err.splitlines() if line.startswith("trivium: ")]
    assert line.startswith(
        "trivium: warning: this run will not fit: what would help most is --data.init_args.mic"
    )


def test_a_run_that_cannot_be_planned_runs_all_the_same(tiny_stages, capsys, monkeypatch):
    def exotic(*_):
        raise RuntimeError("a network that nobody can count\nwith details")

    monkeypatch.setattr("experiments.callbacks.memory_forecast.run_of", exotic)
    assert main(one_step(tiny_stages, "exotic")) == 0
    assert "memory: no plan for this run: a network that nobody can count\n" in capsys.readouterr().out


def test_validation_has_no_plan(tiny_stages, capsys):
    line = [*tiny_stages.stage("pretrain", "validate", "validated"), "--trainer.accelerator=cpu"]
    assert main([*line, f"--ckpt_path={tiny_stages.out}/pretrain/checkpoints/last.ckpt"]) == 0
    assert "memory: " not in capsys.readouterr().out


# --- which change helps most


def run_of_two(tiny_stages, *more: str):
    """Two ranks, eight rows a forward."""
    _, _, file, *options = tiny_stages.stage("pretrain")
    options += ["--data.init_args.micro_batch_size=8", "--data.init_args.global_batch_size=16", *more]
    return read_run([file], options, 2)


def test_fewer_rows_help_where_activations_are_most(tiny_stages):
    run = run_of_two(tiny_stages)
    change = advice.most_helpful(run)
    assert change.text == "--data.init_args.micro_batch_size 1"
    assert change.peak < estimate_memory(run, run.parallelism).peak / 2


def test_another_strategy_helps_where_states_are_most(tiny_stages):
    config = {**WIDE, "num_hidden_layers": 24}
    run = run_of_two(tiny_stages, f"--model.init_args.config={json.dumps(config)}")._replace(
        rows=1, micro_batch_size=1, tokens=16
    )
    change = advice.most_helpful(run)
    assert "strategies.fsdp" in change.text or "strategies.tensor_parallel" in change.text
    assert change.peak < 0.7 * estimate_memory(run, run.parallelism).peak


def test_checkpointing_is_advised_only_where_the_stage_has_it(tiny_stages):
    run = run_of_two(tiny_stages)._replace(micro_batch_size=1, devices=1)
    given = [change.text for change in advice.changes(run._replace(checkpointing=False))]
    assert given == ["--model.init_args.activation_checkpointing true"]
    assert advice.changes(run._replace(checkpointing=None)) == []
    assert advice.most_helpful(run._replace(checkpointing=True)) is None


# --- memory runs out


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be …"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (dist.DistBackendError("NCCL error …\nLast error:\nFailed to CUDA calloc 6291456 bytes"), True),
        (dist.DistBackendError("NCCL error …\nLast error:\nCuda failure 2 'out of memory'"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("DefaultCPUAllocator"), False),
    ],
)
def test_what_an_error_is_about(error, is_memory):
    assert memory_forecast.ran_out(error) is is_memory


LIMITED = """
import os, resource, sys
import torch, transformers
from experiments.callbacks import memory_forecast
from experiments.cli.program import main
clear = memory_forecast.clear_frames
def clear_and_lift(trace):
    # the step's limit: it counts what the C library keeps for later too, which cannot be had for the plan
    clear(trace)
    resource.setrlimit(resource.RLIMIT_DATA, (unlimited, unlimited))
if os.environ.get("RANK") != "0":  # of two ranks only the second has too little
    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    most = int(status["VmData"].split()[0]) * 1024 + 700_000_000
    _, unlimited = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, unlimited))
    memory_forecast.clear_frames = clear_and_lift
code = main(sys.argv[1:])
"""


def too_large(tiny_stages, run: str) -> list[str]:
    """32 rows of 128 tokens keep some 0.7 GB, and states take 0.2: more than the process may have."""
    more = [f"--model.init_args.config={json.dumps(WIDE)}", "--data.init_args.sequence_length=128"]
    return one_step(tiny_stages, run, *more, "--data.init_args.micro_batch_size=32")


def shows_the_plan_and_the_remedy(told: str) -> str:
    """Holds errors against what is promised; gives the first line."""
    assert "Traceback" not in told
    before, title, table = told.partition("bytes of a rank at its fullest")
    assert title
    for word in ("weights", "gradients", "optimizer", "activations", "peak"):
        assert len(re.findall(rf"^ +{word} ", table, re.MULTILINE)) == 1
    first, remedy = [text for text in told.splitlines() if text.startswith("trivium: ")]
    assert first in before
    assert remedy.startswith(
        "trivium: what would help most is --data.init_args.micro_batch_size 1, with which"
    )
    return first


@pytest.mark.slow
def test_running_out_of_memory_ends_with_the_plan_and_the_remedy(tiny_stages):
    line = [*too_large(tiny_stages, "out"), "--data.init_args.global_batch_size=32"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", f"{LIMITED}sys.exit(code)", *line],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=600,
        check=False,
    )
    assert done.returncode == 2, done.stderr[-3000:]
    assert shows_the_plan_and_the_remedy(done.stderr).startswith("trivium: out of memory after 0 steps: ")


@pytest.mark.slow
def test_whichever_rank_runs_out_of_memory_shows_the_plan_once(tiny_stages, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    line = [*too_large(tiny_stages, "second"), "--data.init_args.global_batch_size=64"]
    line += ["--trainer.devices=2", "--trainer.strategy=strategies.ddp"]
    port, code = free_port(), f"{LIMITED}sys.exit(code)"
    ranks = []
    for rank in (0, 1):
        files = tmp_path / f"out.{rank}", tmp_path / f"errors.{rank}"
        ranks.append(fork_code({**os.environ, **torchrun(rank, 2, port)}, code, line, *files))
    for process in ranks:
        process.join(SECONDS)
    assert [process.exitcode for process in ranks] == [2, 2]
    assert "trivium" not in (tmp_path / "errors.0").read_text()
    told = (tmp_path / "errors.1").read_text()
    assert shows_the_plan_and_the_remedy(told).startswith("trivium: rank 1 ran out of memory after 0 steps: ")


def test_a_plan_that_fails_for_want_of_memory_does_not_hide_what_the_run_met(tiny_stages, monkeypatch):
    line = [*tiny_stages.stage("pretrain"), "--seed_everything=false"]
    plan = memory_forecast.Forecast(
        run_of(parse(line, ParseOnly).config["fit"], 2), 2**30, "this machine's RAM"
    )
    trainer = SimpleNamespace(world_size=2, global_rank=1, global_step=3)

    def fails(*_):
        raise TypeError("'hamt_bitmap_node' object is not callable")  # as Python did, out of memory

    monkeypatch.setattr(memory_forecast, "strategies_table", fails)
    told = memory_forecast.explained(plan, trainer, MemoryError())
    assert isinstance(told, UserError)
    assert str(told) == "rank 1 ran out of memory after 3 steps: MemoryError"


def test_the_plan_of_a_fit_costs_less_than_a_second(tiny_stages):
    """Of processor time, which other processes do not lengthen much; LLaMA 7B, nothing counted before."""
    seven = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32000}
    heads = {"model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 32}
    parsed = []
    for network in (WIDE, {**heads, **seven}):
        line = [*tiny_stages.stage("pretrain"), f"--model.init_args.config={json.dumps(network)}"]
        parsed.append(parse([*line, "--seed_everything=false"], ParseOnly).config["fit"])
    estimate_memory(run_of(parsed[0], 2), DDP(2))  # imports
    begin = time.process_time()
    assert estimate_memory(run_of(parsed[1], 2), DDP(2)).peak > 100e9
    assert time.process_time() - begin < 1
