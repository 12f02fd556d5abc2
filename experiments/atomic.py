"""Files and folders that are there whole or not at all: written beside their place, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write a file or a folder to, which takes the place of `path` when the block ends.

    Where the block fails, nothing is left of it, and what stood at `path` stays.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # two processes may write one cache
    try:
        yield part
        put_in_place(part, path)
    finally:
        _remove(part)


def put_in_place(part: Path, path: Path) -> None:
    """Gives `part` the name of `path`. A folder that stands there, which no rename replaces, has the ending
    `.old` meanwhile, so that one of the two is whole whenever this is cut off."""
    if not path.is_dir():
        part.replace(path)
        return
    old = path.with_name(f"{path.name}.old")
    _remove(old)
    path.rename(old)
    part.rename(path)
    _remove(old)


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8; half a character (a lone surrogate), which has none, as its escape."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
