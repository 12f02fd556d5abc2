"""Rows read, and files of every kind written, for the tests of reading."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from datamodules.reading.record import Record
from datamodules.reading.sources import read_rows

GOOD = b'{"text": "good"}'
ROW = {"text": "good"}
ROWS = [{"text": f"row {i}", "tags": ["a", None], "turn": {"role": "user", "n": i}} for i in range(600)]


def read(path: object) -> list[Record]:
    """The rows of files, without the advice that test_formats.py is about."""
    files = [str(p) for p in path] if isinstance(path, list) else str(path)
    records = read_rows(files, "data.train")
    return [r._replace(problem=r.problem and r.problem.partition(": set `encoding`")[0]) for r in records]


def refusal(path: object) -> str:
    with pytest.raises(ValueError, match="^data.train: ") as stop:
        read(path)
    assert "\n" not in str(stop.value)
    return str(stop.value).removeprefix("data.train: ")


def json_lines(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write(file: Path, rows: list[dict]) -> Path:
    """Rows in the kind of file or folder that the name says."""
    table = pa.Table.from_pylist(rows)
    if file.suffix == ".parquet":
        pq.write_table(table, file, row_group_size=5000)
    elif file.suffix == ".arrow":
        with pa.ipc.new_stream(file, table.schema) as out:
            out.write_table(table, max_chunksize=1000)
    elif file.suffix == ".feather":
        file = file.with_suffix(".arrow")
        with pa.ipc.new_file(file, table.schema) as out:
            out.write_table(table, max_chunksize=250)
    elif file.suffix == "":
        Dataset.from_list(rows).save_to_disk(str(file), num_shards=2)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        json_lines(file, rows)
    return file
