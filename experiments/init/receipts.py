"""The data receipt of a configuration that is not in its place yet, and whether it would run."""

import re
from dataclasses import replace
from math import ceil, sqrt
from pathlib import Path

from datamodules.errors import UserError as DataError
from datamodules.receipt import Receipt
from experiments.atomic import write_text
from experiments.cli.parser import BuildOnly, parse
from experiments.cli.quiet import hush
from experiments.cli.user_errors import UserError
from experiments.init.config import Setup, as_yaml, config
from experiments.init.large import LARGE, size_of
from experiments.init.rows import Rows, write_sample

ALLOWED = 0.01  # share of a source's rows that may be left out, where `max_dropped` says nothing else


def receipts_of(setup: Setup, folder: Path, rows: Rows) -> list[Receipt]:
    """Reads the data as the run will, of a large source its sample to train on, and sets `max_dropped` where
    more would be left out than is usual.

    Args:
        setup: what the configuration depends on.
        folder: for files that are read.
        rows: of the source.

    Raises:
        UserError: what is wrong with the models or the data, a line each.
    """
    hush()
    trial, file, some = replace(setup, max_dropped=1.0), folder / "trial.yaml", folder / "some.jsonl"
    if rows.bytes > LARGE:
        write_sample(rows, some)
        trial.train, trial.encoding = str(some), None
        val = [setup.val] if isinstance(setup.val, str) else setup.val or []
        trial.val = setup.val if size_of(val) < LARGE else None
    write_text(file, as_yaml([], config(trial)))
    cli = parse(["fit", "--config", str(file)], BuildOnly)
    data, model = cli.datamodule, cli.model
    errors = [*model.config_errors(), *data.config_errors(1), *model.batch_errors(data, 1)]
    if errors := errors or model.vocabulary_errors(data):
        raise UserError("\n".join(errors))

    def placed(text: str) -> str:
        """A row of the sample by its place in the source."""
        return re.sub(
            rf"{re.escape(str(some))}:(\d+)", lambda found: rows.sample[int(found[1]) - 1].where, text
        )

    try:
        data.splits = data.read()
    except DataError as error:
        raise UserError(placed(str(error))) from error
    receipts = data.receipts
    for receipt in receipts:
        receipt.first = {reason: placed(where) for reason, where in receipt.first.items()}
        receipt.layout_first = {layout: placed(where) for layout, where in receipt.layout_first.items()}
    share = max(sum(receipt.dropped.values()) / max(1, receipt.rows) for receipt in receipts)
    if rows.bytes > LARGE:  # three standard errors more, for what the sample has not shown
        share += 3 * sqrt(share * (1 - share) / len(rows.sample))
    if share > ALLOWED:
        setup.max_dropped = min(1.0, ceil(100 * share) / 100)
    return receipts
