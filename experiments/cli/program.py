"""The `trivium` program: it names its commands, and loads one when it is called."""

import faulthandler
import os
import sys
from contextlib import suppress

from experiments.cli.menu import Command, main_of, usage
from experiments.cli.user_errors import exit_code_of

STAGES = "experiments.commands.fit"  # Lightning's own commands: this file takes their name too
COMMANDS = {
    "fit": Command("train a stage: pretraining, SFT, reward model or PPO, as its YAML says", STAGES),
    "validate": Command("measure a stage on its validation data", STAGES),
    "test": Command("measure a stage on its test data", STAGES),
    "predict": Command("write predictions.jsonl: losses, replies, scores or responses", STAGES),
    "init": Command("a file of yours → the YAML of the stage that fits it", "experiments.init.command"),
    "configs": Command(
        "the YAMLs that come with Trivium, and one of them to copy", "experiments.commands.configs"
    ),
    "data": Command(
        "look at data: a run's receipt, a file's page, duplicates, contamination", "experiments.data.program"
    ),
    "plan": Command("plan a run before it costs anything: memory, tokens, time, epochs", "experiments.plan"),
    "scaling": Command(
        "measure, fit and try a scaling law: loss by parameters and tokens", "experiments.scaling.program"
    ),
    "sweep": Command("run a W&B sweep here, without a server", "experiments.sweep.run"),
    "export": Command(
        "turn a checkpoint of any strategy into a Hugging Face directory", "experiments.commands.export"
    ),
    "evaluate": Command(
        "what models can do: few-shot, maths, instructions, facts, …, compared",
        "experiments.evaluation.command",
    ),
    "chat": Command("talk to a checkpoint", "experiments.commands.chat"),
    "serve": Command("talk to models on a page, or with any client of OpenAI's API", "experiments.web.serve"),
    "rank": Command(
        "rank replies on a page, blind: the next reward model's data; and a report",
        "experiments.web.rank.command",
    ),
    "tokenizer": Command("train a tokenizer on JSON lines", "experiments.commands.tokenizer"),
    "abilities": Command(
        "six claims about language models, each tried on small ones", "experiments.abilities.run"
    ),
    "quickstart": Command(
        "all four stages on real data, with a report, in ten to twenty minutes", "experiments.quickstart.run"
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: its own, 2 for a mistake in what was asked, 1 for a bug."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        purpose = "Takes a language model through pretraining, SFT, reward modelling and PPO."
        print(usage("trivium", purpose, COMMANDS, example="trivium quickstart"))
        return 0
    # Read when torch is imported: without it, a rank whose neighbour was killed prints stacks of C++.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not faulthandler.is_enabled():
        with suppress(OSError, RuntimeError):  # stderr is no file
            faulthandler.enable()  # a library that breaks the process says where it was
    return exit_code_of(lambda: _run(*argv))


def _run(name: str, *arguments: str) -> int:
    command = main_of("trivium", name, COMMANDS)
    takes_its_name = COMMANDS[name].file == STAGES
    return command([name, *arguments] if takes_its_name else [*arguments])
