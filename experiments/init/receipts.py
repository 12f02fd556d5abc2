"""The data receipt of a configuration that is not in its place yet, and whether it would run."""

from math import ceil
from pathlib import Path

from datamodules.receipt import Receipt
from experiments.atomic import write_text
from experiments.cli.parser import BuildOnly, parse
from experiments.cli.quiet import hush
from experiments.cli.user_errors import UserError
from experiments.init.config import Setup, as_yaml, config

ALLOWED = 0.01  # share of a source's rows that may be left out, where `max_dropped` says nothing else


def receipts_of(setup: Setup, folder: Path) -> list[Receipt]:
    """Reads the data as the run will, and sets `max_dropped` where more would be left out than is usual.

    Args:
        setup: what the configuration depends on.
        folder: for a file that the parser reads.

    Raises:
        UserError: what is wrong with the models or the data, a line each.
    """
    hush()
    usual, setup.max_dropped = setup.max_dropped, 1.0
    file = folder / "trial.yaml"
    write_text(file, as_yaml([], config(setup)))
    setup.max_dropped = usual
    cli = parse(["fit", "--config", str(file)], BuildOnly)
    file.unlink()
    data, model = cli.datamodule, cli.model
    errors = [*model.config_errors(), *data.config_errors(1), *model.batch_errors(data, 1)]
    if errors := errors or model.vocabulary_errors(data):
        raise UserError("\n".join(errors))
    data.splits = data.read()
    receipts = data.receipts
    share = max(sum(receipt.dropped.values()) / max(1, receipt.rows) for receipt in receipts)
    if share > ALLOWED:
        setup.max_dropped = ceil(100 * share) / 100
    return receipts
