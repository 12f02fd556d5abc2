"""`trivium rank report FILE`: which model wins, and how far the rankings are to be trusted."""

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.cli.arguments import ArgumentParser
from experiments.cli.user_errors import UserError

EPILOG = """Intervals hold 95 % over prompts.

  trivium rank report ranks.jsonl
  trivium rank report ann.jsonl ben.jsonl --json"""


def main(argv: list[str]) -> int:
    """Runs `trivium rank report …`."""
    options = parser().parse_args(argv)
    from experiments.html.pages import finite
    from experiments.web.rank.report import report_of

    lines = [line for file in options.files for line in read(file)]
    if not lines:
        raise UserError(f"rank report: {options.files[0]} has no answers yet")
    report = {"files": options.files, **report_of(lines, options.seed)}
    if options.output is not None:
        from experiments.web.rank.report_page import write_page

        write_page(report, Path(options.output))
    if options.json:
        print(json.dumps(finite(report), ensure_ascii=False))
    else:
        from experiments.web.rank.report_table import show

        show(report, options.output)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = ArgumentParser(
        prog="trivium rank report",
        description="Win rates of models, how far people agree, whether the place on the page had a say,\n"
        "seconds a prompt, and the prompts that people disagree on most.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="files that `trivium rank` has written")
    parser.add_argument("--output", metavar="FILE", help="also write a page, as rank.html")
    parser.add_argument("--json", action="store_true", help="all figures as one line of JSON")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (0)")
    return parser


def read(file: str) -> list[dict[str, Any]]:
    """The answers of a rank file and of what lies beside it.

    Raises:
        UserError: there is none, or it is another kind of file.
    """
    from experiments.web.rank.ledger import read as read_ledger

    try:
        lines = read_ledger(Path(file))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"rank report: {file} cannot be read: {reason}") from error
    if isinstance(lines, str):
        raise UserError(f"rank report: {lines}")
    return lines
