"""The token cache: a source's encoded rows on disk, written once in Arrow shards and read through the page
cache, also while it is being written."""

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pyarrow as pa
from filelock import FileLock

from datamodules.caching.index import Index
from datamodules.caching.row_encoder import RowEncoder
from datamodules.caching.writer import Writer, shard_file
from datamodules.errors import UserError
from datamodules.reading.fingerprint import cache_folder, fingerprint
from datamodules.reading.sources import parts_of

VERSION = 2  # of shards and index: another one is another cache
POLL = 0.05  # seconds between two looks at what a writer has done


class TokenCache:
    """A folder of Arrow shards, named after the content of the source, the tokenizer and the encoding, so
    that a change of any is another cache.

    Args:
        path: of the source.
        name: the field of the configuration, for messages.
        encoder: makes the columns.
    """

    def __init__(self, path: str | list[str], name: str, encoder: RowEncoder):
        self.path, self.name, self.encoder = path, name, encoder
        parts = [str(VERSION), fingerprint(path, name), encoder.key, str(encoder.schema)]
        key = hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
        self.folder = cache_folder() / key
        self.files = [str(part) for part in parts_of(path, name)]
        self.index = Index(self.files)
        self.batches: list[pa.RecordBatch] = []
        self._mapped = 0  # shards among them

    def write(self, strict: bool, max_dropped: float = 1.0) -> None:
        """Writes what is not there yet; another process that writes the same cache is waited for.

        Args:
            strict: whether a row that cannot be read, or is of a wrong type, ends it.
            max_dropped: share of the rows that may be left out, for whatever reason.

        Raises:
            UserError: such a row, with its place, more left out than `max_dropped`, or nothing left.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_suffix(".lock")):
            self.refresh()
            if not self.index.finished:
                self._write_rest(strict, max_dropped)
        self.refresh()
        if strict and self.index.refused:  # an earlier run may have left them out
            raise UserError(f"{self.name}: {self.index.first_refused()}")
        self.index.check_losses(self.name, self.path, max_dropped)

    def _write_rest(self, strict: bool, max_dropped: float) -> None:
        self.index.failure = ""
        try:
            Writer(self.path, self.name, self.encoder, self.folder, self.index, strict=strict).run()
            self.index.check_losses(self.name, self.path, max_dropped)  # before others see that it is whole
            self.index.finished = True
            self.index.save(self.folder)
        except Exception as error:
            self.index = Index(self.files)  # what is not in a complete shard is lost
            self.refresh()
            self.index.failure, self.index.is_refusal = str(error), isinstance(error, UserError)
            self.index.save(self.folder)
            raise

    def write_behind(self, strict: bool, max_dropped: float = 1.0) -> None:
        """Writes in a thread while what is there already is read; a failure reaches who waits."""
        writer = TokenCache(self.path, self.name, self.encoder)
        self.refresh()
        if self.index.failure:  # an earlier run's
            self.index.failure = ""
            self.index.save(self.folder)

        def work() -> None:
            with suppress(Exception):  # its text is in the index, for readers in any process
                writer.write(strict, max_dropped)

        threading.Thread(target=work, name=f"token cache of {self.name}", daemon=True).start()

    def refresh(self) -> None:
        """Takes note of the shards that are complete now."""
        index = Index.load(self.folder, self.files)
        if index is None:
            return
        for number in range(self._mapped, len(index.shards)):
            with pa.memory_map(str(shard_file(self.folder, number))) as source:
                self.batches += pa.ipc.open_stream(source).read_all().to_batches()
        self.index, self._mapped = index, len(index.shards)

    def wait(self, enough: Callable[[], bool]) -> None:
        """Waits for a writer, in this or another process, until there is enough or it has finished.

        Raises:
            UserError: the user's mistake that ended the writer.
            RuntimeError: any other failure that did.
        """
        self.refresh()
        while not enough() and not self.index.finished:
            if self.index.failure:
                raise (UserError if self.index.is_refusal else RuntimeError)(self.index.failure)
            time.sleep(POLL)
            self.refresh()
