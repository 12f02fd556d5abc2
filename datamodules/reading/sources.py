"""A source (local files, saved folders, the hub) → its rows as one stream."""

import glob
import json
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
from huggingface_hub import HfApi

from datamodules.errors import UserError
from datamodules.reading.files import ENDINGS, check_file, ending, read_file
from datamodules.reading.record import Record, first_line

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_TIMEOUT = 10  # seconds


class Hub(str):
    """The name of a dataset on the hub; what else a source consists of are paths of files."""


def read_rows(path: str | list[str], name: str) -> Iterator[Record]:
    """All rows of a source, one after another, with bounded memory.

    Args:
        path: JSON lines, JSON arrays, text files (one row `text` each), Parquet or Arrow files, the first
            three also with .gz; globs, read in sorted order; folders written by `Dataset.save_to_disk`; names
            of hub datasets (their `train` split; `hub:NAME` where a file or folder has the same name). A
            list may mix them and is read in its order.
        name: the field of the configuration, for messages.

    Returns:
        rows, among them those that cannot be read, with the reason. Blank lines are left out but counted.

    Raises:
        UserError: at once, where a file is missing, empty, of an unknown kind, or cannot be opened; while
            reading, where the disk fails, or the hub cannot be reached.
    """
    parts = parts_of(path, name)
    for part in parts:
        if not isinstance(part, Hub):
            check_file(part, name)
    return _rows(parts, name)


def parts_of(path: str | list[str], name: str) -> list[str]:
    """The files and hub datasets that a source consists of, in the order in which they are read.

    Raises:
        UserError: nothing there.
    """
    paths = [path] if isinstance(path, str) else path
    parts = [part for entry in paths for part in _parts_of_path(entry, name)]
    if not parts:
        raise UserError(f"{name}: names no file")
    return parts


def _parts_of_path(path: str, name: str) -> list[str]:
    if path.startswith("hub:"):
        return [Hub(path.removeprefix("hub:"))]
    if Path(path).is_file():
        return [path]
    if Path(path).is_dir():
        return _saved_files(path, name)
    if any(c in path for c in "*?["):
        files = sorted(file for file in glob.glob(path, recursive=True) if Path(file).is_file())
        if not files:
            raise UserError(f"{name}: {path} matches no file")
        return files
    if ending(path) in ENDINGS or path.endswith(".gz") or not HUB_NAME.fullmatch(path):
        raise UserError(f"{name}: {path} does not exist")
    return [Hub(path)]


def _saved_files(folder: str, name: str) -> list[str]:
    """The files of a folder written by `save_to_disk`, in their order."""
    splits = Path(folder, "dataset_dict.json")
    if splits.is_file():
        raise UserError(
            f"{name}: folder {folder} holds several splits: give one of them, as in {folder}/train"
        )
    state = Path(folder, "state.json")
    if not state.is_file():
        raise UserError(
            f"{name}: folder {folder} was not written by `save_to_disk`: give its files, as in "
            f"{folder}/*.jsonl"
        )
    try:
        files = [str(Path(folder, file["filename"])) for file in json.loads(state.read_text())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name}: {state} cannot be read: save the folder again") from error
    for file in files:
        if not Path(file).is_file():
            raise UserError(f"{name}: {file} does not exist, though {state} names it")
    return files


def _rows(parts: list[str], name: str) -> Iterator[Record]:
    for part in parts:
        if isinstance(part, Hub):
            yield from _hub_rows(part, name)
            continue
        try:
            yield from read_file(part)
        except (OSError, pa.ArrowException, UserError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
            raise UserError(f"{name}: {part} cannot be read: {reason}") from error


def _hub_rows(hub: Hub, name: str) -> Iterator[Record]:
    number, rows = 0, _open_hub(hub, name)
    try:
        for number, row in enumerate(rows, 1):
            yield Record(f"{hub}, row {number}", row, None)
    except Exception as error:  # half of the data must not pass for all of it
        raise UserError(f"{name}: {hub} broke off after row {number}: {first_line(error)}") from error


def _open_hub(hub: Hub, name: str) -> datasets.IterableDataset | datasets.Dataset:
    """A stream where the hub can be reached, else the copy that an earlier run left in the cache."""
    revision = hub_revision(hub)
    try:
        return datasets.load_dataset(hub, split="train", revision=revision, streaming=revision is not None)
    except Exception as error:  # the hub raises a dozen kinds
        if revision is not None:
            raise UserError(f"{name}: {hub} on the hub cannot be read: {first_line(error)}") from error
        raise UserError(
            f"{name}: {hub} is no file or folder here, and no dataset of that name can be reached or is "
            "cached: give a path, or run once with the hub in reach"
        ) from error


def hub_revision(hub: Hub) -> str | None:
    """The commit that a dataset on the hub stands at; None where that cannot be had."""
    try:
        return HfApi().dataset_info(hub, timeout=HUB_TIMEOUT).sha
    except Exception:  # a dozen kinds here too: out of reach, no such name, not allowed
        return None
