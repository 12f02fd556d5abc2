"""`trivium data COMMAND`: looks at data and cleans it, without training. Commands are loaded when called."""

import sys
from importlib import import_module

from experiments.data.receipt import read_data

__all__ = ["main", "read_data"]

COMMANDS = {
    "inspect": "one page about a file nobody has seen: columns, bad rows, lengths, languages, samples",
    "deduplicate": "remove exact and near duplicates within and across files; the first occurrence stays",
    "contamination": "which rows of evaluation files share an n-gram with training files",
    "receipt": "what a stage's configuration keeps, truncates and drops and why, and one row's mask",
}


def usage() -> str:
    """What `trivium data --help` prints."""
    lines = [
        "usage: trivium data COMMAND [options]",
        "",
        "Looks at data and cleans it, without training.",
        "",
        "commands:",
        *(f"  {name:<14} {line}" for name, line in COMMANDS.items()),
        "",
        "`trivium data COMMAND --help` tells a command's options. To begin: `trivium data inspect FILE`.",
    ]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Runs `trivium data …`; returns the exit code: 0, or 2 for a command that does not exist."""
    if argv and argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if not argv or argv[0] not in COMMANDS:
        found = f"no command `{argv[0]}`" if argv else "no command given"
        print(f"trivium data: {found}: choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return import_module(f"experiments.data.{argv[0]}").main(argv[1:])
