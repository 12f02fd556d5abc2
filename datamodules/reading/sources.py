"""A source (local files, folders, the hub) → its rows as one stream."""

import glob
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa

from datamodules.errors import UserError
from datamodules.reading.files import ENDINGS, check_file, ending, read_file
from datamodules.reading.folders import folder_files
from datamodules.reading.hub import HUB_NAME, Hub, hub_rows
from datamodules.reading.record import Record, first_line
from datamodules.reading.streams import packing

WITH_SPLIT = re.compile(r"(?P<path>.+)\[(?P<split>[\w.-]+)\]")


def read_rows(
    path: str | list[str],
    name: str,
    encoding: str | None = None,
    columns: Collection[str] | None = None,
    every: int = 1,
) -> Iterator[Record]:
    """All rows of a source, one after another, with bounded memory.

    Args:
        path: files of JSON (lines, an array, an object that holds one), CSV, TSV, text (one row `text` each),
            all of them also packed, Parquet or Arrow; globs, read in sorted order; folders of such files or
            written by `save_to_disk`, of several splits with `[SPLIT]` behind; names of hub datasets (their
            `train` split, or `[SPLIT]`; `hub:NAME` or `hub:OWNER/NAME/CONFIG` where a file or folder has the
            same name). A list may mix them and is read in its order.
        name: the field of the configuration, for messages.
        encoding: of text files; None = UTF-8.
        columns: of tables that are read; the others' values are `NOT_READ`. None = all.
        every: as of `read_file`.

    Returns:
        rows, among them those that cannot be read, with the reason. Blank lines are left out but counted.

    Raises:
        UserError: at once, where a file is missing, empty, of an unknown kind, or cannot be opened; while
            reading, where the disk fails, or the hub cannot be reached.
    """
    parts = parts_of(path, name)
    for part in parts:
        if not isinstance(part, Hub):
            check_file(part, name, encoding)
    return _rows(parts, name, encoding, columns, every)


def parts_of(path: str | list[str], name: str) -> list[str]:
    """The files and hub datasets that a source consists of, in the order in which they are read.

    Raises:
        UserError: nothing there.
    """
    paths = [path] if isinstance(path, str) else path
    parts = [part for entry in paths if entry for part in _parts_of_path(entry, name)]
    if not parts:
        raise UserError(f"{name}: names no file")
    return parts


def _parts_of_path(path: str, name: str) -> list[str]:
    if path.startswith("hub:"):
        return [_hub(path.removeprefix("hub:"), name)]
    if Path(path).is_file():
        return [path]
    if Path(path).is_dir():
        return folder_files(path, name)
    if Path(path).exists():  # a device, a pipe
        raise UserError(f"{name}: {path} is no file that can be read twice: write its rows to one")
    split = WITH_SPLIT.fullmatch(path)
    if split and Path(split["path"]).is_dir():
        return folder_files(split["path"], name, split["split"])
    if any(c in path for c in "*?["):
        files = sorted(file for file in glob.glob(path, recursive=True) if Path(file).is_file())
        if files:
            return files
        if not HUB_NAME.fullmatch(path):
            raise UserError(f"{name}: {path} matches no file")
    if ending(path) in ENDINGS or packing(path) or not HUB_NAME.fullmatch(path):
        raise UserError(f"{name}: {path} does not exist")
    return [_hub(path, name)]


def _hub(path: str, name: str) -> Hub:
    hub = Hub(path)
    try:
        _ = hub.parts
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return hub


def _rows(
    parts: list[str], name: str, encoding: str | None, columns: Collection[str] | None, every: int
) -> Iterator[Record]:
    for part in parts:
        if isinstance(part, Hub):
            yield from hub_rows(part, name)
            continue
        try:
            yield from read_file(part, encoding, columns, every)
        except (OSError, pa.ArrowException, UserError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
            raise UserError(f"{name}: {part} cannot be read: {reason}") from error
