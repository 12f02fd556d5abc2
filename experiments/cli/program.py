"""The `trivium` program: one line a command, each loaded only when it is called, so that help answers at
once."""

import os
import sys
from importlib import import_module

COMMANDS = {
    "fit": (
        "train a stage: pretraining, SFT, reward model or PPO, as its YAML says",
        "experiments.commands.fit",
    ),
    "validate": ("measure a stage on its validation data", "experiments.commands.fit"),
    "test": ("measure a stage on its test data", "experiments.commands.fit"),
    "predict": ("write predictions.jsonl: losses, replies, scores or responses", "experiments.commands.fit"),
    "data": (
        "look at data: a run's receipt, a file's page, duplicates, contamination",
        "experiments.data",
    ),
    "plan": ("plan a run before it costs anything: memory, tokens, time, epochs", "experiments.plan"),
    "export": (
        "turn a checkpoint of any strategy into a Hugging Face directory",
        "experiments.commands.export",
    ),
    "chat": ("talk to a checkpoint", "experiments.commands.chat"),
    "tokenizer": ("train a tokenizer on JSON lines", "experiments.commands.tokenizer"),
    "quickstart": (
        "all four stages on real data, with a report, in about ten minutes",
        "experiments.quickstart.run",
    ),
}


def usage() -> str:
    """What `trivium --help` prints."""
    lines = [
        "usage: trivium COMMAND [options]",
        "",
        "Takes a language model through pretraining, SFT, reward modelling and PPO.",
        "",
        "commands:",
        *(f"  {name:<12} {line}" for name, (line, _) in COMMANDS.items()),
        "",
        "`trivium COMMAND --help` tells a command's options. To begin: `trivium quickstart`.",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, or 2 for a mistake in what was asked."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name = argv[0]
    if name not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "`trivium --help` lists the commands"
        print(f"trivium: no command `{name}`: {hint}", file=sys.stderr)
        return 2
    from experiments.cli.user_errors import exit_code_of

    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read at torch's import; else a dead rank's stacks
    command = import_module(COMMANDS[name][1]).main
    return exit_code_of(lambda: command(argv if COMMANDS[name][1].endswith("commands.fit") else argv[1:]))
