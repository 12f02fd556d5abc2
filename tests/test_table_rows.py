"""Parquet, Arrow and text files: the rows that JSON lines would give, or which one is damaged and how; no
file is held in memory as a whole."""

import gzip
import os
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Json, List, Value

from datamodules.reading import files
from datamodules.reading.sources import read_rows
from tests.reading import ROWS, json_lines, read, refusal, write


@pytest.mark.parametrize("kind", ["x.jsonl", "x.json", "x.parquet", "x.arrow"])
def test_a_file_of_30_mb_is_streamed(tmp_path, kind):
    rows = [{"text": f"{i} " + "x" * 1000} for i in range(30_000)]
    file = write(tmp_path / kind, rows)
    del rows
    tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    try:
        largest = 0
        for count, record in enumerate(read_rows(str(file), "x"), 1):
            assert record.problem is None
            if count % 1000 == 0:
                largest = max(largest, pa.total_allocated_bytes() - arrow)
        assert count == 30_000
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
        assert largest < 20_000_000
    finally:
        tracemalloc.stop()


# Text


def test_a_text_file_is_one_row(tmp_path):
    file = tmp_path / "x.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\n")
    (tmp_path / "y.md.gz").write_bytes(gzip.compress(b"three", mtime=0))
    assert read([file, tmp_path / "y.md.gz"]) == [
        (f"{file}, row 1", {"text": "one\n\ntwo\n"}, None),
        (f"{tmp_path}/y.md.gz, row 1", {"text": "three"}, None),
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xef\xbb\xbfcaf\xe9", "is not UTF-8 (byte 6 of the file)"),
        (b"a\0", "has NUL bytes (byte 1: is this a binary file?)"),
        (b"x" * 51_000_000, "is longer than 50 MB (a text file is one row: split it)"),
    ],
    ids=["not UTF-8", "binary", "too long"],
)
def test_a_bad_text_file_is_named(tmp_path, monkeypatch, data, problem):
    monkeypatch.setattr(files, "MAX_TEXT", 50_000_000)
    file = tmp_path / "x.txt"
    file.write_bytes(data)
    assert read(file) == [(f"{file}, row 1", None, problem)]


# Parquet and Arrow


@pytest.mark.parametrize("kind", ["x.parquet", "x.arrow", "x.feather", "folder"])
def test_every_kind_gives_the_same_rows_as_json_lines(tmp_path, kind):
    records = read(write(tmp_path / kind, ROWS))
    assert [record.row for record in records] == ROWS
    assert [record.row for record in read(json_lines(tmp_path / "y.jsonl", ROWS))] == ROWS
    if kind != "folder":
        assert records[599].where.endswith(", row 600")
    else:
        assert records[300].where == f"{tmp_path}/folder/data-00001-of-00002.arrow, row 1"


@pytest.mark.parametrize("kind", ["x.parquet", "folder"])
def test_json_columns_of_datasets_are_shown_as_datasets_shows_them(tmp_path, kind):
    rows = [{"a": 1, "b": [{"x": 1}, {"y": "z"}]}]
    data = Dataset.from_list(rows, features=Features({"a": Value("int64"), "b": List(Json())}))
    path = tmp_path / kind
    data.to_parquet(path) if kind == "x.parquet" else data.save_to_disk(str(path))
    assert [record.row for record in read(path)] == rows


def test_a_json_column_that_is_not_json_is_named_and_the_next_is_read(tmp_path):
    stored = Features({"b": Json()}).arrow_schema
    texts = pa.array(['{"x": 1}', "{", "2"])
    table = pa.table([pa.ExtensionArray.from_storage(pa.json_(), texts)], schema=stored)
    pq.write_table(table, tmp_path / "x.parquet")
    one, two, three = read(tmp_path / "x.parquet")
    assert (one.row, three.row) == ({"b": {"x": 1}}, {"b": 2})
    assert two.where == f"{tmp_path}/x.parquet, row 2"
    assert two.problem.startswith("is damaged (")


@pytest.mark.parametrize("kind", ["x.parquet", "x.arrow", "x.feather"])
def test_a_table_that_was_cut_off_is_refused_at_once(tmp_path, kind):
    file = write(tmp_path / kind, ROWS)
    file.write_bytes(file.read_bytes()[:-50])
    name = "Parquet" if kind == "x.parquet" else "Arrow"
    with pytest.raises(ValueError, match=f"data.train: {file} is no whole {name} file, perhaps cut off: "):
        read_rows(str(file), "data.train")


@pytest.mark.parametrize("kind", ["x.parquet", "x.arrow"])
def test_a_table_that_is_damaged_in_the_middle_gives_the_rows_before(tmp_path, kind):
    rows = [{"text": os.urandom(50).hex()} for _ in range(20_000)]
    file = write(tmp_path / kind, rows)
    data = bytearray(file.read_bytes())
    if kind == "x.arrow":  # the head of a message in the middle
        middle = data.index(b"\xff\xff\xff\xff", len(data) // 2)
    else:  # the head of a page of the third row group
        middle = pq.ParquetFile(file).metadata.row_group(2).column(0).data_page_offset
    data[middle : middle + 40] = b"\xfe" * 40
    file.write_bytes(data)
    *whole, broken = read(file)
    assert len(whole) >= 9_000
    assert [record.row for record in whole] == rows[: len(whole)]
    assert broken.where == f"{file}, row {len(whole) + 1}"
    assert broken.problem.startswith("cannot be read, nor can what follows be read (")


def test_a_value_of_a_table_that_is_not_utf_8_is_named_and_the_next_is_read(tmp_path):
    values = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    pq.write_table(pa.table({"text": values}), tmp_path / "x.parquet")
    first, second, third = read(tmp_path / "x.parquet")
    assert (first.row, third.row) == ({"text": "a"}, {"text": "c"})
    assert second.where == f"{tmp_path}/x.parquet, row 2"
    assert second.problem.startswith("is not UTF-8 (")


# Refusals


def test_two_columns_of_one_name_are_refused(tmp_path):
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "x.parquet")
    assert refusal(tmp_path / "x.parquet") == f"{tmp_path}/x.parquet has two columns `a`: rename one"


def test_a_table_whose_columns_have_names_that_are_not_utf_8_is_refused(tmp_path):
    file = write(tmp_path / "x.arrow", [{"some_column": "a"}])
    file.write_bytes(file.read_bytes().replace(b"some_column", b"some\xffcolumn"))
    assert refusal(file).startswith(f"{file} is no whole Arrow file, perhaps cut off: 'utf-8' codec")


def test_a_table_that_datasets_cannot_make_sense_of_is_refused_not_traced(tmp_path):
    schema = pa.schema(
        [("a", pa.int64())], {"huggingface": '{"info": {"features": {"a": {"_type": "Nonsense"}}}}'}
    )
    pq.write_table(pa.table({"a": [1]}, schema=schema), tmp_path / "x.parquet")
    assert refusal(tmp_path / "x.parquet").startswith(f"{tmp_path}/x.parquet cannot be read: ")


def test_an_empty_table_is_refused(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "x.parquet")
    assert refusal(tmp_path / "x.parquet") == f"{tmp_path}/x.parquet is empty"
