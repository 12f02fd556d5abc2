"""The token cache: a source's encoded rows on disk, written once in Arrow shards and read through the page
cache, also while it is being written.

Reading, encoding and writing happen at the same time, a complete shard after another.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from datamodules.atomic import replacing
from datamodules.caching.index import Index
from datamodules.caching.row_encoder import EncodedBatch, RowEncoder
from datamodules.errors import UserError
from datamodules.reading.fingerprint import cache_folder, fingerprint
from datamodules.reading.record import BROKEN_OFF, Record
from datamodules.reading.sources import parts_of, read_rows
from datamodules.rendering.segments import DropRow, Row, StopRun

VERSION = 4  # of shards and index: another one is another cache
POLL = 0.05  # seconds between two looks at what a writer has done
BATCH_ROWS = 1000  # tokenised together: enough for all of the tokenizer's threads
BATCH_CHARACTERS = 2_000_000  # or fewer rows, so that long documents do not fill the memory
SHARD_BYTES = 64_000_000  # what a killed run loses at most
ENCODERS = 2  # threads: one makes Python lists while the other has the tokenizer's cores
T = TypeVar("T")


def shard_file(folder: Path, number: int) -> Path:
    """Where a shard of a cache lies."""
    return folder / f"{number:05}.arrow"


class TokenCache:
    """A folder of Arrow shards, named after the content of the source, the tokenizer and the encoding, so
    that a change of any is another cache. `name` is the source's field in the configuration, for messages."""

    def __init__(self, path: str | list[str], name: str, encoder: RowEncoder):
        self.path, self.name, self.encoder = path, name, encoder
        try:
            made_by = encoder.key
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        parts = [str(VERSION), fingerprint(path, name), made_by, str(encoder.schema)]
        key = hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
        self.folder = cache_folder() / key
        self.files = parts_of(path, name)
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
            _Writer(self, strict).run()
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


class _Writer:
    """Writes the rows of a source that its cache does not hold yet. One thread reads, two encode, and the
    caller's own writes, so that the tokenizer never waits.

    Args:
        cache: its index is brought up to date, and saved, with every shard.
        strict: whether a row that cannot be read, or is of a wrong type, ends it.
    """

    def __init__(self, cache: TokenCache, strict: bool):
        self.path, self.name, self.encoder, self.folder = cache.path, cache.name, cache.encoder, cache.folder
        self.index, self.strict = cache.index, strict
        self.schema = cache.encoder.schema.append(pa.field("number", pa.int64()))

    def run(self) -> None:
        """Writes all that is missing; what a shard that is not complete held is lost.

        Raises:
            UserError: a row that ends it, with its place.
        """
        for unfinished in self.folder.glob("*.arrow.*.part"):  # of a process that was killed
            unfinished.unlink()
        with self._progress() as progress, ThreadPoolExecutor(ENCODERS) as pool:
            task = progress.add_task(f"tokenising {self.name}", total=None)
            batches = self._kept(self._encoded(pool))
            for first in batches:
                self._write_shard(chain([first], batches), progress, task)

    def _write_shard(self, batches: Iterator[list[Row]], progress: Progress, task: Any) -> None:
        """Takes batches until the shard is large enough, and makes it visible."""
        written = 0
        with (
            replacing(shard_file(self.folder, len(self.index.shards))) as unfinished,
            pa.OSFile(str(unfinished), "wb") as sink,
            pa.ipc.new_stream(sink, self.schema) as stream,
        ):
            for rows in batches:
                stream.write_batch(self._record_batch(rows))
                written += len(rows)
                done = f"{self.index.rows:,} rows, {self.index.tokens:,} tokens"
                progress.update(task, description=f"tokenising {self.name}: {done}")
                if sink.tell() > SHARD_BYTES:
                    break
        self.index.shards.append(written)
        self.index.save(self.folder)

    def _record_batch(self, rows: list[Row]) -> pa.RecordBatch:
        arrays = [_column([row[field.name] for row in rows], field.type) for field in self.schema]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _encoded(self, pool: ThreadPoolExecutor) -> Iterator[tuple[int, EncodedBatch]]:
        """Batches in the order of the source, each with its number of rows."""
        reader = self.encoder.reader
        every = read_rows(self.path, self.name, reader.encoding, reader.wanted)
        records = islice(every, self.index.rows, None)  # those of no shard yet
        pending: deque[tuple[int, Future[EncodedBatch]]] = deque()
        for batch in _prefetched(_in_batches(enumerate(records, self.index.rows))):
            pending.append((len(batch), pool.submit(self.encoder.encode, batch)))
            if len(pending) > ENCODERS:
                size, future = pending.popleft()
                yield size, future.result()
        for size, future in pending:
            yield size, future.result()

    def _kept(self, encoded: Iterable[tuple[int, EncodedBatch]]) -> Iterator[list[Row]]:
        """The rows of each batch that are kept, none of them empty; the index counts what is taken."""
        for size, batch in encoded:
            self._count_left_out(batch)
            self.index.note(batch.layouts, batch.not_read)
            self.index.rows += size
            for row in batch.rows:
                changes = row.pop("changed", ())
                self.index.truncated += bool(changes)
                for change in changes:
                    self.index.changed[change] = self.index.changed.get(change, 0) + 1
                self.index.tokens += row["length"]
                self.index.weight += row["weight"]
            if batch.rows:
                yield batch.rows

    def _count_left_out(self, batch: EncodedBatch) -> None:
        index = self.index
        for _, kind, reason, line in batch.left_out:
            if issubclass(kind, StopRun):
                raise UserError(f"{self.name}: {line}")
            index.leave_out(index.dropped if issubclass(kind, DropRow) else index.refused, reason, line)
            if BROKEN_OFF in reason:  # nobody knows how much is lost with it
                raise UserError(f"{self.name}: {line}")
        if self.strict and index.refused:
            raise UserError(f"{self.name}: {index.first_refused()}")

    def _progress(self) -> Progress:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        silent = not console.is_terminal or rank_zero_only.rank != 0  # type: ignore[attr-defined]
        return Progress(*columns, console=console, transient=True, disable=silent)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A column; lists of numpy arrays are joined without a Python object for each number."""
    if not pa.types.is_list(kind) or pa.types.is_list(kind.value_type):
        return pa.array(values, kind)
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    flat = np.concatenate([np.asarray(value) for value in values])
    flat = flat.astype(kind.value_type.to_pandas_dtype(), copy=False)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, kind.value_type), type=kind)


def _in_batches(rows: Iterable[tuple[int, Record]]) -> Iterator[list[tuple[int, Record]]]:
    batch: list[tuple[int, Record]] = []
    size = 0
    for number, record in rows:
        batch.append((number, record))
        size += sum(len(value) for value in (record.row or {}).values() if isinstance(value, str))
        if len(batch) == BATCH_ROWS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _prefetched(items: Iterator[T], ahead: int = 4) -> Iterator[T]:
    """The same items, made in a thread of their own."""
    end: Any = object()
    thread = ThreadPoolExecutor(1)
    try:
        pending = deque(thread.submit(next, items, end) for _ in range(ahead))
        while (item := pending.popleft().result()) is not end:
            pending.append(thread.submit(next, items, end))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
