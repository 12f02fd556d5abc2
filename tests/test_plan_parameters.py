"""`trivium plan --parameters`, which needs no config, and what a wrong command line is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli.program import main
from tests.conftest import CONFIGS

ROOT = Path(__file__).resolve().parent.parent


def test_parameters_alone_need_no_torch():
    code = (
        "import sys, experiments.cli.program as c\n"
        "c.main('plan --parameters 7.5e9 --devices 64 --json'.split())\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert {"torch", "lightning", "transformers", "numpy"}.isdisjoint(done.stderr.split())


def test_parameters_alone_give_the_states_and_the_tokens(capsys):
    assert main(["plan", "--parameters", "7.5e9", "--devices", "64", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out) == {
        "parameters": 7_500_000_000,
        "states_bytes_per_rank": {
            "ddp": 120_000_000_000,
            "zero1": 31_406_250_000,
            "zero2": 16_640_625_000,
            "zero3": 1_875_000_000,
            "fsdp": 1_875_000_000,
        },
        "tokens": {"1.7x": 12_750_000_000, "20x": 150_000_000_000},
    }


@pytest.mark.parametrize(
    ("layout", "size"), [("fp32", 16), ("bf16-autocast", 16), ("mixed", 16), ("bf16", 8)]
)
def test_the_layout_decides_the_bytes_a_parameter(layout, size, capsys):
    assert main(["plan", "--parameters", "1000", "--layout", layout, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["states_bytes_per_rank"].values()) == {size * 1000}


def test_words_for_people(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    line = ["plan", "--parameters", "7.5e9", "--devices", "64", "--memory", "20e9"]
    assert main([*line, "--flops", "989e12", "--mfu", "0.4"]) == 0
    out = capsys.readouterr().out
    assert "zero2 is the simplest whose states fit 20 GB" in out
    assert "31.41 GB > 20 GB" in out
    assert (
        "an estimated 3.09 days on 64 devices" in out
    )  # 6 · 7.5e9 · 150e9 / (64 · 989e12 · 0.4) = 266 600 s
    assert "1.7x = 12.75 G, 20x = 150 G" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--parameters 0", "--parameters is '0': give a number of 1 or more, such as 7.5e9"),
        ("--parameters lots", "--parameters is 'lots': give a number of 1 or more, such as 7.5e9"),
        ("--parameters 7e9 --devices 0", "--devices is '0': give a number of 1 or more, such as 64"),
        ("--parameters 7e9 --devices -4", "--devices is '-4': give a number of 1 or more, such as 64"),
        ("--parameters 7e9 --devices 2.5", "--devices is '2.5': give a whole number"),
        ("--parameters 7e9 --memory 0", "--memory is '0': give a number of 1 or more, bytes of a device"),
        ("--parameters 7e9 --memory=-1", "--memory is '-1': give a number of 1 or more, bytes of a device"),
        ("--parameters 7e9 --layout fp23", "--layout: there is no fp23: did you mean `fp32`?"),
        ("--parameters 7e9 --mfu 0.4", "--flops and --mfu tell the time only together: give both"),
        ("--parameters 7e9 --flops 1e15 --mfu 40", "--mfu is '40': give a share of the peak, such as 0.4"),
        ("--parameters 7e9 --compute 1e20", "--parameters and --compute are two plans: give one of them"),
        ("--parameters 7e9 --paramters 8", "unrecognized arguments: --paramters 8: did you mean `--param"),
        ("--mixture x --devices 3", "--devices has no meaning with --mixture: leave it out"),
        ("--config nowhere.yaml", "--config: nowhere.yaml does not exist: give the YAML file of a stage"),
        ("--config PRETRAIN --layout fp32", "--layout has no meaning with --config: leave it out"),
        ("--config PRETRAIN --trainer.max_stps 3", "there is no option --trainer.max_stps: did you mean"),
        (
            "--config PRETRAIN --data.init_args.tokenizer nowhere",
            "model.config has no vocab_size and data.tok",
        ),
        (
            "--config SFT --model.init_args.pretrained nowhere",
            "model.pretrained: nowhere holds no config.json",
        ),
        ("--config PRETRAIN --model.init_args.config {}", "model.config: `model_type: None` is not one"),
    ],
)
def test_a_mistake_is_one_line(arguments, line, capsys):
    arguments = arguments.replace("PRETRAIN", str(CONFIGS / "pretrain.yaml"))
    arguments = arguments.replace("SFT", str(CONFIGS / "sft.yaml"))
    if "{}" in arguments:
        arguments = arguments.replace("{}", '{"vocab_size":10}')
    assert main(["plan", *arguments.split()]) == 2
    printed = capsys.readouterr()
    (told,) = printed.err.splitlines()
    assert told.startswith(f"trivium: {line}")
    assert printed.out == ""
