"""`trivium scaling COMMAND`: how loss falls with parameters and tokens, in a user's own runs."""

from experiments.cli.menu import Command, main_of, usage
from experiments.cli.user_errors import UserError

COMMANDS = {
    "fit": Command(
        "the law L = E + A/N^α + B/D^β through the points of a CSV, with errors and a picture",
        "experiments.scaling.fit",
    ),
    "run": Command(
        "make such points on this machine: a family of sizes, each trained at several budgets",
        "experiments.scaling.run",
    ),
    "predict": Command(
        "how well a fit of the smaller runs tells the loss of the largest", "experiments.scaling.predict"
    ),
}


def main(argv: list[str]) -> int:
    """Runs `trivium scaling …`; returns the exit code."""
    if not argv:
        raise UserError(f"no command given: choose from {', '.join(COMMANDS)}")
    if argv[0] in ("-h", "--help", "help"):
        purpose = "How loss falls with parameters and tokens: measured, fitted, and tried on a larger run."
        print(usage("trivium scaling", purpose, COMMANDS, example="trivium scaling run --quick"))
        return 0
    return main_of("trivium scaling", argv[0], COMMANDS)(argv[1:])
