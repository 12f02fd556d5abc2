"""What a folder or a file says of itself before its rows are read: its splits, the encoding of its text."""

from datamodules.errors import UserError as DataError
from datamodules.reading.files import TEXT_ENDINGS, ending
from datamodules.reading.folders import folder_files
from datamodules.reading.hub import Hub
from datamodules.reading.sources import parts_of
from datamodules.reading.streams import CANNOT_UNPACK, likely_encoding, open_unpacked

LOOKED_AT = 100_000  # bytes
VALIDATION = ("val", "validation", "test")


def likely_encoding_of(paths: list[str]) -> str | None:
    """The encoding that the first text file which is no UTF-8 seems to have; None where all are UTF-8, as far
    as their beginnings tell."""
    try:
        parts = parts_of(paths, "--data")
    except DataError:
        return None  # told by who reads the rows: a folder of several splits, or nothing there
    for part in parts:
        if isinstance(part, Hub) or ending(part) not in TEXT_ENDINGS:
            continue
        try:
            with open_unpacked(part) as stream:
                data = stream.read(LOOKED_AT)
        except (*CANNOT_UNPACK, OSError):
            continue
        if not _is_utf8(data) and (encoding := likely_encoding(data)):
            return encoding
    return None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start > len(data) - 4 and error.reason == "unexpected end of data"
    return True


def splits_of(paths: list[str]) -> tuple[list[str], list[str]] | None:
    """The training and the validation split of a folder that has both."""
    if len(paths) != 1 or not _has_split(paths[0], "train"):
        return None
    name = next((name for name in VALIDATION if _has_split(paths[0], name)), None)
    return None if name is None else ([f"{paths[0]}[train]"], [f"{paths[0]}[{name}]"])


def _has_split(folder: str, split: str) -> bool:
    try:
        return bool(folder_files(folder, "--data", split))
    except (DataError, OSError):
        return False
