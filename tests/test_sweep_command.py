"""A run's command is the one that W&B's own agent would start, and `trivium fit` takes it as it is meant."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from experiments.cli.parser import ParseOnly, parse
from experiments.cli.user_errors import UserError
from experiments.sweep.command import ARGUMENTS, command_errors, expanded, is_fit, nested

CONFIGS = Path(__file__).resolve().parent.parent / "experiments" / "configs"
OPTIONS = {
    "lr": 1e-05, "name": "a b", "on": True, "off": False, "none": None, "list": [1, 2],
    "model": {"init_args": {"warmup_steps": 20, "optimizer": {"init_args": {"lr": 0.1}}}},
}  # fmt: skip


def as_the_agent(command: list[str], program: str, options: dict, json_file: str) -> list[str]:
    """`wandb agent`'s words: its own functions, and the loop in which it puts them together."""
    # two seconds, which every worker would take to collect the tests
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    filled = create_sweep_command(copy.copy(command))
    macros = create_sweep_command_args({"args": {name: {"value": value} for name, value in options.items()}})
    macros |= {
        "interpreter": ["python"],
        "program": [program],
        "args_json_file": [json_file],
        "env": ["/usr/bin/env"],
    }
    words = []
    for word in map(str, filled):
        words += (macros.get(word[2:-1]) or []) if word.startswith("${") and word.endswith("}") else [word]
    return words


@pytest.mark.parametrize("name", ARGUMENTS)
def test_each_macro_becomes_what_the_agent_makes_of_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", "/data")
    command = ["${env}", "A=${envvar:WHERE}/x", "${interpreter}", "${program}", "--fixed", f"${{{name}}}"]
    file = tmp_path / "a.json"
    ours = expanded(command, "train.py", OPTIONS, file)
    assert ours == as_the_agent(command, "train.py", OPTIONS, str(file))
    assert ours[:5] == ["/usr/bin/env", "A=/data/x", "python", "train.py", "--fixed"]
    if name == "args_json_file":
        assert json.loads(file.read_text()) == OPTIONS


def test_nested_parameters_are_one_option_as_for_the_agent():
    values = {("a",): 1, ("b", "c"): 2, ("b", "d", "e"): 3}
    assert nested(values) == {"a": 1, "b": {"c": 2, "d": {"e": 3}}}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["${program}", "${arg}"], "there is no macro ${arg}: did you mean `args`?"),
        (["${program}", "--x", "1"], "no run would get its parameters"),
    ],
)
def test_a_macro_that_the_agent_would_leave_out_in_silence_is_refused(command, told):
    assert told in "\n".join(command_errors(command))


def test_a_program_that_is_not_there_is_refused_before_every_run_fails(tmp_path):
    command = ["${env}", "${interpreter}", "${program}", "${args}"]
    (error,) = command_errors(command, "trivium")  # it is no script
    assert error.startswith("program: there is no file trivium: give a script; for `trivium fit` take ")
    script = tmp_path / "train.py"
    script.write_text("")
    assert command_errors(command, str(script)) == []
    assert command_errors(["${program}", "${args}"], "trivium") == []  # from the PATH, as shipped sweeps do


def test_a_variable_that_is_not_set_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH", raising=False)
    with pytest.raises(UserError, match="NO_SUCH"):
        expanded(["${envvar:NO_SUCH}", "${args}"], "x", {}, tmp_path / "a.json")


@pytest.mark.parametrize(
    ("command", "program", "fits"),
    [
        (["${env}", "${program}", "fit", "${args}"], "trivium", True),
        (
            ["${env}", "sh", "-c", 'exec "$0" fit --config a.yaml "$@"', "${program}", "${args}"],
            "trivium",
            True,
        ),
        (["${interpreter}", "-m", "experiments.cli", "fit", "${args}"], None, True),
        (["${program}", "scaling", "run", "${args}"], "/usr/bin/trivium", False),
        (["${interpreter}", "${program}", "${args}"], "fit.py", False),
    ],
)
def test_a_run_of_fit_is_known_from_its_command(command, program, fits):
    assert is_fit(command, program) == fits


def configuration(arguments: list[str]) -> dict:
    cli = parse(["fit", "--config", str(CONFIGS / "pretrain.yaml"), *arguments], ParseOnly)
    config = cli.config[cli.config.subcommand].as_dict()
    del config["config"]
    return config


def test_fit_takes_nested_parameters_of_a_sweep_as_dotted_options(monkeypatch, tmp_path):
    """The agent gives `--data={'init_args': {'sources': …}}`, which would replace all sources."""
    nested_ones = {
        "data": {"init_args": {"sources": {"english": {"weight": 0.9}}, "sequence_length": 64}},
        "model.init_args": {
            "warmup_steps": 7,
            "optimizer": {"init_args": {"lr": 1e-05}},
            "decay_share": None,
        },
    }
    dotted = [
        "--data.init_args.sources.english.weight=0.9", "--data.init_args.sequence_length=64",
        "--model.init_args.warmup_steps=7", "--model.init_args.optimizer.init_args.lr=1e-05",
        "--model.init_args.decay_share=null",
    ]  # fmt: skip
    expected = configuration(dotted)
    assert expected["data"]["init_args"]["sources"]["code"]["weight"] == 0.2
    file = tmp_path / "parameters.yaml"  # as the agent writes it
    file.write_text(yaml.safe_dump({name: {"value": value} for name, value in nested_ones.items()}))
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(file))
    given = as_the_agent(["${args}"], "trivium", nested_ones, "")
    assert given[0].startswith("--data={'init_args'")
    assert configuration(given) == expected
    # what the command says by itself means in a sweep what it means outside
    sources = "--data.init_args.sources={'one': {'train': 'a.jsonl'}}"
    assert set(configuration([sources, *given[1:]])["data"]["init_args"]["sources"]) == {"one"}


def test_outside_a_sweep_an_option_stays_as_it_is_given(monkeypatch):
    monkeypatch.delenv("WANDB_SWEEP_PARAM_PATH", raising=False)
    sources = configuration(["--data.init_args.sources={'one': {'train': 'a.jsonl'}}"])["data"]["init_args"][
        "sources"
    ]
    assert set(sources) == {"one"}
