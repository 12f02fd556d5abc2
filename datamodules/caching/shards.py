"""The shards of a token cache as files: whether they are still what was written."""

import json
import platform
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import xxhash

from datamodules.atomic import replacing
from datamodules.caching.index import Index

BLOCK = 1 << 20  # bytes read at once
BOOT = Path("/proc/sys/kernel/random/boot_id")  # another one each time that the machine starts


def shard_file(folder: Path, number: int) -> Path:
    """Where a shard of a cache lies."""
    return folder / f"{number:05}.arrow"


def checksum(file: Path) -> str:
    """Of a file's whole content. 128 bits of XXH3 take 2.6 GB/s of one core, BLAKE2 0.2; nobody attacks here.

    Raises:
        OSError: it cannot be read.
    """
    digest = xxhash.xxh3_128()
    with file.open("rb") as stream:  # not mapped: a file that is cut meanwhile would end the process
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


class Stamp(NamedTuple):
    """What changes with any writing to a file."""

    size: int
    mtime: int
    ctime: int
    inode: int


def stamp(file: Path) -> Stamp:
    """Raises OSError where there is no such file."""
    stat = file.stat()
    return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


class Checks:
    """Which shards of a folder have been found whole.

    Damage comes from power cuts (pages of zeros anywhere), copies that broke off and other programs. Only a
    checksum of the whole file finds it. A shard is read for that once after each start of the machine and
    after each change of the file; then its stamp is enough, so that the next run begins at once, however
    large the cache. Kept beside the shards, for each machine; where that cannot be written, all are read.
    """

    known: dict[str, Stamp] = {}

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = folder / f"checked.{platform.node() or 'here'}.json"

    def unchecked(self, index: Index, first: int) -> int:
        """Bytes of the shards from `first` on that have to be read."""
        stamps = self._load()
        numbers = range(first, len(index.shards))
        return sum(index.sizes[n] for n in numbers if not self._is_known(n, stamps))

    def damaged(self, index: Index, first: int) -> dict[int, str]:
        """The shards from `first` on that are not what was written, and what is wrong with each."""
        stamps, new = self._load(), dict[str, Stamp]()
        damage: dict[int, str] = {}
        for number in range(first, len(index.shards)):
            if self._is_known(number, stamps):
                continue
            file = shard_file(self.folder, number)
            try:
                before = stamp(file)
                if problem := _problem(file, before, index, number):
                    damage[number] = problem
                else:
                    self.known[str(file)] = new[file.name] = before
            except FileNotFoundError:
                damage[number] = "is missing"
            except OSError as error:
                damage[number] = f"cannot be read ({error.strerror or error})"
        if new:
            self._save({**stamps, **new})
        return damage

    def _is_known(self, number: int, stamps: dict[str, Stamp]) -> bool:
        file = shard_file(self.folder, number)
        try:
            return stamp(file) in (self.known.get(str(file)), stamps.get(file.name))
        except OSError:
            return False

    def _load(self) -> dict[str, Stamp]:
        try:
            kept = json.loads(self.file.read_text())
            return {name: Stamp(*s) for name, s in kept["shards"].items()} if kept["boot"] == _boot() else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged like anything else
            return {}

    def _save(self, stamps: dict[str, Stamp]) -> None:
        if _boot():
            with suppress(OSError), replacing(self.file) as unfinished:
                unfinished.write_text(json.dumps({"boot": _boot(), "shards": stamps}))


def _problem(file: Path, before: Stamp, index: Index, number: int) -> str:
    if before.size != index.sizes[number]:
        return f"has {before.size:,} of {index.sizes[number]:,} bytes"
    return "" if checksum(file) == index.checksums[number] else "has other bytes than were written"


def _boot() -> str:
    """Which start of the machine this is; empty where that cannot be told."""
    try:
        return BOOT.read_text().strip()
    except OSError:
        return ""


def remove_shards(folder: Path, numbers: Iterable[int] | None = None) -> None:
    """Removes the shards of a cache."""
    files = folder.glob("*.arrow") if numbers is None else (shard_file(folder, n) for n in numbers)
    for file in files:
        file.unlink(missing_ok=True)
