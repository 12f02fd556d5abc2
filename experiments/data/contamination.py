"""`trivium data contamination FILE… --against EVAL…`: which evaluation rows occur in training files.

A row of an evaluation file is contaminated when one of its n-grams occurs in a row of the training files. An
n-gram is 13 words in a row (as in the appendix on contamination of Brown et al. 2020), or, where most of the
evaluation row is in a script without spaces such as Chinese or Japanese, 20 characters, which is about as
much text. Case and punctuation do not count; a run of a sign, as in sums and code, counts as a word. A
shorter evaluation row is contaminated when a training row is the same.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text as Cell

from experiments.atomic import whole
from experiments.cli.arguments import ArgumentParser
from experiments.cli.reading_options import add_reading_options, columns_of
from experiments.cli.user_errors import UserError
from experiments.data.output import add_counts, check_output, counts_table, same_file
from experiments.data.shingles import encode, joined, units, unspaced_share, windows
from experiments.data.texts import read_texts, row_number, stop_where_broken_off

NGRAM, CHARACTERS = 13, 20
HITS_KEPT = 10  # training rows listed for an evaluation row
LISTED = 20  # contaminated rows on the terminal


class Hit(NamedTuple):
    """An n-gram that is in both files."""

    evaluation: str  # the row, as `FILE:LINE` or `FILE, row N`
    training: str  # the row
    ngram: str  # its units, as a text
    whole: bool  # the evaluation row is shorter than an n-gram, and the training row equals it


@dataclass
class Evaluation:
    """An evaluation file, and how many of its rows are what; `short` ones have less than an n-gram."""

    file: str
    rows: int = 0
    unread: int = 0
    short: int = 0
    contaminated: int = 0


@dataclass
class Row:
    """An evaluation row: how many training rows have a part of it, and the first `HITS_KEPT` of them."""

    where: str
    evaluation: Evaluation
    training_rows: int = 0
    hits: list[Hit] = field(default_factory=list)


class Index:
    """The n-grams of evaluation rows, of one length or whole, as sorted hashes; (G,) uint64, (G,) rows."""

    def __init__(self, grams: list[np.ndarray]):
        sizes = [len(row) for row in grams]
        hashes, rows = np.concatenate(grams), np.repeat(np.arange(len(grams)), sizes)
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.rows = hashes[order], rows[order]

    def find(self, hashes: np.ndarray) -> Iterator[tuple[int, int]]:
        """Of a training row's hashes: each evaluation row that has one, and the place of the first it has."""
        low = np.searchsorted(self.hashes, hashes, "left")
        high = np.searchsorted(self.hashes, hashes, "right")
        seen = set()
        for place in np.flatnonzero(high > low):
            for row in self.rows[low[place] : high[place]].tolist():
                if row not in seen:
                    seen.add(row)
                    yield row, int(place)


def main(argv: list[str]) -> int:
    """Runs `trivium data contamination …`."""
    parser = ArgumentParser(
        prog="trivium data contamination", description=(__doc__ or "").partition("\n\n")[2]
    )
    unspaced = f"characters in an n-gram of a script without spaces (default {CHARACTERS})"
    hits = f"where all hits go, at most {HITS_KEPT} for a row"
    option = parser.add_argument
    option("files", nargs="+", metavar="FILE", help="training files: JSON lines, Parquet, text")
    option("--against", nargs="+", required=True, metavar="EVAL", help="evaluation files")
    option("--ngram", type=int, default=NGRAM, help=f"words in an n-gram (default {NGRAM})")
    option("--characters", type=int, default=CHARACTERS, help=unspaced)
    option("--field", help="the column of the training files; by default all that hold what a row says")
    option("--against-field", help="the column of the evaluation files; by default as --field")
    option("--output", metavar="hits.jsonl", help=hits)
    add_reading_options(parser)
    options = parser.parse_args(argv)
    if options.output:
        check_output(Path(options.output), [*options.files, *options.against])
    arguments = {name: value for name, value in vars(options).items() if name != "output"}
    arguments["against_field"] = options.against_field or options.field
    arguments["columns"] = columns_of(options.columns)
    evaluations, rows = contamination(**arguments)
    console = Console()
    console.print(_table(evaluations))
    for row in rows[:LISTED]:
        more = f" and {row.training_rows - 1:,} more" if row.training_rows > 1 else ""
        line = f"{row.where} in {row.hits[0].training}{more}: {row.hits[0].ngram}"
        console.print(Cell(line), soft_wrap=True)
    if len(rows) > LISTED:
        where = f"in {options.output}" if options.output else "with --output hits.jsonl"
        print(f"… and {len(rows) - LISTED:,} rows more, {where}")
    if options.output:
        _write(options.output, rows)
    return 0


def contamination(
    files: list[str],
    against: list[str],
    ngram: int = NGRAM,
    characters: int = CHARACTERS,
    field: str | None = None,
    against_field: str | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
) -> tuple[list[Evaluation], list[Row]]:
    """Looks for the n-grams of evaluation files in training files, which are read once and not kept.

    Args:
        against: evaluation files; 16 bytes of memory for each of their n-grams.
        ngram: words in an n-gram.
        characters: units in an n-gram for evaluation rows that are mostly in a script without spaces.
        field: the column of the training files; by default what `texts.text_of` finds.
        against_field: the same for the evaluation files.
        columns, encoding: of all files, as of `read_texts`.

    Returns:
        a summary of each evaluation file, and the contaminated rows in the order of these.

    Raises:
        UserError: no such file, nothing in it, a file given as both, or an n-gram of less than one unit.
    """
    for option, value in (("--ngram", ngram), ("--characters", characters)):
        if value < 1:
            raise UserError(f"{option} is {value}: give a whole number of 1 or more")
    for file in files:
        if any(same_file(file, other) for other in against):
            raise UserError(f"{file} is given both to train on and with --against")
    how = {"columns": columns, "encoding": encoding}
    evaluations = [Evaluation(file) for file in against]
    groups: dict[int | None, tuple[list[Row], list[np.ndarray]]] = {}  # by units in an n-gram; None: whole
    for evaluation in evaluations:
        for row, codes, length in _evaluation_rows(evaluation, against_field, ngram, characters, how):
            is_short = len(codes) < length
            rows, grams = groups.setdefault(None if is_short else length, ([], []))
            rows.append(row)
            grams.append(np.unique(windows(codes, len(codes) if is_short else length)))
    indexes = [(size, rows, Index(grams)) for size, (rows, grams) in groups.items()]
    for file in files:
        for where, words in _training_rows(file, field, how):
            codes = encode(words)
            for size, rows, index in indexes:
                length = size or len(words)
                for number, place in index.find(windows(codes, length)):
                    _note(rows[number], where, words[place : place + length], whole=size is None)
    contaminated = [row for _, rows, _ in indexes for row in rows if row.training_rows]
    for row in contaminated:
        row.evaluation.contaminated += 1
    order = {file: number for number, file in enumerate(against)}
    contaminated.sort(key=lambda row: (order[row.evaluation.file], row_number(row.where)))
    return evaluations, contaminated


def _evaluation_rows(
    evaluation: Evaluation, field: str | None, ngram: int, characters: int, how: Mapping[str, Any]
) -> Iterator[tuple[Row, np.ndarray, int]]:
    """Each row with text: it, the hashes of its units, and the units in an n-gram of it."""
    problem = None
    for item in read_texts(evaluation.file, field, "indexing", name="--against", **how):
        evaluation.rows += 1
        words = units(item.text) if item.text else []
        if not words:
            stop_where_broken_off(item)
            evaluation.unread += 1
            problem = problem or f"{item.where} {item.problem or 'has no word in it'}"
            continue
        length = characters if unspaced_share(words) > 0.5 else ngram
        evaluation.short += len(words) < length
        yield Row(item.where, evaluation), encode(words), length
    if evaluation.unread == evaluation.rows:
        raise UserError(f"--against: {evaluation.file} has no row with text: {problem}")
    _warn(evaluation.file, evaluation.unread, problem)


def _training_rows(file: str, field: str | None, how: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Each row with text: where it is, and its units."""
    count, unread, problem = 0, 0, None
    for item in read_texts(file, field, "searching", **how):
        count += 1
        if item.text is None:
            stop_where_broken_off(item)
            unread += 1
            problem = problem or f"{item.where} {item.problem}"
            continue
        if words := units(item.text):
            yield item.where, words
    if unread == count:
        raise UserError(f"FILE: {file} has no row with text: {problem}")
    _warn(file, unread, problem)


def _warn(file: str, unread: int, problem: str | None) -> None:
    if unread:
        warning = Cell(f"{file}: {unread:,} rows are not checked; the first: {problem}")
        Console(stderr=True).print(warning, soft_wrap=True)


def _note(row: Row, training: str, ngram: list[str], whole: bool) -> None:
    row.training_rows += 1
    if len(row.hits) < HITS_KEPT:
        row.hits.append(Hit(row.where, training, joined(ngram), whole))


def _write(output: str, rows: list[Row]) -> None:
    """A line a hit, in the order of the evaluation rows; `training_rows` counts those not listed too."""
    with whole(Path(output)) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            for hit in row.hits:
                entry = {**hit._asdict(), "training_rows": row.training_rows}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _table(evaluations: list[Evaluation]) -> Table:
    """Rows of each evaluation file, and of those that could be read the share that training files have."""
    table = counts_table("evaluation file", ("rows", "unread", "short", "contaminated", "share"))
    for file in evaluations:
        counts = file.rows, file.unread, file.short, file.contaminated
        add_counts(table, file.file, counts, file.contaminated / (file.rows - file.unread))
    return table
