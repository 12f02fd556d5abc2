"""Rows of a source (local files, saved folders, the hub) as one stream, and what identifies its content."""

import contextlib
import glob
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets import Dataset
from huggingface_hub import HfApi

from datamodules.errors import UserError
from datamodules.reading.files import BLOCK, ENDINGS, Record, check_file, ending, first_line, read_file

__all__ = ["Record", "cache_folder", "fingerprint", "read_rows", "size_bytes"]

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_TIMEOUT = 10  # seconds
SETTLED = 2_000_000_000  # nanoseconds after which a file's time of change tells it from a later version


@dataclass(frozen=True)
class Hub:
    """A dataset on the hub."""

    name: str


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
    parts = _parts(path, name)
    for part in parts:
        if isinstance(part, str):
            check_file(part, name)
    return _rows(parts, name)


def fingerprint(path: str | list[str], name: str) -> str:
    """What identifies the content of a source: it changes with any byte and with the order of files, not with
    where they lie. Digests of files are remembered by path, size and time of change.

    Args:
        path: as for `read_rows`. A hub dataset counts by its revision, or its name where the hub is out of
            reach.
        name: the field of the configuration, for messages.

    Returns:
        32 hexadecimal digits.

    Raises:
        UserError: nothing there, or a file cannot be read.
    """
    parts = _parts(path, name)
    memo = _Memo(cache_folder() / "files.json")
    try:
        found = [memo.revision(p) if isinstance(p, Hub) else memo.digest(p) for p in parts]
    except OSError as error:
        raise UserError(f"{name}: {error.filename} cannot be read: {error.strerror or error}") from error
    memo.save()
    return hashlib.blake2b(json.dumps(found).encode(), digest_size=16).hexdigest()


def size_bytes(path: str | list[str], name: str) -> int | None:
    """Size of a source's files as they lie on the disk; None where a part of it is on the hub.

    Raises:
        UserError: nothing there.
    """
    parts = _parts(path, name)
    files = [part for part in parts if isinstance(part, str)]
    return sum(Path(file).stat().st_size for file in files) if len(files) == len(parts) else None


def file_names(path: str | list[str], name: str) -> list[str]:
    """The files (and hub datasets) that a source consists of, in the order in which they are read.

    Raises:
        UserError: nothing there.
    """
    return [part if isinstance(part, str) else part.name for part in _parts(path, name)]


def cache_folder() -> Path:
    """Where encoded tokens and digests of files are kept; it need not exist."""
    root = os.environ.get("TRIVIUM_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "trivium") / "tokens"


# What a source consists of


def _parts(path: str | list[str], name: str) -> list[str | Hub]:
    parts = [part for one in ([path] if isinstance(path, str) else path) for part in _parts_of(one, name)]
    if not parts:
        raise UserError(f"{name}: names no file")
    return parts


def _parts_of(path: str, name: str) -> list[str | Hub]:
    if path.startswith("hub:"):
        return [Hub(path.removeprefix("hub:"))]
    if Path(path).is_file():
        return [path]
    if Path(path).is_dir():
        return [*_saved_files(path, name)]
    if any(c in path for c in "*?["):
        files = sorted(file for file in glob.glob(path, recursive=True) if Path(file).is_file())
        if not files:
            raise UserError(f"{name}: {path} matches no file")
        return [*files]
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


# Rows


def _rows(parts: list[str | Hub], name: str) -> Iterator[Record]:
    for part in parts:
        if isinstance(part, Hub):
            yield from _hub_rows(part, name)
            continue
        try:
            yield from read_file(part)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise UserError(f"{name}: {part} cannot be read: {reason}") from error


def _hub_rows(hub: Hub, name: str) -> Iterator[Record]:
    number, rows = 0, _open_hub(hub, name)
    try:
        for number, row in enumerate(rows, 1):
            yield Record(f"{hub.name}, row {number}", row, None)
    except Exception as error:  # half of the data must not pass for all of it
        raise UserError(f"{name}: {hub.name} broke off after row {number}: {first_line(error)}") from error


def _open_hub(hub: Hub, name: str) -> datasets.IterableDataset | Dataset:
    """A stream where the hub can be reached, else the copy that an earlier run left in the cache."""
    revision = _revision(hub)
    try:
        return datasets.load_dataset(
            hub.name, split="train", revision=revision, streaming=revision is not None
        )
    except Exception as error:  # the hub raises a dozen kinds
        if revision is not None:
            raise UserError(f"{name}: {hub.name} on the hub cannot be read: {first_line(error)}") from error
        raise UserError(
            f"{name}: {hub.name} is no file or folder here, and no dataset of that name can be reached or is "
            "cached: give a path, or run once with the hub in reach"
        ) from error


def _revision(hub: Hub) -> str | None:
    """The commit that a dataset on the hub stands at; None where that cannot be had."""
    try:
        return HfApi().dataset_info(hub.name, timeout=HUB_TIMEOUT).sha
    except Exception:  # a dozen kinds here too: out of reach, no such name, not allowed
        return None


# Fingerprints


class _Memo:
    """Digests of files by absolute path, size and time of change, and revisions of hub datasets by name, kept
    in a JSON file."""

    def __init__(self, file: Path):
        self.file = file
        self.known = self._load()
        self.new: dict[str, list[int | str]] = {}

    def revision(self, hub: Hub) -> list[str]:
        """Name and revision; out of reach of the hub the last revision known, if any."""
        key, revision = f"hub:{hub.name}", _revision(hub)
        if revision is not None and self.known.get(key) != [revision]:
            self.new[key] = [revision]
        return [key, *map(str, self.new.get(key) or self.known.get(key, []))]

    def digest(self, path: str) -> list[str]:
        """Ending and digest of a file.

        Raises:
            OSError: it cannot be read.
        """
        packed = ".gz" if path.lower().endswith(".gz") else ""
        return [ending(path) + packed, self._digest(path)]

    def _digest(self, path: str) -> str:
        key, stat = os.path.abspath(path), os.stat(path)
        known = self.known.get(key)
        if known and len(known) == 3 and known[:2] == [stat.st_size, stat.st_mtime_ns]:
            return str(known[2])
        digest = _digest(path)
        after = os.stat(path)
        settled = time.time_ns() - after.st_mtime_ns > SETTLED
        if settled and (after.st_size, after.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            self.new[key] = [stat.st_size, stat.st_mtime_ns, digest]
        return digest

    def save(self) -> None:
        """Adds what is new; a folder that cannot be written is no error."""
        if not self.new:
            return
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.file.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "w") as out:
                    json.dump({**self._load(), **self.new}, out)
                os.replace(temporary, self.file)
            except OSError:
                os.unlink(temporary)

    def _load(self) -> dict[str, list[int | str]]:
        try:
            known = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(known, dict):
            return {}
        return {key: value for key, value in known.items() if isinstance(value, list)}


def _digest(path: str) -> str:
    result = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            result.update(block)
    return result.hexdigest()
