"""`trivium data contamination FILE… --against EVAL…`: which evaluation rows occur in training files.

A row of an evaluation file is contaminated when one of its n-grams occurs in a row of the training files. An
n-gram is 13 words in a row (as in the appendix on contamination of Brown et al. 2020), or, where most of the
evaluation row is in a script without spaces such as Chinese or Japanese, 20 characters, which is about as
much text. Case and punctuation do not count; a run of a sign, as in sums and code, counts as a word. A
shorter evaluation row is contaminated when a training row is the same.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text as Cell

from experiments.cli.user_errors import UserError
from experiments.data.shingles import encode, joined, units, unspaced_share, windows
from experiments.data.texts import read_texts, row_number, stop_where_broken_off

NGRAM, CHARACTERS = 13, 20
HITS_KEPT = 10  # training rows listed for an evaluation row
LISTED = 20  # contaminated rows on the terminal


class Hit(NamedTuple):
    """An n-gram that is in both files.

    Attributes:
        evaluation, training: the rows, as `FILE:LINE` or `FILE, row N`.
        ngram: its units, as a text.
        whole: the evaluation row is shorter than an n-gram, and the training row equals it.
    """

    evaluation: str
    training: str
    ngram: str
    whole: bool


@dataclass
class Evaluation:
    """An evaluation file and what was found of it."""

    file: str
    rows: int = 0
    unread: int = 0
    short: int = 0
    contaminated: int = 0


@dataclass
class Row:
    """An evaluation row: how many training rows it was found in, and the first `HITS_KEPT` of them."""

    where: str
    evaluation: Evaluation
    found: int = 0
    hits: list[Hit] = field(default_factory=list)


class Index:
    """The n-grams of evaluation rows, all of one length, as sorted hashes; (G,) uint64 and (G,) rows."""

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
    parser = argparse.ArgumentParser(
        prog="trivium data contamination", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="training files: JSON lines, Parquet, text")
    parser.add_argument("--against", nargs="+", required=True, metavar="EVAL", help="evaluation files")
    parser.add_argument("--ngram", type=int, default=NGRAM, help=f"words in an n-gram (default {NGRAM})")
    parser.add_argument(
        "--characters", type=int, default=CHARACTERS,
        help=f"characters in an n-gram of a script without spaces (default {CHARACTERS})",
    )  # fmt: skip
    parser.add_argument(
        "--field", help="the column of the training files; by default all that hold what a row says"
    )
    parser.add_argument("--against-field", help="the column of the evaluation files; by default as --field")
    parser.add_argument(
        "--output", metavar="hits.jsonl", help=f"where all hits go, at most {HITS_KEPT} for a row"
    )
    options = parser.parse_args(argv)
    if options.output:
        _check_output(options.output, [*options.files, *options.against])
    evaluations, rows = contamination(
        options.files, options.against, options.ngram, options.characters,
        options.field, options.against_field or options.field,
    )  # fmt: skip
    console = Console()
    console.print(_table(evaluations))
    for row in rows[:LISTED]:
        more = f" and {row.found - 1:,} more" if row.found > 1 else ""
        console.print(
            Cell(f"{row.where} in {row.hits[0].training}{more}: {row.hits[0].ngram}"), soft_wrap=True
        )
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
) -> tuple[list[Evaluation], list[Row]]:
    """Looks for the n-grams of evaluation files in training files, which are read once and not kept.

    Args:
        files: training files.
        against: evaluation files; 16 bytes of memory for each of their n-grams.
        ngram: words in an n-gram.
        characters: units in an n-gram for evaluation rows that are mostly in a script without spaces.
        field: the column of the training files; by default what `texts.text_of` finds.
        against_field: the same for the evaluation files.

    Returns:
        a summary of each evaluation file, and the contaminated rows in the order of these.

    Raises:
        UserError: no such file, nothing in it, a file given as both, or an n-gram of less than one unit.
    """
    for option, value in (("--ngram", ngram), ("--characters", characters)):
        if value < 1:
            raise UserError(f"{option} is {value}: give a whole number of 1 or more")
    for file in files:
        for other in against:
            if Path(file).exists() and Path(other).exists() and Path(file).samefile(other):
                raise UserError(f"{file} is given both to train on and with --against")
    evaluations = [Evaluation(file) for file in against]
    by_length: dict[int, tuple[list[Row], list[np.ndarray]]] = {}
    whole: tuple[list[Row], list[np.ndarray]] = [], []
    for evaluation in evaluations:
        for row, codes, length in _evaluation_rows(evaluation, against_field, ngram, characters):
            is_short = len(codes) < length
            rows, grams = whole if is_short else by_length.setdefault(length, ([], []))
            rows.append(row)
            grams.append(np.unique(windows(codes, len(codes) if is_short else length)))
    indexes = [(length, rows, Index(grams)) for length, (rows, grams) in by_length.items()]
    wholes = Index(whole[1]) if whole[1] else None
    for file in files:
        for where, found in _training_rows(file, field):
            codes = encode(found)
            for length, rows, index in indexes:
                for number, place in index.find(windows(codes, length)):
                    _note(rows[number], where, found[place : place + length], False)
            if wholes and len(codes):
                for number, _ in wholes.find(windows(codes, len(codes))):
                    _note(whole[0][number], where, found, True)
    kept = [row for rows, _ in (*by_length.values(), whole) for row in rows if row.found]
    for row in kept:
        row.evaluation.contaminated += 1
    order = {file: number for number, file in enumerate(against)}
    return evaluations, sorted(kept, key=lambda row: (order[row.evaluation.file], row_number(row.where)))


def _evaluation_rows(
    evaluation: Evaluation, field: str | None, ngram: int, characters: int
) -> Iterator[tuple[Row, np.ndarray, int]]:
    """Each row with text: it, the hashes of its units, and the units in an n-gram of it."""
    problem = None
    for item in read_texts(evaluation.file, field, "indexing", name="--against"):
        evaluation.rows += 1
        found = units(item.text) if item.text else []
        if not found:
            stop_where_broken_off(item)
            evaluation.unread += 1
            problem = problem or f"{item.where} {item.problem or 'has no word in it'}"
            continue
        length = characters if unspaced_share(found) > 0.5 else ngram
        evaluation.short += len(found) < length
        yield Row(item.where, evaluation), encode(found), length
    if evaluation.unread == evaluation.rows:
        raise UserError(f"--against: {evaluation.file} has no row with text: {problem}")
    _warn(evaluation.file, evaluation.unread, problem)


def _training_rows(file: str, field: str | None) -> Iterator[tuple[str, list[str]]]:
    """Each row with text: where it is, and its units."""
    count, unread, problem = 0, 0, None
    for item in read_texts(file, field, "searching"):
        count += 1
        if item.text is None:
            stop_where_broken_off(item)
            unread += 1
            problem = problem or f"{item.where} {item.problem}"
            continue
        yield item.where, units(item.text)
    if unread == count:
        raise UserError(f"FILE: {file} has no row with text: {problem}")
    _warn(file, unread, problem)


def _warn(file: str, unread: int, problem: str | None) -> None:
    if unread:
        told = Cell(f"{file}: {unread:,} rows are not checked; the first: {problem}")
        Console(stderr=True).print(told, soft_wrap=True)


def _note(row: Row, training: str, ngram: list[str], whole: bool) -> None:
    row.found += 1
    if len(row.hits) < HITS_KEPT:
        row.hits.append(Hit(row.where, training, joined(ngram), whole))


def _check_output(output: str, inputs: list[str]) -> None:
    if Path(output).is_dir():
        raise UserError(f"--output {output} is a folder: give a file")
    if not Path(output).parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {Path(output).parent}")
    if any(Path(output).exists() and Path(file).exists() and Path(output).samefile(file) for file in inputs):
        raise UserError(f"--output {output} would overwrite a file that is read: give another name")


def _write(output: str, rows: list[Row]) -> None:
    """A line a hit, in the order of the evaluation rows; `training_rows` counts those not listed too."""
    unfinished = Path(f"{output}.part")
    with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            for hit in row.hits:
                entry = {**hit._asdict(), "training_rows": row.found}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    unfinished.replace(output)


def _table(evaluations: list[Evaluation]) -> Table:
    """Evaluation rows of each file, those that were checked, and those found."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("evaluation file", overflow="fold")
    for head in ("rows", "unread", "short", "contaminated", "share"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in evaluations:
        counts = one.rows, one.unread, one.short, one.contaminated
        share = one.contaminated / (one.rows - one.unread)
        table.add_row(Cell(one.file), *(f"{count:,}" for count in counts), f"{share:.1%}")
    return table
