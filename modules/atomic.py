"""Folders that are complete or not there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_folder(path: str) -> Iterator[Path]:
    """Gives an empty folder beside `path` to write to, which takes its place when all went well; what was
    there before stays until then."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    part.mkdir()
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # which may be what fills the disk
        raise
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():  # removed once the new one is there: half a folder would be taken for a whole one
        target.rename(old)
    part.rename(target)
    shutil.rmtree(old, ignore_errors=True)
