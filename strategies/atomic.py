"""Checkpoints that are complete, or still the one before: written beside their place, on the disk before they
are renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from strategies.errors import UserError


def part_of(target: Path) -> Path:
    """Where a checkpoint is written before it takes its place, and where it goes before it is removed."""
    return target.with_name(f"{target.name}.part")


def _before(target: Path) -> Path:
    """Where the checkpoint that was in its place waits until it has."""
    return target.with_name(f"{target.name}.old")


def remove_leftovers(target: Path) -> None:
    """Removes what an interrupted save has left."""
    _remove(part_of(target))
    _remove(_before(target))


def put_in_place(target: Path) -> None:
    """Renames what was written to `part_of(target)`, once it is on the disk. A folder cannot replace another
    in one step: the one before is renamed first, and put back by `finish_interrupted_save` if the run ends in
    between."""
    part = part_of(target)
    sync(part)
    if target.is_dir() or (part.is_dir() and target.exists()):
        target.rename(_before(target))
    part.replace(target)
    _sync(target.parent)
    _remove(_before(target))


def sync(path: Path) -> None:
    """Waits until a file, or a folder with all that is in it, is on the disk."""
    for each in [*path.rglob("*"), path]:
        _sync(each)


def repeat(source: Path, target: Path) -> None:
    """Copies a checkpoint to the place of another; a link would be damaged with it."""
    remove_leftovers(target)
    part = part_of(target)
    if source.is_dir():
        shutil.copytree(source, part)
    else:
        shutil.copy2(source, part)
    put_in_place(target)


def finish_interrupted_save(folder: Path) -> None:
    """Puts a checkpoint back that a newer one was about to take the place of when the run was cut off."""
    for old in folder.glob("*.old"):
        target = old.with_name(old.name.removesuffix(".old"))
        if not target.exists():
            with suppress(FileNotFoundError):  # another rank was faster
                old.rename(target)


def remove_interrupted(folder: Path) -> None:
    """Removes what interrupted saves and removals have left in a folder that no other run writes to."""
    for path in [*folder.glob("*.ckpt.part"), *folder.glob("*.ckpt.old")]:
        _remove(path)


def remove(target: Path) -> None:
    """Removes a checkpoint; a folder gets another name first, so that half of it is taken for none."""
    if target.is_dir():
        _remove(part_of(target))
        target.rename(part_of(target))
        target = part_of(target)
    _remove(target)


@contextmanager
def refused_writes(target: Path) -> Iterator[None]:
    """Tells in one line that a checkpoint cannot be written.

    Raises:
        UserError: the system refused to write, as on a full disk.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = _refusal(error)
        if reason is None:
            raise
        raise UserError(
            f"{target} cannot be written ({reason}): make room, or mend the folder, and go on with "
            "`--ckpt_path newest`: what was saved before is whole"
        ) from error


def _refusal(error: BaseException | None) -> str | None:
    """What the system said of a write, which torch's writer turns into an error of its own, or keeps."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        if "iostream error" in str(error):
            return "the disk is full, or failed"
        error = error.__cause__ or error.__context__
    return None


def _sync(path: Path) -> None:
    """Sees to it that a file, or a folder's names, are on the disk; some file systems cannot for a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(*((OSError,) if path.is_dir() else ())):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Removes a checkpoint, a folder or another strategy's file, where there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
