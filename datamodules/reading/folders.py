"""A folder → the files of rows in it, in the order in which they are read."""

import json
import re
from functools import cache
from pathlib import Path

from datamodules.errors import UserError
from datamodules.reading.files import DOCUMENTS, ENDINGS, ending, is_known

SPLIT = re.compile(r"(?<![a-z])(train(?:ing)?|valid(?:ation)?|val|dev|test|eval)(?![a-z])")
"""of a dataset, in the name of a file"""
SAME = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "eval": "test"}


def folder_files(folder: str, name: str, split: str | None = None) -> list[str]:
    """The files of rows in a folder: those that `save_to_disk` wrote, or all of known endings, sorted. Where
    there are tables or JSON, text files (a README) are left out; that is told.

    Args:
        folder: that exists.
        name: the field of the configuration, for messages.
        split: which of several to read.

    Raises:
        UserError: no such split, several of them and none is named, or no file of a known ending.
    """
    splits = Path(folder, "dataset_dict.json")
    if splits.is_file():
        return _saved_files(str(Path(folder, _one_split(folder, name, split, _saved_splits(splits)))), name)
    if Path(folder, "state.json").is_file():
        if split:
            raise UserError(f"{name}: folder {folder} holds one split: leave out [{split}]")
        return _saved_files(folder, name)
    return _all_files(folder, name, split)


def _saved_splits(file: Path) -> list[str]:
    try:
        return [str(split) for split in json.loads(file.read_text())["splits"]]
    except (OSError, ValueError, KeyError, TypeError):
        return sorted(path.parent.name for path in file.parent.glob("*/state.json"))


def _one_split(folder: str, name: str, split: str | None, splits: list[str]) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if split not in splits:
        found = f"has no split {split}" if split else "holds several splits"
        raise UserError(
            f"{name}: folder {folder} {found}: give one of {', '.join(splits)}, as in {folder}[{splits[0]}]"
            if splits
            else f"{name}: folder {folder} holds no split: save it again"
        )
    return split


def _saved_files(folder: str, name: str) -> list[str]:
    """The files of a folder written by `save_to_disk`, in their order."""
    state = Path(folder, "state.json")
    try:
        files = [str(Path(folder, file["filename"])) for file in json.loads(state.read_text())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name}: {state} cannot be read: save the folder again") from error
    for file in files:
        if not Path(file).is_file():
            raise UserError(f"{name}: {file} does not exist, though {state} names it")
    return files


def _all_files(folder: str, name: str, split: str | None) -> list[str]:
    there = sorted(path for path in Path(folder).iterdir() if not path.name.startswith("."))
    known = [str(path) for path in there if path.is_file() and is_known(path.name)]
    rows = [file for file in known if ending(file) not in DOCUMENTS]
    files = rows or known
    if not files:
        inner = [f"{folder}/{path.name}" for path in there if path.is_dir()]
        remedy = f"give one of its folders, as {inner[0]}" if inner else f"give {', '.join(ENDINGS)}"
        raise UserError(f"{name}: folder {folder} holds no file of a known ending: {remedy}")
    of_split = {file: _split_of(file) for file in files}
    splits = sorted({found for found in of_split.values() if found})
    if split or len(splits) > 1:
        chosen = SAME.get(split or "", split)
        if chosen not in splits:
            _one_split(folder, name, split, splits)
        files = [file for file in files if of_split[file] == chosen]
    left_out = [path.name for path in there if str(path) not in files]
    if left_out:
        _tell(name, folder, ", ".join(left_out[:8]) + (", …" if len(left_out) > 8 else ""))
    return files


def _split_of(file: str) -> str:
    found = SPLIT.search(Path(file).name.lower())
    return SAME.get(found[1], found[1]) if found else ""


@cache  # a folder is looked at several times
def _tell(name: str, folder: str, left_out: str) -> None:
    from lightning.pytorch.utilities import rank_zero_info  # only here: seconds to import

    rank_zero_info(f"{name}: of folder {folder} not read: {left_out}")
