"""16 bits are taken where a device has them in hardware, refused where it would only imitate them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from experiments.cli.program import main
from strategies.precision import ALLOWED, cpu_has, in_hardware, precision_errors, precision_of

ROOT = Path(__file__).resolve().parent.parent
NATIVE = in_hardware("bf16", "cpu")


def with_avx2_alone(*command: str) -> subprocess.CompletedProcess:
    """Runs a command on this CPU as oneDNN would see it without AVX-512 and AMX: there it has no bf16, and
    torch multiplies bf16 in a loop of its own."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(ROOT)}
    environment.pop(ALLOWED, None)
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize(
    ("onednn", "capabilities", "native"),
    [
        (True, {"avx512_f": True, "avx512_bf16": True}, True),  # Zen 4
        (True, {"avx512_f": True, "amx_bf16": True}, True),  # Sapphire Rapids
        (True, {"avx512_f": True, "avx512_bf16": False}, False),  # Skylake-X: oneDNN imitates bf16
        (False, {"avx2": True}, False),  # Zen 3
        (False, {"avx512_bf16": True}, False),  # the instructions, but nobody who uses them
        (True, {"neon": True, "bf16": True}, True),  # Arm, Neoverse V1
        (True, {"neon": True, "bf16": False}, False),
    ],
)
def test_a_cpu_has_bf16_where_onednn_takes_it_and_the_instructions_are_there(onednn, capabilities, native):
    assert cpu_has("bf16", onednn, capabilities) == native


def test_bf16_is_in_hardware_only_if_its_products_keep_up_with_fp32s():
    """The answer is held against the clock, on whatever CPU this is."""
    code = "from strategies.precision import in_hardware; print(in_hardware('bf16', 'cpu'))"
    code += """
import time, torch
torch.set_num_threads(1)
def seconds(dtype):
    a, b, times = torch.randn(384, 384).to(dtype), torch.randn(384, 384).to(dtype), []
    for _ in range(8):
        start = time.perf_counter(); a @ b; times.append(time.perf_counter() - start)
    return min(times)
print(seconds(torch.bfloat16) / seconds(torch.float32))
"""
    for run in (with_avx2_alone("-c", code), subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )):  # fmt: skip
        native, slower = run.stdout.split()
        assert (native == "True") == (float(slower) < 4)  # 0.1 and 60 on a Xeon with AMX; 390 on Zen 3


def test_auto_is_bf16_where_the_cpu_has_it_and_is_told_and_saved(tiny_stages, capsys):
    run = tiny_stages.out / "auto"
    line = [*tiny_stages.stage("pretrain", run="auto"), "--trainer.precision=auto", "--trainer.max_steps=2"]
    assert main(line) == 0
    expected = "bf16-mixed" if NATIVE else "32-true"
    assert f"precision: {expected}" in capsys.readouterr().out
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"] == expected


ONE_AFTER_ANOTHER = """
import json, sys
from experiments.cli.program import main
for precision in sys.argv[2:]:
    print("exit code", main([*json.loads(sys.argv[1]), f"--trainer.precision={precision}"]))
"""


def test_without_bf16_instructions_auto_is_fp32_and_bf16_is_refused_in_one_line(tiny_stages):
    line = [*tiny_stages.stage("pretrain", run="avx2"), "--trainer.max_steps=2", "--overwrite=true"]
    refused = ("bf16-mixed", "bf16-true", "16-mixed")
    done = with_avx2_alone("-c", ONE_AFTER_ANOTHER, json.dumps(line), "auto", *refused)
    assert re.findall(r"exit code (\d)", done.stdout) == ["0", "2", "2", "2"], done.stderr
    assert "precision: 32-true" in done.stdout
    lines = [text for text in done.stderr.splitlines() if text.startswith("trivium: ")]
    for precision, told in zip(refused, lines, strict=True):
        assert f"trainer.precision is {precision}" in told
        assert "give --trainer.precision 32-true" in told


def test_a_strategys_bf16_parameters_are_refused_likewise():
    code = "import torch; from strategies.precision import precision_errors as e; "
    code += "print(e('32-true', 'cpu', torch.bfloat16), e('32-true', 'cpu', torch.float32))"
    told = with_avx2_alone("-c", code).stdout
    assert told.count("trainer.strategy: parameters is bf16") == 1
    assert told.endswith(" []\n")


def test_what_is_given_stays_as_it_is():
    for precision in ("32-true", "bf16-mixed", 64, None):
        assert precision_of(precision, "cpu") == precision
    assert precision_errors("32-true", "cpu") == []
    assert precision_errors("bf16-mixed", "tpu") == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")
def test_auto_looks_at_the_device_that_is_used():
    assert precision_of("auto", "auto") == precision_of("auto", "cpu")
    assert precision_of("auto", "tpu") == "32-true"
