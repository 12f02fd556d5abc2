"""`trivium data convert FILE… --output DIR`: the rows of any file that Trivium reads, as JSON lines under its
own names of columns."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from experiments.atomic import whole, write_text
from experiments.cli.arguments import ArgumentParser
from experiments.cli.reading_options import add_reading_options, columns_of
from experiments.cli.user_errors import UserError

if TYPE_CHECKING:
    from datamodules.layouts.reader import Kind, RowReader

ROWS, COUNTS = "rows.jsonl", "convert.json"
KINDS = ("documents", "instructions", "preferences", "prompts")


@dataclass
class Converted:
    """What became of the rows."""

    kind: str
    """of data: `documents` are for MixedCorpusData, the others for the data module of that name"""
    rows: int = 0
    kept: int = 0
    layouts: dict[str, int] = field(default_factory=dict)
    """layout → rows that were found to have it"""
    left_out: dict[str, int] = field(default_factory=dict)
    """reason → rows"""
    first: dict[str, str] = field(default_factory=dict)
    """reason → where the first such row is"""


def main(argv: list[str]) -> int:
    """Runs `trivium data convert …`."""
    parser = ArgumentParser(
        prog="trivium data convert",
        description="Writes the rows of files in any layout that Trivium knows (Alpaca, ShareGPT, OpenAI, "
        "HH-RLHF, UltraFeedback, Dolly, …; JSON, CSV, Parquet, …) as JSON lines under its own names. Joins "
        "the messages of OpenAssistant trees, and, with `--kind preferences`, replies to one prompt with a "
        "score or a mark each.",
        epilog=f"DIR then holds {ROWS}, and {COUNTS} with the layouts and what was left out.",
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("files", nargs="+", metavar="FILE", help="files, globs, folders or names of hub datasets")
    option("--output", required=True, metavar="DIR", help="the folder to write to; it is made")
    option("--kind", choices=KINDS, help="of data (recognised)")
    add_reading_options(parser)
    options = parser.parse_args(argv)
    columns = columns_of(options.columns)
    converted = convert(options.files, options.output, options.kind, columns, options.encoding)
    for line in _told(converted):
        print(line)
    print(f"{options.output}/{ROWS}: {converted.kept:,} of {converted.rows:,} rows")
    return 0


def convert(
    files: list[str],
    output: str,
    kind: "Kind | None" = None,
    columns: dict[str, str] | None = None,
    encoding: str | None = None,
) -> Converted:
    """Writes the rows that can be read to `output`/rows.jsonl, complete or not at all. Columns that nobody
    reads stay as they are. Rows of which only several together say something are joined, at the end.

    Args:
        files: as of `read_rows`.
        output: a folder, made if it is missing.
        kind: of data; None = what the first rows are.
        columns: our name ← theirs.
        encoding: of text files; None = UTF-8.

    Raises:
        UserError: no such file, a layout that is not known, nothing kept, or rows that are there already.
    """
    from datamodules.layouts.joined import Joined
    from datamodules.layouts.reader import RowReader
    from datamodules.layouts.recognise import check_columns, recognise
    from datamodules.reading.sources import read_rows

    target = Path(output, ROWS)
    if target.exists():
        raise UserError(f"--output {output} holds {ROWS} already: give another folder")
    kind = kind or recognise(files, "FILE", encoding, columns).kind
    reader = RowReader(kind, columns or {}, encoding)
    if errors := reader.config_errors("--columns"):
        raise UserError("\n".join(errors))
    check_columns(files, "FILE", reader)
    converted, joined = Converted(kind), Joined(kind, columns)
    Path(output).mkdir(parents=True, exist_ok=True)
    with whole(target) as part, part.open("w", encoding="utf-8") as stream:
        for where, row, problem in read_rows(files, "FILE", encoding):
            converted.rows += 1
            if row is None or not joined.takes(row):
                _write(stream, converted, reader, where, row, problem)
        for row in joined.rows():
            _write(stream, converted, RowReader(kind), "a joined row", row, None)
        if not converted.kept:
            raise UserError(
                "\n".join([*_told(converted), f"FILE: none of {converted.rows} rows can be read"])
            )
    write_text(Path(output, COUNTS), json.dumps(asdict(converted), indent=2, ensure_ascii=False) + "\n")
    return converted


def _write(
    stream: TextIO,
    converted: Converted,
    reader: "RowReader",
    where: str,
    row: dict[str, Any] | None,
    problem: str | None,
) -> None:
    """Writes a row that can be read, and counts what became of it."""
    from datamodules.errors import UserError as DataError

    try:
        if row is None:
            raise DataError(str(problem))
        layout = reader.read(row)
        if len(layout.row.get("replies") or "two") < 2:
            raise DataError("one reply to its prompt: nothing to compare")
        line = json.dumps(layout.row, ensure_ascii=False, default=str)
        stream.write(line.encode("utf-8", "backslashreplace").decode() + "\n")
    except DataError as error:
        reason = str(error).partition(" (")[0]
        converted.left_out[reason] = converted.left_out.get(reason, 0) + 1
        converted.first.setdefault(reason, where)
        return
    converted.kept += 1
    converted.layouts[layout.told] = converted.layouts.get(layout.told, 0) + 1


def _told(converted: Converted) -> list[str]:
    lines = [f"read as {layout} ({rows:,} rows)" for layout, rows in Counter(converted.layouts).most_common()]
    for reason, rows in Counter(converted.left_out).most_common():
        lines.append(f"left out: {reason} ({rows:,} rows; the first is {converted.first[reason]})")
    return lines
