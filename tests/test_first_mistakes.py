"""What somebody new to Trivium gets wrong first: each mistake is one line that says what to do."""

from pathlib import Path

import pytest
import torch

from experiments.cli.program import main
from modules.hf_load import parent_problem


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "--trainer.precision=fp16",
            "trainer.precision: expected auto, 32-true, bf16-mixed, 16-mixed, bf16-true, 16-true, 64-true, "
            "transformer-engine, transformer-engine-float16, 32, bf16, 16, 64, got `fp16`",
        ),
        (
            "--model.init_args.lr=3",
            "model: there is no option `lr`: it is the optimizer's, `model.init_args.optimizer.init_args.lr`",
        ),
        (
            "--model.init_args.optimizer.init_args.learning_rate=3",
            "model.optimizer: there is no option `learning_rate`: did you mean `lr`?",
        ),
        ("--data.init_args.group_by=task", "data.group_by: expected list, got `task`"),
        ("sft", "`sft` is no option: is --config sft meant?"),
    ],
)
def test_an_option_of_another_name_or_kind_says_what_there_is(refused, override, line):
    assert refused("sft", override) == [f"trivium: {line}"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(refused):
    (line,) = refused("sft", "--trainer.accelerator=gpu")
    assert line == "trivium: trainer.accelerator: torch sees no GPU here: give cpu or auto"


def test_a_stage_of_zero_that_does_not_exist_says_which_there_are(refused):
    (line,) = refused(
        "sft", "--trainer.strategy=strategies.deepspeed", "--trainer.strategy.init_args.stage=4"
    )
    assert line == "trivium: trainer.strategy.stage: expected 1, 2, 3, got `4`"


def test_the_learning_rates_of_ppo_are_named(refused):
    (line,) = refused("ppo", "--model.init_args.lr=1")
    assert line == "trivium: model: there is no option `lr`: there are `actor_lr` and `critic_lr`"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("trainer:\n- max_steps: 3\n", "trainer is [{'max_steps': 3}]: give names with values, as "),
        ("trainer: 7\n", "trainer is 7: give names with values, as "),
        ("model:\n- x\n", "model: expected `class_path` and `init_args` of a class (Stage), got `['x']`"),
        ("data: {init_args: [1]}\n", "data: its `init_args` are no names with values"),
    ],
)
def test_yaml_of_another_shape_is_refused_by_its_field(refused, tmp_path, text, line):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    (told,) = refused("sft", f"--config={file}")
    assert told.startswith(f"trivium: {line}")


def test_a_fit_of_nothing_says_how_to_name_a_stage(capsys):
    assert main(["fit"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "trivium: configuration: there is no `data` and no `model`: give a stage's YAML, as "
    )


def test_the_folder_of_a_run_is_told_from_its_export(tiny_stages):
    run = Path(tiny_stages.export("sft")).parent
    problem = parent_problem("pretrained", str(run), ("sft",))
    assert problem == (
        f"model.pretrained: {run} has no config.json: give {run / 'export'}, what that run exported"
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("serve", "the following arguments are required: DIR: `trivium serve --help` tells what there is"),
        ("serve x --prot 3", "unrecognized arguments: --prot 3: did you mean `--port`?"),
        ("chat a b", "unrecognized arguments: b: `trivium chat --help` tells what there is"),
        ("quickstart --minutes ten", "argument --minutes: invalid float value: 'ten': `trivium quickstart "),
        ("data convert --kind foo x", "argument --kind: invalid choice: 'foo' (choose from "),
        ("sweep", "the following arguments are required: FILE: "),
        ("rank report", "the following arguments are required: FILE: "),
    ],
)
def test_a_mistake_in_a_command_line_is_one_line(capsys, line, told):
    assert main(line.split()) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"trivium: {told}")
