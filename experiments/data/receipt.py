"""`trivium data receipt --config FILE`: what a configuration's data is, before anything is trained."""

from rich.console import Console

from experiments.cli.arguments import ArgumentParser
from experiments.cli.user_errors import UserError


def main(argv: list[str]) -> int:
    """Runs `trivium data receipt …`; neither model nor trainer is built.

    Raises:
        UserError: what is wrong with the configuration of the data, a line each.
    """
    parser = ArgumentParser(
        prog="trivium data receipt",
        description="Rows kept, truncated and dropped and why, tokens trained, one sample with its mask.",
        allow_abbrev=False,
    )
    parser.usage = "trivium data receipt --config FILE [options of fit]"
    parser.epilog = "Options are as for fit, for example --data.init_args.max_length 256."
    parser.add_argument("--config", required=True, help="the YAML of a stage")
    options, overrides = parser.parse_known_args(argv)

    from datamodules.reading.repeats import repeated_files
    from datamodules.receipt import render
    from experiments.cli.parser import parse_data

    data = parse_data(["fit", "--config", options.config, *overrides])
    if errors := data.config_errors(1):
        raise UserError("\n".join(errors))
    data.splits = data.read()
    Console().print(render(data.receipts))
    for line in repeated_files(data.named_files()):
        print(line)
    return 0
