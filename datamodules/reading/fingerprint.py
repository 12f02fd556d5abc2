"""A source's identity: a digest of its bytes, remembered so that an unchanged file is not read again."""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from datamodules.atomic import replacing
from datamodules.errors import UserError
from datamodules.reading.files import ending
from datamodules.reading.hub import Hub, hub_revision
from datamodules.reading.sources import parts_of

SETTLED = 2_000_000_000  # nanoseconds after which a file's time of change tells it from a later version


def fingerprint(path: str | list[str], name: str) -> str:
    """What identifies the content of a source, 32 hexadecimal digits: it changes with any byte and with the
    order of files, not with where they lie. Digests of files are remembered by path, size and time of change.

    Args:
        path: as for `read_rows`. A hub dataset counts by its revision, or its name where the hub is out of
            reach.
        name: the field of the configuration, for messages.

    Raises:
        UserError: nothing there, or a file cannot be read.
    """
    memo = _Memo(cache_folder() / "files.json")
    try:
        parts = parts_of(path, name)
        identities = [memo.revision(p) if isinstance(p, Hub) else memo.digest(p) for p in parts]
    except OSError as error:
        raise UserError(f"{name}: {error.filename} cannot be read: {error.strerror or error}") from error
    memo.save()
    return hashlib.blake2b(json.dumps(identities).encode(), digest_size=16).hexdigest()


def versions(parts: list[str]) -> list[tuple[int, int]]:
    """Size and time of change of the files among the parts of a source, to tell that one was changed while
    it was read; a file that is gone has none."""
    found = []
    for part in parts:
        with contextlib.suppress(OSError):
            stat = os.stat(part)
            found.append((stat.st_size, stat.st_mtime_ns))
    return found


def cache_folder() -> Path:
    """Where encoded tokens and digests of files are kept; it need not exist."""
    root = os.environ.get("TRIVIUM_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "trivium") / "tokens"


class _Memo:
    """Digests of files by absolute path, size and time of change, and revisions of hub datasets by name, kept
    in a JSON file."""

    def __init__(self, file: Path):
        self.file = file
        self.known = self._load()
        self.new: dict[str, list[int | str]] = {}

    def revision(self, hub: Hub) -> list[str]:
        """Name and revision; out of reach of the hub the last revision known, if any."""
        key, revision = f"hub:{hub}", hub_revision(hub)
        if revision is not None and self.known.get(key) != [revision]:
            self.new[key] = [revision]
        return [key, *map(str, self.new.get(key) or self.known.get(key, []))]

    def digest(self, path: str) -> list[str]:
        """Ending and digest of a file.

        Raises:
            OSError: it cannot be read.
        """
        kind = ending(path) + (".gz" if path.lower().endswith(".gz") else "")
        key, stat = os.path.abspath(path), os.stat(path)
        known = self.known.get(key)
        if known and len(known) == 3 and known[:2] == [stat.st_size, stat.st_mtime_ns]:
            return [kind, str(known[2])]
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        after = os.stat(path)
        settled = time.time_ns() - after.st_mtime_ns > SETTLED
        if settled and (after.st_size, after.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            self.new[key] = [stat.st_size, stat.st_mtime_ns, digest]
        return [kind, digest]

    def save(self) -> None:
        """Adds what is new; a folder that cannot be written is no error."""
        if not self.new:
            return
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.file) as unfinished:
                unfinished.write_text(json.dumps({**self._load(), **self.new}))

    def _load(self) -> dict[str, list[int | str]]:
        try:
            known = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(known, dict):
            return {}
        return {key: value for key, value in known.items() if isinstance(value, list)}
