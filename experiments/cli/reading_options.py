"""The options that say how files are read, the same for every command that reads some: `--columns`,
`--encoding`."""

import argparse
from collections.abc import Sequence

from experiments.cli.user_errors import UserError


def add_reading_options(parser: argparse.ArgumentParser, encoding: str = "UTF-8") -> None:
    """Adds both; `encoding` says what is read where none is given."""
    named = "our name of a column and theirs, dotted where it is nested, as instruction=meta.query"
    parser.add_argument("--columns", nargs="+", default=[], metavar="OURS=THEIRS", help=named)
    parser.add_argument("--encoding", help=f"of text files, such as gb18030 ({encoding})")


def columns_of(texts: Sequence[str]) -> dict[str, str]:
    """Our name ← theirs, of what `--columns` was given.

    Raises:
        UserError: one is no pair.
    """
    pairs = [text.partition("=") for text in texts]
    for text, (ours, _, theirs) in zip(texts, pairs, strict=True):
        if not (ours and theirs):
            raise UserError(f"--columns {text}: give OURS=THEIRS, such as instruction=query")
    return {ours: theirs for ours, _, theirs in pairs}
