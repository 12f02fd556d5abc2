"""Which checkpoints of a folder are whole, and which of them is the newest: the one of the latest step."""

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from strategies.checkpoints.checkpoint import open_checkpoint
from strategies.errors import UserError

STEP = re.compile(r"\bstep=(\d+)")


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, a file or DeepSpeed's folder; None where it is whole.

    Every record's checksum is compared, at about the speed of the disk: the end of a file can be there while
    pages before it are not, after a power failure. What is read is read again from memory when it is loaded.
    """
    if not path.is_dir():
        return _file_damage(path)
    try:
        latest = path / "latest"
        if not latest.is_file() or not (path / latest.read_text().strip()).is_dir():
            return "is incomplete: `latest`, or the folder that it names, is missing"
        for file in sorted(path.rglob("*.pt")):
            if (reason := _file_damage(file)) is not None:
                return f"is not whole: {file.name} {reason}"
        open_checkpoint(path)
    except (UserError, OSError, KeyError, UnicodeDecodeError) as error:
        return f"is incomplete: {error}"
    return None


def _file_damage(file: Path) -> str | None:
    if not file.stat().st_size:
        return "is empty"
    if not zipfile.is_zipfile(file):
        return "was cut off, or is something else"
    try:
        with zipfile.ZipFile(file) as records:
            bad = records.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
        bad = str(error)
    return None if bad is None else f"is damaged at {bad}"


def checkpoints(folder: Path) -> Iterator[Path]:
    """A folder's checkpoints, the latest step first and `last` before others of its step; whole or not."""
    found = [path for path in folder.glob("*.ckpt") if not path.is_symlink() or path.exists()]
    steps = {path: step_of(path) for path in found}
    yield from sorted(found, key=lambda path: (steps[path], path.stem == "last"), reverse=True)


def step_of(path: Path) -> int:
    """The optimizer steps that a checkpoint has behind it; −1 where it cannot tell."""
    if named := STEP.search(path.name):
        return int(named[1])
    try:
        return int(open_checkpoint(path).metadata["global_step"])
    except (UserError, OSError, KeyError, RuntimeError):
        return -1


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The whole checkpoint of the latest step, and a line for each that was looked at and is not whole. One
    with nothing but weights, from which no run can go on, is passed over."""
    damaged: list[str] = []
    for path in checkpoints(folder):
        reason = damage(path)
        if reason is not None:
            damaged.append(f"{path} {reason}")
        elif "loops" in open_checkpoint(path).metadata:
            return path, damaged
    return None, damaged
