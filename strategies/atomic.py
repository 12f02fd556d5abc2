"""Checkpoints that are complete, or still the one before: written beside their place and then renamed."""

import shutil
from contextlib import suppress
from pathlib import Path


def part_of(target: Path) -> Path:
    """Where a checkpoint is written before it takes its place."""
    return target.with_name(f"{target.name}.part")


def _before(target: Path) -> Path:
    """Where the checkpoint that was in its place waits until it has."""
    return target.with_name(f"{target.name}.old")


def remove_leftovers(target: Path) -> None:
    """Removes what an interrupted save has left."""
    _remove(part_of(target))
    _remove(_before(target))


def put_in_place(target: Path) -> None:
    """Renames what was written to `part_of(target)`. A folder cannot replace another in one step: the one
    before is renamed first, and put back by `finish_interrupted_save` if the run ends in between."""
    if target.exists():
        target.rename(_before(target))
    part_of(target).rename(target)
    _remove(_before(target))


def finish_interrupted_save(folder: Path) -> None:
    """Puts a checkpoint back that a newer one was about to take the place of when the run was cut off."""
    for old in folder.glob("*.old"):
        target = old.with_name(old.name.removesuffix(".old"))
        if not target.exists():
            with suppress(FileNotFoundError):  # another rank was faster
                old.rename(target)


def _remove(path: Path) -> None:
    """Removes a checkpoint, a folder or another strategy's file, where there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
