"""Parquet and Arrow files → rows, a few at a time."""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from datasets.features.features import require_decoding

from datamodules.errors import UserError
from datamodules.reading.record import BROKEN_OFF, NOT_READ, Record, Unreadable, first_line

TABLE_ROWS = 256  # turned into Python objects at once
SKIPPING_ROWS = 32  # the same, where others are passed over
ARROW_ENDS = (b"\xff\xff\xff\xff\0\0\0\0", b"ARROW1")  # of its stream and its file format


def parquet_rows(file: str, columns: Collection[str] | None = None, every: int = 1) -> Iterator[Record]:
    """The rows of a Parquet file, or `every` so many SKIPPING_ROWS of them; of columns other than those asked
    for nothing is read."""
    with pq.ParquetFile(file) as table:
        names = table.schema_arrow.names
        wanted = None if columns is None else [name for name in names if name in columns]
        # a column's name that has a dot would be taken for a path: then all of them are read
        some = None if wanted is None or any("." in name for name in wanted) else wanted
        batches = table.iter_batches(TABLE_ROWS, columns=some)
        if some == []:  # no batch says how many rows there are
            batches = table.iter_batches(TABLE_ROWS)
        yield from _table_rows(file, batches, table.schema_arrow, columns, every)


def arrow_rows(file: str, columns: Collection[str] | None = None, every: int = 1) -> Iterator[Record]:
    """The rows of an Arrow file, a stream (as `datasets` saves it) or a file with an index (Feather), or
    `every` so many SKIPPING_ROWS of them; of columns other than those asked for nothing is converted."""
    with pa.memory_map(file) as source:
        reader = _arrow_reader(source)
        indexed = isinstance(reader, pa.ipc.RecordBatchFileReader)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if indexed else reader
        yield from _table_rows(file, batches, reader.schema, columns, every)


def _arrow_reader(source: Any) -> Any:
    """A reader of either of Arrow's two file formats."""
    whole = source.read(6) == b"ARROW1"
    source.seek(0)
    return pa.ipc.open_file(source) if whole else pa.ipc.open_stream(source)


def table_length(file: str) -> int:
    """The rows of a Parquet or Arrow file, none of which is converted."""
    if file.lower().endswith(".parquet"):
        with pq.ParquetFile(file) as table:
            return table.metadata.num_rows
    with pa.memory_map(file) as source:
        reader = _arrow_reader(source)
        indexed = isinstance(reader, pa.ipc.RecordBatchFileReader)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if indexed else reader
        return sum(batch.num_rows for batch in batches)


def _table_rows(
    file: str,
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    columns: Collection[str] | None,
    every: int,
) -> Iterator[Record]:
    unread = {} if columns is None else {name: NOT_READ for name in schema.names if name not in columns}
    number, decode, piece = 0, _decoder(schema), TABLE_ROWS if every == 1 else SKIPPING_ROWS
    try:
        for batch in batches:
            batch = batch.select([name for name in batch.schema.names if name not in unread])
            for start in range(0, batch.num_rows, piece):
                if number // piece % every:
                    number += min(piece, batch.num_rows - start)
                    continue
                for row, problem in _python_rows(batch.slice(start, piece)):
                    number += 1
                    try:
                        row = decode(row) if row is not None and decode else row
                    except ValueError as error:
                        row, problem = None, f"is damaged ({first_line(error)})"
                    yield Record(f"{file}, row {number}", None if row is None else {**row, **unread}, problem)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the disk's own error; Arrow's has no number
        yield Record(f"{file}, row {number + 1}", None, f"cannot be read{BROKEN_OFF} ({first_line(error)})")


def _decoder(schema: pa.Schema) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
    """What turns stored columns into those that `datasets` shows (JSON kept as text), where they differ.

    Raises:
        UserError: the table's description is none that `datasets` knows.
    """
    if b"huggingface" not in (schema.metadata or {}):
        return None
    try:
        features = Features.from_arrow_schema(schema)
    except ValueError as error:
        raise UserError(first_line(error)) from error
    return features.decode_example if any(map(require_decoding, features.values())) else None


def _python_rows(batch: pa.RecordBatch) -> list[tuple[dict[str, Any] | None, str | None]]:
    """Each row, or what is wrong with it: where the whole batch cannot be turned, row by row."""
    try:
        batch.validate(full=True)  # damaged offsets would end the process
        return [(row, None) for row in _converted(batch)]
    except ValueError as error:  # pa.ArrowInvalid and UnicodeDecodeError are both
        if batch.num_rows == 1:
            utf8 = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
            return [(None, f"{'is not UTF-8' if utf8 else 'is damaged'} ({first_line(error)})")]
    return [pair for i in range(batch.num_rows) for pair in _python_rows(batch.slice(i, 1))]


def _converted(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows of Python's values, among them, column by column, what Python has none for."""
    try:
        return batch.to_pylist()
    except (OverflowError, LookupError):  # a date after the year 9999, a time zone that is not known
        columns = {name: _values(batch.column(name)) for name in batch.schema.names}
    return [{name: values[i] for name, values in columns.items()} for i in range(batch.num_rows)]


def _values(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist()
    except (OverflowError, LookupError):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, LookupError) as error:
        zone = f"time zone {first_line(error)} is not known" if isinstance(error, LookupError) else ""
        return Unreadable(zone or first_line(error))


def check_table(file: str, name: str, kind: Literal["Parquet", "Arrow"]) -> None:
    """Refuses a table without rows, without its end, or with two columns of one name.

    Raises:
        UserError: with the field `name` of the configuration.
        OSError: the file cannot be opened.
    """
    try:
        if kind == "Parquet":
            with pq.ParquetFile(file) as table:
                columns, empty = table.schema_arrow.names, not table.metadata.num_rows
        else:
            columns, empty = _arrow_columns(file), False
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = first_line(error)
        raise UserError(f"{name}: {file} is no whole {kind} file, perhaps cut off: {reason}") from error
    if empty:
        raise UserError(f"{name}: {file} is empty")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise UserError(f"{name}: {file} has two columns `{twice[0]}`: rename one")


def _arrow_columns(file: str) -> list[str]:
    """Raises pa.ArrowInvalid unless the file has a schema and an end."""
    with open(file, "rb") as stream:
        stream.seek(-min(8, Path(file).stat().st_size), 2)
        tail = stream.read()
    if not tail.endswith(ARROW_ENDS):
        raise pa.ArrowInvalid("it has no end mark")
    with pa.memory_map(file) as source:
        return _arrow_reader(source).schema.names
