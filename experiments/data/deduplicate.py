"""`trivium data deduplicate FILE… --output DIR`: removes duplicates within and across files, keeps the first.

Two rows are compared by their text alone: what a row of its kind says, or the column of `--field`. A row
goes when an earlier row that stays, in the order of the files given, equals it but for case and white space
(exact), or shares so many of its n-grams that their Jaccard similarity reaches the threshold (near).
"""

import json
from array import array
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text as Cell

from experiments.atomic import whole
from experiments.cli.arguments import ArgumentParser
from experiments.cli.reading_options import add_reading_options, columns_of
from experiments.cli.user_errors import UserError
from experiments.data.duplicates import Duplicates, Match
from experiments.data.output import add_counts, counts_table, same_file
from experiments.data.texts import read_texts, row_number, stop_where_broken_off

RECORD = "duplicates.jsonl"
LISTED = 20  # rows that could not be read, on the terminal


@dataclass
class Tally:
    """How many of a file's rows were read and removed; `elsewhere`: as duplicates of another file's row."""

    file: str
    rows: int = 0
    unread: int = 0
    exact: int = 0
    near: int = 0
    elsewhere: int = 0
    kept: array = field(default_factory=lambda: array("Q"))  # row numbers from 1, ascending


def main(argv: list[str]) -> int:
    """Runs `trivium data deduplicate …`."""
    parser = ArgumentParser(prog="trivium data deduplicate", description=(__doc__ or "").partition("\n\n")[2])
    near = "least Jaccard similarity of a near duplicate (default 0.8)"
    words = "words in an n-gram; characters for scripts without spaces, as Chinese (default 5)"
    option = parser.add_argument
    option("files", nargs="+", metavar="FILE", help="JSON lines, Parquet or text files; the first wins")
    option("--output", required=True, metavar="DIR", help="where each file's remaining rows go, same name")
    option("--field", help="the column to compare; by default all that hold what a row says")
    option("--threshold", type=float, default=0.8, help=near)
    option("--ngram", type=int, default=5, help=words)
    option("--exact-only", action="store_true", help="leave near duplicates in")
    add_reading_options(parser)
    options = parser.parse_args(argv)
    options.columns = columns_of(options.columns)
    tallies = deduplicate(**vars(options))
    Console().print(_table(tallies))
    print(f"wrote {options.output}: {', '.join(Path(t.file).name for t in tallies)} and {RECORD}")
    return 0


def deduplicate(
    files: list[str],
    output: str,
    field: str | None = None,
    threshold: float = 0.8,
    ngram: int = 5,
    exact_only: bool = False,
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
) -> list[Tally]:
    """Writes the rows that stay into `output`, under the files' names, and what went to `duplicates.jsonl`.

    All files appear together at the end, or none does. Rows that cannot be read, or have no text, are left
    out, counted and listed on the error stream.

    Args:
        files: JSON lines (also `.gz`), Parquet or text files; a row of an earlier one wins.
        output: a folder, made if it is missing; never the one of the files.
        field: the column to compare; by default what `texts.text_of` finds.
        threshold, ngram, exact_only: as for `Duplicates`.
        columns, encoding: as of `read_texts`; what is written has the encoding too.

    Raises:
        UserError: no such file, nothing in it, an input would be overwritten, or an argument out of range.
    """
    from experiments.data.survivors import check_writable, write_survivors

    _check_output(files, output)
    for file in files:
        check_writable(file, encoding)
    made = not Path(output).exists()
    Path(output).mkdir(parents=True, exist_ok=True)
    try:
        seen = Duplicates(threshold, ngram, exact_only, folder=output)
        with ExitStack() as unfinished:  # its end gives all files their names
            part = unfinished.enter_context(whole(Path(output, RECORD)))
            with part.open("wb") as record:
                tallies = _read(files, field, seen, record, {"columns": columns, "encoding": encoding})
            for tally in tallies:
                part = unfinished.enter_context(whole(Path(output, Path(tally.file).name)))
                with part.open("wb") as survivors:
                    write_survivors(tally.file, tally.kept, survivors, encoding)
    except BaseException:
        if made:
            Path(output).rmdir()
        raise
    return tallies


def _read(
    files: list[str], field: str | None, seen: Duplicates, record: IO[bytes], how: Mapping[str, Any]
) -> list[Tally]:
    """Which rows stay; writes those that go to `record`."""
    tallies = [Tally(file) for file in files]
    places_file, places_row = array("H"), array("Q")  # of the texts that `seen` kept
    unread: list[str] = []
    for number, tally in enumerate(tallies):
        problem = None
        for item in read_texts(tally.file, field, "comparing", **how):
            tally.rows += 1
            if item.text is None:
                stop_where_broken_off(item)
                tally.unread += 1
                problem = problem or f"{item.where} {item.problem}"
                if len(unread) < LISTED:
                    unread.append(f"{item.where} {item.problem}")
                continue
            row = row_number(item.where)
            match = seen.add(item.text)
            if match is None:
                tally.kept.append(row)
                places_file.append(number)
                places_row.append(row)
                continue
            tally.exact += match.kind == "exact"
            tally.near += match.kind == "near"
            tally.elsewhere += places_file[match.number] != number
            original = files[places_file[match.number]], places_row[match.number]
            record.write(_line(tally.file, row, match, *original))
        if tally.unread == tally.rows:
            raise UserError(f"{tally.file} has no row with text: {problem}")
    if unread:
        total = sum(tally.unread for tally in tallies)
        first = f", the first {LISTED}" if total > LISTED else ""
        lines = [f"{total} rows left out{first}:", *unread]
        Console(stderr=True, soft_wrap=True).print(Cell("\n  ".join(lines)))
    return tallies


def _line(file: str, row: int, match: Match, original_file: str, original_row: int) -> bytes:
    entry = {
        "file": file,
        "row": row,
        "kind": match.kind,
        "duplicate_of_file": original_file,
        "duplicate_of_row": original_row,
        "similarity": round(match.similarity, 4),
    }
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _check_output(files: list[str], output: str) -> None:
    """Refuses to write over a file that is read, and two files of one name."""
    if Path(output).exists() and not Path(output).is_dir():
        raise UserError(f"--output {output} is a file: give a folder")
    names: dict[str, str] = {RECORD: f"the {RECORD} that this writes"}
    for file in files:
        name = Path(file).name
        if name in names:
            raise UserError(
                f"{file} and {names[name]} have one name, and would be one file in {output}: rename one"
            )
        names[name] = file
        target = Path(output) / name
        if any(same_file(target, other) for other in files):
            raise UserError(f"--output {output} would overwrite {target}, which is read: give another folder")


def _table(tallies: list[Tally]) -> Table:
    """Rows of each file: read, left out, removed and kept."""
    table = counts_table("file", ("rows", "unread", "exact", "near", "of another file", "kept", ""))
    lines = [(t.rows, t.unread, t.exact, t.near, t.elsewhere, len(t.kept)) for t in tallies]
    names = [Path(tally.file).name for tally in tallies]
    if len(tallies) > 1:
        lines, names = [*lines, np.sum(lines, axis=0).tolist()], [*names, "all"]
    for name, counts in zip(names, lines, strict=True):
        add_counts(table, name, counts, share=counts[-1] / counts[0])
    return table
