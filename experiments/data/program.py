"""`trivium data COMMAND`: looks at data and cleans it, without training."""

from experiments.cli.menu import Command, main_of, usage
from experiments.cli.user_errors import UserError

COMMANDS = {
    "inspect": Command(
        "one page about a file nobody has seen: columns, bad rows, lengths, languages, samples",
        "experiments.data.inspect",
    ),
    "deduplicate": Command(
        "remove exact and near duplicates within and across files; the first occurrence stays",
        "experiments.data.deduplicate",
    ),
    "contamination": Command(
        "which rows of evaluation files share an n-gram with training files", "experiments.data.contamination"
    ),
    "retrieve": Command(
        "rows that teach to answer from passages: questions beside documents", "experiments.data.retrieve"
    ),
    "convert": Command(
        "any file that Trivium reads as JSON lines under its own names of columns", "experiments.data.convert"
    ),
    "receipt": Command(
        "what a stage's configuration keeps, truncates and drops and why, and one row's mask",
        "experiments.data.receipt",
    ),
}


def main(argv: list[str]) -> int:
    """Runs `trivium data …`; returns the exit code."""
    if not argv:
        raise UserError(f"no command given: choose from {', '.join(COMMANDS)}")
    if argv[0] in ("-h", "--help", "help"):
        purpose = "Looks at data and cleans it, without training."
        print(usage("trivium data", purpose, COMMANDS, example="trivium data inspect FILE"))
        return 0
    return main_of("trivium data", argv[0], COMMANDS)(argv[1:])
