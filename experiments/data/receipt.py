"""`trivium data receipt --config FILE`: what a configuration's data is, before anything is trained."""

import argparse
from typing import TYPE_CHECKING

from rich.console import Console

from experiments.cli.user_errors import UserError

if TYPE_CHECKING:
    from datamodules.base import TextDataModule


def main(argv: list[str]) -> int:
    """Runs `trivium data receipt …`."""
    parser = argparse.ArgumentParser(
        prog="trivium data receipt",
        description="Rows kept, truncated and dropped and why, tokens trained, one sample with its mask.",
    )
    parser.add_argument("--config", required=True, help="the YAML of a stage")
    parser.add_argument(
        "overrides", nargs="*", help="as for fit, for example --data.init_args.max_length=256"
    )
    options, overrides = parser.parse_known_args(argv)
    data = read_data(options.config, [*options.overrides, *overrides])
    data.splits = data.read()

    from datamodules.receipt import render

    Console().print(render(data.receipts))
    return 0


def read_data(config: str, overrides: list[str]) -> "TextDataModule":
    """The data module that a stage's YAML describes; neither model nor trainer is built.

    Raises:
        UserError: its problems, a line each.
    """
    from experiments.cli.parser import parse_data

    data = parse_data(["fit", "--config", config, *overrides])
    if errors := data.config_errors(1):
        raise UserError("\n".join(errors))
    return data
