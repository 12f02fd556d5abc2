"""The token cache: a source's encoded rows on disk, written once in Arrow shards and read through the page
cache, also while it is being written."""

import hashlib
import json
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from datamodules.errors import UserError
from datamodules.reading.files import BROKEN_OFF
from datamodules.reading.sources import Record, cache_folder, file_names, fingerprint, read_rows
from datamodules.rendering.segments import BadRow, DropRow, StopRun

VERSION = 1  # of shards and index: another one is another cache
BATCH_ROWS = 1000
BATCH_CHARACTERS = 2_000_000
SHARD_BYTES = 64_000_000
ENCODERS = 2  # threads: one makes Python lists while the other has the tokenizer's cores
EXAMPLES = 5  # of each reason why a row was left out
REASONS = 50
T = TypeVar("T")

Encoded = dict[str, Any] | DropRow | BadRow
"""the columns of an encoded row, or why there are none"""


class Encoder(Protocol):
    """How rows become columns."""

    schema: pa.Schema
    """of the columns, `length` and `weight` (int32) among them"""
    key: str
    """everything, the rows apart, that the columns depend on"""

    def __call__(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> list[Encoded]:
        """Encodes (number in the source, row) pairs."""


@dataclass
class Index:
    """What a cache holds so far; the shards are complete, each."""

    files: list[str] = field(default_factory=list)
    """the source's, as they were called when it was read"""
    shards: list[int] = field(default_factory=list)
    """rows of each"""
    rows: int = 0
    """rows read from the source"""
    tokens: int = 0
    weight: int = 0
    truncated: int = 0
    """rows that were shortened or changed"""
    changed: dict[str, int] = field(default_factory=dict)
    """what was done to them → rows"""
    dropped: dict[str, int] = field(default_factory=dict)
    """reason → rows left out by a policy"""
    refused: dict[str, int] = field(default_factory=dict)
    """reason → rows that cannot be read or are of a wrong type"""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """reason → the first such rows, where they are and what is wrong"""
    finished: bool = False
    failure: str = ""
    """what ended the last writer"""

    @property
    def kept(self) -> int:
        return sum(self.shards)

    def left_out(self, kind: dict[str, int], reason: str, told: str) -> None:
        """Counts a row that is not kept, and remembers the first few; reasons beyond `REASONS` are one."""
        reason = reason.partition(" (")[0]
        if reason not in kind and len(kind) >= REASONS:
            reason = "other reasons"
        kind[reason] = kind.get(reason, 0) + 1
        places = self.examples.setdefault(reason, [])
        if len(places) < EXAMPLES:
            places.append(told)


class TokenCache:
    """A folder of Arrow shards, named after the content of the source, the tokenizer and the encoding, so
    that a change of any is another cache.

    Args:
        path: of the source.
        name: the field of the configuration, for messages.
        encoder: makes the columns.
    """

    def __init__(self, path: str | list[str], name: str, encoder: Encoder):
        self.path, self.name, self.encoder = path, name, encoder
        parts = [str(VERSION), fingerprint(path, name), encoder.key, str(encoder.schema)]
        key = hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
        self.folder = cache_folder() / key
        self.files = file_names(path, name)
        self.index = Index(self.files)
        self.batches: list[pa.RecordBatch] = []
        self._mapped = 0  # shards among them

    def write(self, strict: bool, check: Callable[[Index], None] | None = None) -> None:
        """Writes what is not there yet; another process that writes the same cache is waited for.

        Args:
            strict: whether a row that cannot be read, or is of a wrong type, ends it.
            check: asked when all is written, before others see that it is; what it raises ends it.

        Raises:
            UserError: such a row, with its place, or what `check` raised.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_suffix(".lock")):
            self.refresh()
            if not self.index.finished:
                self._write_rest(strict, check)
        self.refresh()
        if strict and self.index.refused:
            raise UserError(f"{self.name}: {_first_refused(self.index)}")

    def _write_rest(self, strict: bool, check: Callable[[Index], None] | None) -> None:
        self.index.failure = ""
        try:
            _Writer(self, strict, check).run()
        except Exception as error:
            self.index = Index(self.files)  # what is not in a complete shard is lost
            self.refresh()
            self.index.failure = str(error)
            save_index(self.index, self.folder)
            raise

    def write_behind(self, strict: bool, check: Callable[[Index], None] | None = None) -> None:
        """Writes in a thread while what is there already is read; a failure reaches who waits."""
        writer = TokenCache(self.path, self.name, self.encoder)
        self.refresh()
        if self.index.failure:  # an earlier run's
            self.index.failure = ""
            save_index(self.index, self.folder)

        def work() -> None:
            with suppress(Exception):  # it is in the index, for readers in any process
                writer.write(strict, check)

        threading.Thread(target=work, name=f"token cache of {self.name}", daemon=True).start()

    def refresh(self) -> None:
        """Takes note of the shards that are complete now."""
        file = self.folder / "index.json"
        if not file.is_file():
            return
        index = Index(**json.loads(file.read_text()))
        for told in index.examples.values():
            told[:] = [_as_called_now(line, index.files, self.files) for line in told]
        index.files = self.files
        for number in range(self._mapped, len(index.shards)):
            with pa.memory_map(str(self.folder / f"{number:05}.arrow")) as source:
                self.batches += pa.ipc.open_stream(source).read_all().to_batches()
        self.index, self._mapped = index, len(index.shards)

    def wait(self, enough: Callable[[], bool]) -> None:
        """Waits for a writer, in this or another process, until there is enough or it has finished.

        Raises:
            UserError: what ended the writer.
        """
        self.refresh()
        while not enough() and not self.index.finished:
            if self.index.failure:
                raise UserError(self.index.failure)
            time.sleep(0.05)
            self.refresh()


class _Writer:
    """Reads in one thread, encodes in two, writes in this one: the tokenizer never waits."""

    def __init__(self, cache: TokenCache, strict: bool, check: Callable[[Index], None] | None):
        self.cache, self.strict, self.check, self.index = cache, strict, check, cache.index
        self.file = cache.folder / f"{len(self.index.shards):05}.arrow"
        self.part = self.file.with_suffix(".part")

    def run(self) -> None:
        records = read_rows(self.cache.path, self.cache.name)
        skipped = islice(records, self.index.rows, None)  # rows of the shards that are there
        numbered = enumerate(skipped, self.index.rows)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        silent = not console.is_terminal or rank_zero_only.rank != 0  # type: ignore[attr-defined]
        with (
            Progress(*columns, console=console, transient=True, disable=silent) as progress,
            ThreadPoolExecutor(ENCODERS) as encoding,
        ):
            self.task = progress.add_task(f"tokenising {self.cache.name}", total=None)
            self.progress = progress
            pending: deque[Future] = deque()
            for batch in _prefetched(_in_batches(numbered)):
                pending.append(encoding.submit(self._encode, batch))
                if len(pending) > ENCODERS:
                    self._add(*pending.popleft().result())
            for ahead in pending:
                self._add(*ahead.result())
        self._close_shard()
        if self.check:
            self.check(self.index)
        self.index.finished = True
        save_index(self.index, self.cache.folder)

    def _encode(self, batch: list[tuple[int, Record]]) -> tuple[list[tuple[int, Record]], list[Encoded]]:
        return batch, self.cache.encoder([(n, record.row) for n, record in batch if record.row is not None])

    def _add(self, batch: list[tuple[int, Record]], encoded: list[Encoded]) -> None:
        found, kept = iter(encoded), []
        for number, record in batch:
            row = None if record.row is None else next(found)
            if row is None:
                problem = record.problem or ""
                told = f"{record.where} {problem}"
                self.index.left_out(self.index.refused, problem, told)
                if BROKEN_OFF in problem:  # nobody knows how much is lost with it
                    raise UserError(f"{self.cache.name}: {told}")
            elif isinstance(row, StopRun):
                raise UserError(f"{self.cache.name}: {record.where}: {row}")
            elif isinstance(row, BadRow | DropRow):
                kinds = self.index.refused if isinstance(row, BadRow) else self.index.dropped
                self.index.left_out(kinds, str(row), f"{record.where}: {row}")
            else:
                changes = row.pop("changed", ())
                self.index.truncated += bool(changes)
                for change in changes:
                    self.index.changed[change] = self.index.changed.get(change, 0) + 1
                kept.append({**row, "number": number})
        self.index.rows += len(batch)
        if self.strict and self.index.refused:
            raise UserError(f"{self.cache.name}: {_first_refused(self.index)}")
        if kept:
            self._write(kept)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        schema = self.cache.encoder.schema.append(pa.field("number", pa.int64()))
        if not hasattr(self, "stream"):
            self.sink = pa.OSFile(str(self.part), "wb")
            self.stream, self.written = pa.ipc.new_stream(self.sink, schema), 0
        arrays = [_column([row[name] for row in rows], schema.field(name).type) for name in schema.names]
        self.stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
        self.written += len(rows)
        self.index.tokens += sum(row["length"] for row in rows)
        self.index.weight += sum(row["weight"] for row in rows)
        done = f"{self.index.rows:,} rows, {self.index.tokens:,} tokens"
        self.progress.update(self.task, description=f"tokenising {self.cache.name}: {done}")
        if self.sink.tell() > SHARD_BYTES:
            self._close_shard()

    def _close_shard(self) -> None:
        """Makes the open shard visible, complete or not at all."""
        if hasattr(self, "stream"):
            self.stream.close()
            self.sink.close()
            os.replace(self.part, self.file)
            self.index.shards.append(self.written)
            del self.stream
            self.file = self.cache.folder / f"{len(self.index.shards):05}.arrow"
            self.part = self.file.with_suffix(".part")
        save_index(self.index, self.cache.folder)


def save_index(index: Index, folder: Path) -> None:
    """Writes `index.json`, complete or not at all."""
    unfinished = folder / "index.part"
    unfinished.write_text(json.dumps(asdict(index), ensure_ascii=False))
    os.replace(unfinished, folder / "index.json")


def _first_refused(index: Index) -> str:
    reason = next(iter(index.refused))
    more = sum(index.refused.values()) - 1
    return index.examples[reason][0] + (f" (and {more} more so far)" if more else "")


def _as_called_now(line: str, before: list[str], now: list[str]) -> str:
    """A message with the file's name of now: the same content may have lain elsewhere when it was read."""
    for old, new in zip(before, now, strict=False):
        if line.startswith((f"{old}:", f"{old},")):
            return new + line[len(old) :]
    return line


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
    waiting: queue.Queue[Any] = queue.Queue(ahead)
    end, stop = object(), threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(end)
        except BaseException as error:
            put(error)

    threading.Thread(target=read, daemon=True).start()
    try:
        while (item := waiting.get()) is not end:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()


def reasons(counts: dict[str, int]) -> str:
    """`reason (n), …`, the commonest first."""
    return ", ".join(f"{reason} ({n})" for reason, n in Counter(counts).most_common())
