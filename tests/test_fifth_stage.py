"""A stage describes itself: a fifth one, in a file that nothing else knows of (`toy_stage.py`), is fitted,
planned, resumed and exported by the command line as the four are."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from experiments.cli.program import main
from modules.hf_load import read_provenance
from tests.ranks import assert_weights, curve, weights

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def config(tiny_stages):
    """A run of the fifth stage on instructions, as a YAML file."""
    run = tiny_stages.out / "focal"
    data = {
        "tokenizer": tiny_stages.export("pretrain"),
        "train": str(tiny_stages.files / "instructions.train.jsonl"),
        "val": str(tiny_stages.files / "instructions.val.jsonl"),
        "global_batch_size": 8,
        "micro_batch_size": 4,
    }
    start = {"pretrained": tiny_stages.export("pretrain")}
    trainer = {"accelerator": "cpu", "max_steps": 6, "log_every_n_steps": 1, "enable_progress_bar": False}
    file = tiny_stages.out / "focal.yaml"
    options = {
        "run": str(run),
        "trainer": trainer,
        "model": {"class_path": "tests.toy_stage.FocalModule", "init_args": start},
        "data": {"class_path": "datamodules.InstructionData", "init_args": data},
    }
    file.write_text(yaml.safe_dump(options))
    return file


@pytest.fixture(scope="module")
def run(config, tiny_stages):
    """The folder of a finished run."""
    assert main(["fit", "--config", str(config)]) == 0
    return tiny_stages.out / "focal"


def tree(folder):
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_it_fits_and_exports(run):
    losses = list(curve(run).values())
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert read_provenance(str(run / "export"))["stage"] == "focal"


def test_its_hyperparameters_are_kept_as_its_configuration_says_them(run, tiny_stages):
    kept = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    said = {"pretrained": tiny_stages.export("pretrain"), "gamma": 2.0, "lr": 1e-3}
    assert {name: kept[name] for name in said} == said
    assert kept["_class_path"] == "tests.toy_stage.FocalModule"


def test_it_is_planned(config, capsys):
    assert main(["plan", "--config", str(config)]) == 0
    printed = capsys.readouterr().out
    assert "focal" in printed
    assert "model" in printed


def test_it_resumes_bit_for_bit(run, config, tiny_stages):
    resumed = tiny_stages.out / "focal_resumed"
    line = ["fit", "--config", str(config), "--run", str(resumed)]
    assert main([*line, "--trainer.max_steps=3"]) == 0
    assert main([*line, "--ckpt_path=last"]) == 0
    assert len(list(resumed.glob("metrics/version_*"))) == 2
    assert curve(resumed) == curve(run)
    assert_weights(weights(resumed), weights(run), 0)


def test_its_checkpoint_is_exported_and_plain_transformers_loads_it(run, tmp_path):
    assert main(["export", str(run / "checkpoints" / "last.ckpt"), str(tmp_path / "out")]) == 0
    assert tree(tmp_path / "out") == tree(run / "export")
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model(torch.tensor([[1, 20, 30, 2]])).logits.isfinite().all()


def test_the_export_needs_nothing_of_the_stage(run, tmp_path):
    """In a process that cannot import the stage's file."""
    code = (
        "import sys; from experiments.cli.program import main; code = main(sys.argv[1:]);"
        "assert not [name for name in sys.modules if 'toy_stage' in name or name == 'modules.stage'];"
        "sys.exit(code)"
    )
    line = ["export", str(run / "checkpoints" / "last.ckpt"), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", code, *line], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert tree(tmp_path / "out") == tree(run / "export")


def test_the_next_stage_refuses_it_by_name(run, tiny_stages, capsys):
    line = tiny_stages.stage("sft", run="after_focal")
    assert main([*line, f"--model.init_args.pretrained={run / 'export'}"]) == 2
    assert (
        "is the result of stage `focal`, this needs one of stage `pretrain` or `sft`"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folder": "../elsewhere"}, "is no plain name of a folder"),
        ({"folder": ".."}, "is no plain name of a folder"),
        ({"auto_class": "pipeline"}, "export: pipeline is none of AutoModelForCausalLM"),
    ],
)
def test_a_checkpoint_names_neither_a_place_nor_a_class_of_its_own(run, tmp_path, change, message, capsys):
    """Checkpoints are data: what they say decides no path and calls no code."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["exports"][0] |= change
    torch.save(checkpoint, tmp_path / "other.ckpt")
    assert main(["export", str(tmp_path / "other.ckpt"), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "elsewhere").exists()
