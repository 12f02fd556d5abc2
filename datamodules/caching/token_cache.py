"""The token cache: a source's encoded rows on disk, written once in Arrow shards and read through the page
cache, also while it is being written. What is damaged is found when it is opened, told, and written anew.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info

from datamodules.caching.index import Index
from datamodules.caching.row_encoder import RowEncoder
from datamodules.caching.shards import Checks, remove_shards, shard_file
from datamodules.caching.writer import ShardWriter
from datamodules.errors import UserError
from datamodules.reading.fingerprint import cache_folder, fingerprint, versions
from datamodules.reading.sources import parts_of

VERSION = 6  # of shards and index: another one is another cache
POLL = 0.05  # seconds between two looks at what a writer has done
PATIENCE = 3.0  # seconds before a wait for another process is told, or its death is looked for
LARGE = 4_000_000_000  # bytes whose check takes seconds, so that it is told


class TokenCache:
    """A folder of Arrow shards, named after the content of the source, the tokenizer, the encoding and the
    user's own code in it, so that a change of any is another cache. `name` is the source's field in the
    configuration, for messages.

    Raises:
        UserError: no such source, or code that cannot be stated.
    """

    def __init__(self, path: str | list[str], name: str, encoder: RowEncoder):
        self.path, self.name, self.encoder = path, name, encoder
        self.files = parts_of(path, name)
        self._versions = versions(self.files)
        try:
            made_by = encoder.key
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        parts = [str(VERSION), fingerprint(path, name), made_by, str(encoder.schema)]
        key = hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
        self.folder = cache_folder() / key
        self.index = Index(self.files)
        self.batches: list[pa.RecordBatch] = []
        self._mapped = 0  # shards among them
        self._checks = Checks(self.folder)
        self._lock = FileLock(self.folder.with_suffix(".lock"))  # the system's own: it ends with its process
        self._failure: Exception | None = None  # of this process's own writer

    def __getstate__(self) -> dict[str, Any]:
        """What a process that prepares batches gets, which writes nothing: no lock, which cannot be sent."""
        return {**self.__dict__, "_lock": None}

    def write(self, strict: bool, max_dropped: float = 1.0) -> None:
        """Writes what is not there yet or damaged; another process that writes the same cache is waited for.

        Args:
            strict: whether a row that cannot be read, or is of a wrong type, ends it.
            max_dropped: share of the rows that may be left out, for whatever reason.

        Raises:
            UserError: such a row, with its place, more left out than `max_dropped`, or nothing left; the
                cache cannot be written.
        """
        self.refresh()
        if not self.index.finished:  # one that is whole is read without a lock, from a read-only disk too
            with self._writing():
                self.refresh()
                if not self.index.finished:
                    self._write_rest(strict, max_dropped)
            self.refresh()
        if strict and self.index.refused:  # an earlier run may have left them out
            raise UserError(f"{self.name}: {self.index.first_refused()}")
        self.index.check_losses(self.name, self.path, max_dropped)

    def _write_rest(self, strict: bool, max_dropped: float) -> None:
        if not self.index.shards and any(self.folder.glob("*.arrow")):
            self._tell("has no whole index")
            remove_shards(self.folder)
        self.index.failure = ""
        try:
            self._writer(self.index, strict).run()
            if versions(self.files) != self._versions:
                (self.folder / "index.json").unlink(missing_ok=True)
                raise UserError(f"{self.name}: {self.path} changed while it was read: start again")
            self.index.check_losses(self.name, self.path, max_dropped)  # before others see that it is whole
            self.index.finished = True
            self.index.save(self.folder)
        except Exception as error:
            self.index = Index(self.files)  # what is not in a complete shard is lost
            self.refresh()
            self.index.failure, self.index.is_refusal = str(error), isinstance(error, UserError)
            with suppress(OSError):  # the disk is full
                self.index.save(self.folder)
            raise

    def _writer(self, index: Index, strict: bool) -> ShardWriter:
        return ShardWriter(self.path, self.name, self.encoder, self.folder, index, strict)

    def write_behind(self, strict: bool, max_dropped: float = 1.0) -> None:
        """Writes in a thread while what is there already is read; a failure reaches who waits.

        Raises:
            UserError: the cache cannot be written.
        """
        writer = TokenCache(self.path, self.name, self.encoder)
        self.refresh()
        if self.index.failure:  # an earlier run's
            self.index.failure = ""
            with self._told():
                self.index.save(self.folder)

        def work() -> None:
            try:  # its text is in the index, for readers in any process
                writer.write(strict, max_dropped)
            except Exception as error:
                self._failure = error

        threading.Thread(target=work, name=f"token cache of {self.name}", daemon=True).start()

    def refresh(self) -> None:
        """Takes note of the shards that are complete now; those that are damaged are written anew.

        Raises:
            UserError: they cannot be.
        """
        index = Index.load(self.folder, self.files)
        if index is not None and len(index.shards) > self._mapped:
            index = self._mended(index)
        if index is None:
            return
        for number in range(self._mapped, len(index.shards)):
            with pa.memory_map(str(shard_file(self.folder, number))) as source:
                self.batches += pa.ipc.open_stream(source).read_all().to_batches()
        self.index, self._mapped = index, len(index.shards)

    def _mended(self, index: Index) -> Index | None:
        """The index, once every shard that was not mapped yet is whole; None where the cache begins anew."""
        unchecked = self._checks.unchecked(index, self._mapped)
        if unchecked > LARGE:
            rank_zero_info(f"{self.name}: checking {unchecked / 1e9:.0f} GB of tokens, once after a start")
        if not self._checks.damaged(index, self._mapped):
            return index
        with self._writing():
            now = Index.load(self.folder, self.files)
            damage = {} if now is None else self._checks.damaged(now, self._mapped)
            if now is None or not damage:  # another process was first
                return now
            for number, problem in damage.items():
                self._tell(f"is damaged: {shard_file(self.folder, number).name} {problem}")
            writer = self._writer(now, strict=False)
            if all(writer.rewrite(number) for number in damage):
                return now
            # rows become other tokens than they did, by another version of a library
            (self.folder / "index.json").unlink()
            remove_shards(self.folder)
        if self._mapped:
            raise UserError(f"{self.name}: its token cache was damaged and had to be removed: start again")
        return None

    def _tell(self, problem: str) -> None:
        rank_zero_info(f"{self.name}: token cache {self.folder} {problem}: writing it anew")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """While no other process writes.

        Raises:
            UserError: the cache cannot be written.
        """
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=PATIENCE)
            except Timeout:
                rank_zero_info(f"{self.name}: waiting for another process that writes {self.folder}")
                self._lock.acquire()
            try:
                yield
            finally:
                self._lock.release()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tells in one line that the disk is full or read-only."""
        try:
            yield
        except (OSError, NotImplementedError) as error:  # the latter of a file system without locks
            number = error.errno if isinstance(error, OSError) else None
            reason = os.strerror(number) if number else str(error)  # Arrow's text holds it twice
            raise UserError(
                f"{self.name}: the token cache {self.folder} cannot be written ({reason}): make room there, "
                "or set TRIVIUM_CACHE to a folder that can be written"
            ) from error

    def wait(self, enough: Callable[[], bool]) -> None:
        """Waits for a writer, in this or another process, until there is enough or it has finished.

        Raises:
            UserError: the user's mistake that ended the writer, or it was killed.
            RuntimeError: any other failure that did.
        """
        self.refresh()
        rows, since, alone = self.index.rows, time.monotonic(), False
        while not enough() and not self.index.finished:
            if isinstance(self._failure, UserError):
                raise self._failure
            if self.index.failure or self._failure:
                text = self.index.failure or str(self._failure)
                raise (UserError if self.index.is_refusal else RuntimeError)(text)
            if self.index.rows != rows:
                rows, since, alone = self.index.rows, time.monotonic(), False
            elif time.monotonic() - since > PATIENCE:
                if alone and self._nobody_writes():
                    raise UserError(f"{self.name}: the process that wrote its token cache ended: start again")
                since, alone = time.monotonic(), self._nobody_writes()
            time.sleep(POLL)
            self.refresh()

    def _nobody_writes(self) -> bool:
        try:
            with FileLock(self._lock.lock_file, timeout=0):
                return True
        except (OSError, Timeout):  # a Timeout is an OSError too, but not by promise
            return False
