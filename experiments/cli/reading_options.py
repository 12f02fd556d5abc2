"""The options that say how files are read, the same for every command that reads some: `--columns`,
`--encoding`."""

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from datamodules.errors import UserError as DataError
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


@contextmanager
def told_as_options() -> Iterator[None]:
    """What is refused within and names the setting `columns: {ours: theirs}`, of a YAML, names the option.

    Raises:
        UserError: the same with `--columns ours=theirs`.
    """
    try:
        yield
    except (UserError, DataError) as error:
        told = re.sub(r"`columns: \{([^}`]+)\}`", _as_option, str(error))
        raise UserError(told.replace("with `columns`, as in", "with")) from error


def _as_option(setting: re.Match[str]) -> str:
    return f"`--columns {setting[1].replace(': ', '=').replace(',', '')}`"
