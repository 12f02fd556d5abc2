"""Rows of a source → the shards of its token cache: reading, encoding and writing at the same time, a
complete shard after another."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from datamodules.atomic import replacing
from datamodules.caching.index import Index
from datamodules.caching.row_encoder import EncodedBatch, RowEncoder
from datamodules.caching.shards import checksum, shard_file
from datamodules.errors import UserError
from datamodules.reading.record import BROKEN_OFF, Record
from datamodules.reading.sources import read_rows
from datamodules.rendering.segments import DropRow, Row, StopRun

BATCH_ROWS = 1000  # tokenised together: enough for all of the tokenizer's threads
BATCH_CHARACTERS = 2_000_000  # or fewer rows, so that long documents do not fill the memory
SHARD_BYTES = 64_000_000  # what a killed run loses at most
ENCODERS = 2  # threads: one makes Python lists while the other has the tokenizer's cores
T = TypeVar("T")


class ShardWriter:
    """Writes the rows of a source that its cache does not hold yet. One thread reads, two encode, and the
    caller's own writes, so that the tokenizer never waits.

    Args:
        path: the source.
        name: its field in the configuration, for messages.
        encoder: makes columns of its rows.
        folder: of the cache.
        index: brought up to date, and saved, with every shard.
        strict: whether a row that cannot be read, or is of a wrong type, ends it.
    """

    def __init__(
        self, path: str | list[str], name: str, encoder: RowEncoder, folder: Path, index: Index, strict: bool
    ):
        self.path, self.name, self.encoder, self.folder = path, name, encoder, folder
        self.index, self.strict = index, strict
        self.schema = encoder.schema.append(pa.field("number", pa.int64()))

    def run(self) -> None:
        """Writes all that is missing; what a shard that is not complete held is lost.

        Raises:
            UserError: a row that ends it, with its place.
        """
        for unfinished in self.folder.glob("*.arrow.*.part"):  # of a process that was killed
            unfinished.unlink()
        with self._progress() as progress, ThreadPoolExecutor(ENCODERS) as pool:
            task = progress.add_task(f"tokenising {self.name}", total=None)
            batches = self._kept(self._encoded(pool, self.index.rows))
            for first in batches:
                self._write_shard(chain([first], batches), progress, task)

    def rewrite(self, number: int) -> bool:
        """Writes a complete shard anew from its rows of the source; whether it became the same again. Other
        versions of libraries may give others, to which the index does not belong."""
        ends = [0, *self.index.ends]
        file = shard_file(self.folder, number)
        with ThreadPoolExecutor(ENCODERS) as pool, replacing(file) as unfinished:
            with self._stream(unfinished) as (_, stream):
                for _, batch in self._encoded(pool, ends[number], ends[number + 1]):
                    for row in batch.rows:
                        row.pop("changed", None)
                    if batch.rows:
                        stream.write_batch(self._record_batch(batch.rows))
            return checksum(unfinished) == self.index.checksums[number]

    @contextmanager
    def _stream(self, file: Path) -> Iterator[tuple[Any, Any]]:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, self.schema) as stream:
            yield sink, stream

    def _write_shard(self, batches: Iterator[list[Row]], progress: Progress, task: Any) -> None:
        """Takes batches until the shard is large enough, and makes it visible."""
        written = 0
        with replacing(shard_file(self.folder, len(self.index.shards))) as unfinished:
            with self._stream(unfinished) as (sink, stream):
                for rows in batches:
                    stream.write_batch(self._record_batch(rows))
                    written += len(rows)
                    done = f"{self.index.rows:,} rows, {self.index.tokens:,} tokens"
                    progress.update(task, description=f"tokenising {self.name}: {done}")
                    if sink.tell() > SHARD_BYTES:
                        break
            size, content = unfinished.stat().st_size, checksum(unfinished)
        self.index.add_shard(written, size, content)
        self.index.save(self.folder)

    def _record_batch(self, rows: list[Row]) -> pa.RecordBatch:
        arrays = [_column([row[field.name] for row in rows], field.type) for field in self.schema]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _encoded(
        self, pool: ThreadPoolExecutor, start: int, stop: int | None = None
    ) -> Iterator[tuple[int, EncodedBatch]]:
        """Batches in the order of the source, from one row to before another, each with its number of rows.
        A shard begins with a batch, so that its batches are the same whenever it is written."""
        reader = self.encoder.reader
        records = islice(read_rows(self.path, self.name, reader.encoding, reader.wanted), start, stop)
        pending: deque[tuple[int, Future[EncodedBatch]]] = deque()
        for batch in _prefetched(_in_batches(enumerate(records, start))):
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
        size += _characters(record.row)
        if len(batch) == BATCH_ROWS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _characters(value: Any) -> int:
    """About the bytes that a value takes in memory, whatever its columns hold: texts, chats, lists."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(len(str(key)) + _characters(part) for key, part in value.items())
    if isinstance(value, list | tuple):
        numbers = not value or isinstance(value[0], int | float)  # tokens: not one by one
        return 8 * len(value) if numbers else sum(map(_characters, value))
    return 8


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
