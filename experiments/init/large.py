"""A large source: rows from many places of it in place of all of them, and files of lines copied but for the
rows that are held out."""

import shutil
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import BinaryIO, NamedTuple

from datamodules.reading.files import TEXT_ENDINGS, ending
from datamodules.reading.hub import Hub
from datamodules.reading.json_rows import rows_from
from datamodules.reading.record import BLOCK, BROKEN_OFF, Record
from datamodules.reading.sources import parts_of, read_rows
from datamodules.reading.streams import is_utf8, packing
from datamodules.reading.tables import SKIPPING_ROWS, table_length
from experiments.atomic import whole
from experiments.cli.user_errors import UserError

LARGE = 32_000_000  # bytes of files: rows of more than that are estimated from some of them
PLACES, WINDOW = 64, 128_000  # places of all files, and bytes that are read at each
MOST_READ = 4 * PLACES * WINDOW  # bytes, where single rows are longer than a window
PACKED = 5  # bytes of text to a byte of a packed file, more or less


class Place(NamedTuple):
    """Where a row is."""

    file: str
    start: int
    """byte; of a row that others are passed over for, its number in the source"""
    end: int
    window: int
    """rows of one window are neighbours"""


def size_of(paths: Sequence[str]) -> int:
    """Bytes of a source's files on the disk, of packed ones more; those of the hub count nothing."""
    files = [part for part in parts_of(list(paths), "--data") if not isinstance(part, Hub)] if paths else []
    return sum(Path(file).stat().st_size * (PACKED if packing(file) else 1) for file in files)


def line_files(paths: Sequence[str], encoding: str | None) -> list[str]:
    """The files of a large source whose rows can be found from any place; empty where it is another."""
    parts = parts_of(list(paths), "--data")
    lines = [part for part in parts if not isinstance(part, Hub) and ending(part) in (".jsonl", ".ndjson")]
    whole_source = lines == parts and not any(map(packing, lines)) and is_utf8(encoding)
    return lines if whole_source and size_of(paths) > LARGE else []


def spread(files: list[str]) -> Iterator[tuple[Place, Record]]:
    """Rows from PLACES windows, spread evenly over all files, in a mixed order."""
    begins_at = [0, *accumulate(Path(file).stat().st_size for file in files)]
    windows = list(range(PLACES))
    Random(0).shuffle(windows)
    read = 0
    for window in windows:
        start = window * begins_at[-1] // PLACES
        place = bisect_right(begins_at, start) - 1
        file = files[place]
        for record, begins, ends in rows_from(file, start - begins_at[place], WINDOW):
            yield Place(file, begins, ends, window), record
            read += ends - begins
        if read > MOST_READ:
            return


def passed_files(paths: Sequence[str]) -> list[str]:
    """The files of a large source that must be gone through for its rows; empty where it is a small one, or
    of the hub."""
    parts = parts_of(list(paths), "--data")
    return [] if any(isinstance(part, Hub) for part in parts) or size_of(paths) <= LARGE else parts


def passing(files: list[str], encoding: str | None) -> Iterator[tuple[Place, Record | None]]:
    """Goes through files and gives some of their rows, those in windows of neighbours that are spread evenly,
    and in the end the place behind all, without a row. Rows between are not looked at.

    Raises:
        UserError: a file cannot be read.
    """
    every = -(-size_of(files) // (PLACES * WINDOW))
    number = 0
    for file in files:
        if ending(file) not in TEXT_ENDINGS:
            for record in read_rows(file, "--data", encoding, every=every):
                row = number + int(record.where.rpartition(" ")[2]) - 1  # FILE, row N
                yield Place(file, row, row + 1, row // SKIPPING_ROWS), record
            number += table_length(file)
            continue
        for record in read_rows(file, "--data", encoding):
            breaks_off = record.row is None and BROKEN_OFF in str(record.problem)
            if number // SKIPPING_ROWS % every == 0 or breaks_off:
                yield Place(file, number, number + 1, number // SKIPPING_ROWS), record
            number += 1
    yield Place("", number, number, -1), None


def copy_without(files: list[str], held: Sequence[Place], train: Path, val: Path) -> None:
    """Copies files one after another, the rows that are held out to `val`, all others to `train`.

    Raises:
        UserError: the disk has no room for them.
    """
    size, free = sum(Path(file).stat().st_size for file in files), shutil.disk_usage(train.parent).free
    if size > free:
        raise UserError(
            f"{train.parent}: the rows to train on need {size:,} bytes, and {free:,} are free: give --val "
            "FILE, which leaves --data in its place, or another folder"
        )
    with whole(train) as one, whole(val) as other, one.open("wb") as first, other.open("wb") as second:
        for file in files:
            with open(file, "rb") as source:
                here = 0
                for place in sorted(place for place in held if place.file == file):
                    _copy(source, first, place.start - here)
                    _copy(source, second, place.end - place.start)
                    _end_line(second)
                    here = place.end
                _copy(source, first, Path(file).stat().st_size - here)
            _end_line(first)


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size > 0 and (data := source.read(min(size, BLOCK))):
        target.write(data)
        size -= len(data)


def _end_line(target: BinaryIO) -> None:
    """Ends the last line of a file that has no line end there."""
    if not target.tell():
        return
    target.flush()
    with open(target.name, "rb") as written:
        written.seek(-1, 2)
        if written.read(1) != b"\n":
            target.write(b"\n")
