"""Rows from local files, folders and the hub, through `datasets`."""

import glob
import gzip
import json
from pathlib import Path

import datasets
from datasets import Dataset

BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text", ".md": "text"}


def load_rows(path: str | list[str], name: str) -> Dataset:
    """All rows of a source.

    Args:
        path: JSON lines, Parquet or text files (globs allowed; a text file is one row `text`), a folder
            written by `Dataset.save_to_disk`, or the name of a hub dataset (its `train` split).
        name: the field of the configuration, for messages.

    Raises:
        ValueError: nothing there, an unknown ending, or a file that cannot be read, with file and line.
    """
    paths = [path] if isinstance(path, str) else list(path)
    if len(paths) == 1 and not _is_file_pattern(paths[0]):
        return _load_named(paths[0], name)
    files = [file for pattern in paths for file in _expand(pattern, name)]
    endings = {_ending(file) for file in files}
    if len(endings) > 1 or not endings <= set(BUILDERS):
        raise ValueError(
            f"{name}: files end in {', '.join(sorted(endings))}: give one kind of {', '.join(BUILDERS)}"
        )
    for file in files:
        if Path(file).stat().st_size == 0:
            raise ValueError(f"{name}: {file} is empty")
    builder = BUILDERS[endings.pop()]
    options = {"sample_by": "document"} if builder == "text" else {}
    try:
        return datasets.load_dataset(builder, data_files=files, split="train", **options)
    except (datasets.exceptions.DatasetGenerationError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: {first_bad_line(files) or f'{files[0]} cannot be read'}") from error


def check_columns(rows: Dataset, columns: tuple[str, ...], name: str, path: str | list[str]) -> None:
    """Refuses a source without a column.

    Raises:
        ValueError: naming what is missing and what is there.
    """
    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        raise ValueError(
            f"{name}: {path} has no column {', '.join(f'`{column}`' for column in missing)}; "
            f"it has {', '.join(f'`{column}`' for column in rows.column_names)}"
        )


def _is_file_pattern(path: str) -> bool:
    return Path(path).is_file() or any(c in path for c in "*?[") or _ending(path) in BUILDERS


def _ending(path: str) -> str:
    return Path(path.removesuffix(".gz")).suffix.lower()


def _expand(pattern: str, name: str) -> list[str]:
    files = sorted(glob.glob(pattern, recursive=True))
    if not files:
        what = "matches no file" if any(c in pattern for c in "*?[") else "does not exist"
        raise ValueError(f"{name}: {pattern} {what}")
    return files


def _load_named(path: str, name: str) -> Dataset:
    if Path(path).is_dir():
        if not (Path(path) / "state.json").is_file():
            raise ValueError(
                f"{name}: folder {path} was not written by `save_to_disk`: give its files, as in "
                f"{path}/*.jsonl"
            )
        return datasets.load_from_disk(path)
    try:
        return datasets.load_dataset(path, split="train")
    except Exception as error:  # the hub raises a dozen kinds, all of them mean that it is not to be had
        raise ValueError(
            f"{name}: {path} is no file or folder here, and no dataset of that name can be reached or is "
            "cached: "
            "give a path, or run once with the hub in reach"
        ) from error


def first_bad_line(files: list[str]) -> str | None:
    """The first line of JSON lines files that cannot be read, with its file, number and reason."""
    for file in files:
        opener = gzip.open if file.endswith(".gz") else open
        with opener(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    if not isinstance(json.loads(line), dict):
                        return f"{file}:{number} is not a JSON object"
                except UnicodeDecodeError as error:
                    return f"{file}:{number} is not UTF-8 (byte {error.start} of the line)"
                except json.JSONDecodeError as error:
                    return f"{file}:{number} is not JSON: {error.msg} at column {error.colno}"
    return None
