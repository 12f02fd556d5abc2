"""Reading: every row, or the file, the number and the reason; never all of a file in memory."""

import gzip
import json
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Json, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.reading import files, sources
from datamodules.reading.sources import Record, cache_folder, fingerprint, read_rows, size_bytes

GOOD = b'{"text": "good"}'
ROW = {"text": "good"}
ROWS = [{"text": f"row {i}", "tags": ["a", None], "turn": {"role": "user", "n": i}} for i in range(600)]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))


def read(path: object) -> list[Record]:
    return list(read_rows([str(p) for p in path] if isinstance(path, list) else str(path), "data.train"))


def refusal(path: object) -> str:
    with pytest.raises(ValueError, match="^data.train: ") as stop:
        read(path)
    assert "\n" not in str(stop.value)
    return str(stop.value).removeprefix("data.train: ")


def json_lines(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# Bad rows

BAD_LINES = [
    # Columns and bytes counted by hand; the first line, GOOD and its end, is bytes 0 to 16.
    (b'{"text": }', "is not JSON (Expecting value at column 10)"),
    (b'{"text": "a"', "is not JSON (Expecting ',' delimiter at column 13)"),
    (b'  {"text": "a"} x', "is not JSON (Extra data at column 17)"),
    (b'{"text": "a', "is not JSON (Unterminated string starting at at column 10)"),
    (b"\xef\xbb\xbf{}", "is not JSON (Expecting value at column 1)"),
    (b'{"a": "NaN", "b": [NaN]}', "is not JSON (NaN at column 20)"),
    (b'{"a": Infinity}', "is not JSON (Infinity at column 7)"),
    (b'{"a\\"": -Infinity}', "is not JSON (-Infinity at column 9)"),
    (b"[" * 100_000, "is not JSON (Nested too deeply at column 1)"),
    (b'{"a": ' + b"1" * 5000 + b"}", "is not JSON (A number of thousands of digits at column 1)"),
    (b'["text"]', "is not a JSON object (but a list)"),
    (b'"text"', "is not a JSON object (but a string)"),
    (b"3", "is not a JSON object (but a number)"),
    (b"null", "is not a JSON object (but null)"),
    (b"true", "is not a JSON object (but true or false)"),
    (b'{"text": "a", "b": 1, "text": "c"}', "repeats a key (`text`)"),
    (b'{"turns": [{"role": "a"}, {"role": "b", "x": {"y": 1, "y": 1}}]}', "repeats a key (`y`)"),
    (b'{"text": "\\u0061", "te\\u0078t": 1}', "repeats a key (`text`)"),
    (b'{"text": "caf\xe9"}', "is not UTF-8 (byte 30 of the file)"),
    (b'{"text": "\xed\xa0\x80"}', "is not UTF-8 (byte 27 of the file)"),
    (b'{"text": "a\0"}', "has NUL bytes (byte 28: is this a binary file?)"),
    (b'{"text": "a \\ud800 b"}', "has half of a surrogate pair (in `text`)"),
    (b'{"turns": [{"t": "a"}, {"t": "\\uDC00"}]}', "has half of a surrogate pair (in `turns[1].t`)"),
    (
        b'{"a": ' + b"[" * 900 + b'"\\udfff"' + b"]" * 900 + b"}",
        f"has half of a surrogate pair (in `a{'[0]' * 900}`)",
    ),
    (b'{"a": {"\\udfff": 1}}', "has half of a surrogate pair (in `a.\\udfff`)"),
]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(("line", "problem"), BAD_LINES)
def test_a_bad_line_is_named_and_the_next_is_read(tmp_path, line, problem, packed, ending):
    file = tmp_path / ("x.jsonl.gz" if packed else "x.jsonl")
    data = GOOD + b"\n" + line + ending + GOOD + ending
    file.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    expected = problem.replace("of the file", "of the unpacked file") if packed else problem
    assert read(file) == [
        (f"{file}:1", ROW, None),
        (f"{file}:2", None, expected),
        (f"{file}:3", ROW, None),
    ]


@pytest.mark.parametrize(
    "text",
    ["\\ud83d\\ude00", "\\u0000", "\\\\ud800", "NaN", '\\": \\"text\\": 1', "\u2028\u0085\x7f"],
)
def test_what_only_looks_bad_is_read(tmp_path, text):
    file = tmp_path / "x.jsonl"
    line = f'{{"text": "{text}"}}'
    file.write_text(line + "\n", encoding="utf-8")
    assert read(file) == [(f"{file}:1", json.loads(line), None)]


def test_the_same_key_in_two_objects_is_no_repetition(tmp_path):
    rows = [{"a": [{"a": 1}, {"a": 1}], "b": {"a": {"b": 2}}}]
    assert read(json_lines(tmp_path / "x.jsonl", rows))[0].row == rows[0]


def test_blank_lines_are_left_out_but_counted(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(b"\n  \t\r\n" + GOOD + b"\n\n{\n\r\n" + GOOD)
    assert [(record.where, record.row) for record in read(file)] == [
        (f"{file}:3", ROW),
        (f"{file}:5", None),
        (f"{file}:7", ROW),
    ]


def test_a_byte_order_mark_is_stripped_and_counts_as_bytes_but_not_as_a_column(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(b"\xef\xbb\xbf{,}\n\xff\n" + GOOD)
    assert read(file) == [
        (f"{file}:1", None, "is not JSON (Expecting property name enclosed in double quotes at column 2)"),
        (f"{file}:2", None, "is not UTF-8 (byte 7 of the file)"),
        (f"{file}:3", ROW, None),
    ]


def test_a_byte_that_is_not_utf_8_after_a_long_line_is_counted_from_the_files_beginning(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "MAX_LINE", 20)
    file = tmp_path / "x.jsonl"
    file.write_bytes(b"x" * 100 + b"\n" + b"\xff\n")
    assert read(file)[1] == (f"{file}:2", None, "is not UTF-8 (byte 101 of the file)")


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""], ids=["LF", "CRLF", "end of file"])
@pytest.mark.parametrize(("size", "kept"), [(16, True), (17, False), (18, False), (19, False), (200, False)])
def test_a_line_of_more_than_the_limit_is_named_whatever_ends_it(tmp_path, monkeypatch, size, kept, ending):
    monkeypatch.setattr(files, "MAX_LINE", 16)
    file = tmp_path / "x.jsonl"
    file.write_bytes(GOOD + b"\n" + GOOD.replace(b" ", b" " * (size - 15)) + ending)
    assert read(file)[1:] == [
        (f"{file}:2", ROW if kept else None, None if kept else "is longer than 10 MB"),
    ]


def test_a_line_of_12_mb_is_not_held_in_memory(tmp_path):
    file = tmp_path / "x.jsonl"
    with open(file, "wb") as out:
        out.write(GOOD + b"\n" + b'{"text": "' + b"x" * 12_000_000 + b'"}\n' + GOOD + b"\n")

    def peak(work) -> int:
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def bounded() -> None:
        with open(file, "rb") as stream:
            stream.readline()
            stream.readline(10_000_000)

    records: list[Record] = []
    assert peak(lambda: records.extend(read(file))) < peak(bounded) + 15_000_000
    assert records == [
        (f"{file}:1", ROW, None),
        (f"{file}:2", None, "is longer than 10 MB"),
        (f"{file}:3", ROW, None),
    ]


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


# gzip


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_truncated_gz_gives_the_rows_before_the_break(tmp_path, kind):
    rows = [{"text": os.urandom(300).hex()} for _ in range(400)]
    text = "\n".join(map(json.dumps, rows)) if kind == "jsonl" else json.dumps(rows)
    packed = gzip.compress(text.encode(), mtime=0)
    file, after = tmp_path / f"x.{kind}.gz", json_lines(tmp_path / "y.jsonl", [ROW])
    file.write_bytes(packed[: len(packed) // 2])
    *whole, broken, last = read([file, after])
    assert 150 < len(whole) < 250
    assert [record.row for record in whole] == rows[: len(whole)]
    number = len(whole) + 1
    assert broken.where == (f"{file}:{number}" if kind == "jsonl" else f"{file}, row {number}")
    assert broken.row is None
    assert broken.problem.startswith(
        "cannot be unpacked, nor can what follows be read (Compressed file ended"
    )
    assert last == (f"{after}:1", ROW, None)


def test_a_gz_cut_off_in_its_header_or_with_a_wrong_checksum_is_told(tmp_path):
    file = tmp_path / "x.jsonl.gz"
    packed = gzip.compress(GOOD + b"\n", mtime=0)
    file.write_bytes(packed[:5])
    assert [record.where for record in read(file)] == [f"{file}:1"]
    file.write_bytes(packed[:-8] + bytes(4) + packed[-4:])
    good, broken = read(file)
    assert good.row == ROW
    assert broken.where == f"{file}:2"
    assert "CRC check failed" in broken.problem


def test_a_gz_corrupt_in_the_middle_ends_where_it_breaks(tmp_path):
    file = tmp_path / "x.jsonl.gz"
    rows = [{"text": os.urandom(300).hex()} for _ in range(400)]
    packed = bytearray(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    packed[len(packed) // 2 : len(packed) // 2 + 100] = b"\xff" * 100
    file.write_bytes(packed)
    records = read(file)
    assert [record.row for record in records[:100]] == rows[:100]
    assert records[-1].problem.startswith("cannot be unpacked, nor can what follows be read")


def test_several_gz_members_are_one_file(tmp_path):
    file = tmp_path / "x.JSONL.GZ"
    file.write_bytes(gzip.compress(GOOD + b"\n", mtime=0) + gzip.compress(GOOD + b"\n", mtime=0))
    assert [record.where for record in read(file)] == [f"{file}:1", f"{file}:2"]


# JSON arrays


def test_an_array_is_read_row_by_row_and_its_bad_rows_are_named(tmp_path):
    file = tmp_path / "x.json"
    file.write_text(
        '\ufeff\n[ {"a": 1},\n {"b": "\\ud800"} ,{"a": 1, "a": 2}, 3, {"x": NaN}, [], {"c": "]"}]\n\n',
        encoding="utf-8",
    )
    assert [(record.where.removeprefix(str(file)), *record[1:]) for record in read(file)] == [
        (", row 1", {"a": 1}, None),
        (", row 2", None, "has half of a surrogate pair (in `b`)"),
        (", row 3", None, "repeats a key (`a`)"),
        (", row 4", None, "is not a JSON object (but a number)"),
        (", row 5", None, "is not JSON (NaN at column 7)"),
        (", row 6", None, "is not a JSON object (but a list)"),
        (", row 7", {"c": "]"}, None),
    ]


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        (b'{"b": }]', "is not JSON, nor can what follows be read (Expecting value)"),
        (b'{"b": "\xff"}]', "is not UTF-8, nor can what follows be read (byte 17 of the file)"),
        (b'{"b": "', "is not JSON, nor can what follows be read (Unterminated string starting at)"),
        (b"", "is not JSON, nor can what follows be read (Expecting value)"),
    ],
)
def test_an_array_that_breaks_gives_the_rows_before(tmp_path, rest, problem):
    file = tmp_path / "x.json"
    file.write_bytes(b'[{"a": 1},' + rest)
    assert read(file) == [(f"{file}, row 1", {"a": 1}, None), (f"{file}, row 2", None, problem)]


@pytest.mark.parametrize("text", ['[{"a": 1} {"a": 2}]', '[{"a": 1}', '[{"a": 1}] x'])
def test_an_array_that_does_not_end_well_is_told_after_its_rows(tmp_path, text):
    file = tmp_path / "x.json"
    file.write_text(text)
    first, second = read(file)
    assert first.row == {"a": 1}
    assert second.where == f"{file}, row 2"
    assert second.problem.startswith("is not JSON, nor can what follows be read (")


def test_rows_of_an_array_may_cross_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK", 3)
    rows = [{"text": "é😀" * i, "n": 12345.5, "b": [True, None]} for i in range(30)]
    file = tmp_path / "x.json"
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    assert [record.row for record in read(file)] == rows


def test_a_json_file_may_also_hold_lines(tmp_path):
    file = json_lines(tmp_path / "x.json", [ROW])
    assert read(file) == [(f"{file}:1", ROW, None)]


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


# Sources


def test_globs_and_lists_are_read_in_order_and_of_several_kinds(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        json_lines(tmp_path / name, [{"text": name}])
    write(tmp_path / "c.parquet", [{"text": "c"}])
    (tmp_path / "d.txt").write_text("d")
    paths = [tmp_path / "d.txt", tmp_path / "*.jsonl", tmp_path / "c.parquet"]
    assert [record.row["text"] for record in read(paths)] == ["d", "a.jsonl", "b.jsonl", "c"]
    assert size_bytes([str(path) for path in paths], "x") == sum(
        file.stat().st_size for file in tmp_path.glob("*.*")
    )


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    assert len(read(json_lines(tmp_path / "x[1].jsonl", [ROW]))) == 1


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.jsonl", b"", "{file} is empty"),
        ("x.txt", b"\xef\xbb\xbf", "{file} is empty"),
        ("x.jsonl.gz", gzip.compress(b"", mtime=0), "{file} is empty"),
        ("x.jsonl.gz", GOOD, "{file} ends in .gz but is not packed with gzip: rename it"),
        ("x.jsonl", gzip.compress(GOOD, mtime=0), "{file} is packed with gzip: add .gz to its name"),
        (
            "x.jsonl",
            '{"text": "a"}\n'.encode("utf-16"),
            "{file} is UTF-16 or UTF-32: convert it to UTF-8, as with `iconv -f UTF-16 -t UTF-8`",
        ),
        (
            "x.json.gz",
            gzip.compress(b"\xfe\xff" + "[]".encode("utf-16-be"), mtime=0),
            "{file} is UTF-16 or UTF-32: convert it to UTF-8, as with `iconv -f UTF-16 -t UTF-8`",
        ),
        (
            "x.csv",
            b"text\na\n",
            "{file} has an ending that is not known: give .json, .jsonl, .txt, .md, .parquet, .arrow "
            "(.json, .jsonl, .txt, .md also with .gz)",
        ),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_refused_with_the_remedy(tmp_path, name, data, message):
    file = tmp_path / name
    file.write_bytes(data)
    assert refusal(file) == message.format(file=file)


def test_what_is_not_there_is_refused(tmp_path):
    assert refusal(tmp_path / "x.jsonl") == f"{tmp_path}/x.jsonl does not exist"
    assert refusal(tmp_path / "x") == f"{tmp_path}/x does not exist"
    assert refusal(tmp_path / "*.jsonl") == f"{tmp_path}/*.jsonl matches no file"
    assert refusal([]) == "names no file"
    json_lines(tmp_path / "y.jsonl", [ROW])
    assert refusal([tmp_path / "y.jsonl", tmp_path / "x.jsonl"]) == f"{tmp_path}/x.jsonl does not exist"


def test_a_folder_that_is_no_saved_dataset_is_refused_with_the_remedy(tmp_path):
    assert refusal(tmp_path) == (
        f"folder {tmp_path} was not written by `save_to_disk`: give its files, as in {tmp_path}/*.jsonl"
    )
    folder = tmp_path / "both"
    DatasetDict({"train": Dataset.from_list([ROW])}).save_to_disk(str(folder))
    assert refusal(folder) == f"folder {folder} holds several splits: give one of them, as in {folder}/train"
    assert [record.row for record in read(folder / "train")] == [ROW]
    (folder / "train" / "data-00000-of-00001.arrow").unlink()
    assert "data-00000-of-00001.arrow does not exist, though " in refusal(folder / "train")


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


def test_a_file_that_goes_while_it_is_read_is_refused_not_traced(tmp_path):
    first, second = (json_lines(tmp_path / name, [ROW]) for name in ("a.jsonl", "b.jsonl"))
    rows = read_rows([str(first), str(second)], "data.train")
    next(rows)
    second.unlink()
    with pytest.raises(ValueError, match=f"^data.train: {second} cannot be read: No such file"):
        next(rows)


# The hub


class Hub:
    """A stand-in for the hub: what it was asked for, and what it answers."""

    def __init__(self, monkeypatch):
        self.asked: list[dict] = []
        self.revision: str | None = "abc"
        self.rows: object = [{"n": 1}, {"n": 2}]
        monkeypatch.setattr(sources, "_revision", lambda hub: self.revision)
        monkeypatch.setattr(sources.datasets, "load_dataset", self.load)

    def load(self, name: str, **options: object) -> object:
        self.asked.append({"name": name, **options})
        if isinstance(self.rows, Exception):
            raise self.rows
        return self.rows


@pytest.fixture
def hub(monkeypatch) -> Hub:
    return Hub(monkeypatch)


@pytest.mark.parametrize("path", ["some/name", "hub:some/name"])
def test_a_dataset_on_the_hub_is_streamed_at_one_revision(hub, path):
    assert read(path) == [("some/name, row 1", {"n": 1}, None), ("some/name, row 2", {"n": 2}, None)]
    assert hub.asked == [{"name": "some/name", "split": "train", "revision": "abc", "streaming": True}]
    assert size_bytes(path, "x") is None


def test_without_the_hub_the_cached_copy_is_read_else_refused(hub):
    hub.revision = None
    assert len(read("some/name")) == 2
    assert hub.asked == [{"name": "some/name", "split": "train", "revision": None, "streaming": False}]
    hub.rows = ConnectionError("no\nroute")
    assert refusal("some/name") == (
        "some/name is no file or folder here, and no dataset of that name can be reached or is cached: "
        "give a path, or run once with the hub in reach"
    )


def test_a_dataset_without_a_train_split_is_refused_with_the_hubs_reason(hub):
    hub.rows = ValueError("Bad split: train. Available splits: ['test']\nmore")
    assert refusal("some/name") == (
        "some/name on the hub cannot be read: Bad split: train. Available splits: ['test']"
    )


def test_a_hub_that_breaks_off_is_refused_so_that_half_of_the_data_does_not_pass_for_all(hub):
    def rows():
        yield {"n": 1}
        raise RuntimeError("connection reset\nby peer")

    hub.rows = rows()
    assert refusal("some/name") == "some/name broke off after row 1: connection reset"


def test_the_fingerprint_of_a_hub_dataset_is_its_revisions_and_stays_out_of_reach_of_the_hub(hub):
    first = fingerprint("some/name", "x")
    hub.revision = None
    assert fingerprint("some/name", "x") == first
    assert fingerprint("other/name", "x") != first
    hub.revision = "def"
    assert fingerprint("some/name", "x") != first


# Properties

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=4)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(OBJECTS, st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n", "\r\n \n"])), min_size=1
    ),
    mark=st.booleans(),
    packed=st.booleans(),
    last=st.booleans(),
)
def test_any_objects_written_as_lines_are_read_back_with_their_numbers(tmp_path, rows, mark, packed, last):
    text, numbers, number = "", [], 1
    for row, escape, end in rows:
        text += json.dumps(row, ensure_ascii=escape) + end
        numbers.append(number)
        number += end.count("\n")
    data = (b"\xef\xbb\xbf" if mark else b"") + (text if last else text.rstrip("\r\n ")).encode()
    file = tmp_path / ("x.jsonl.gz" if packed else "x.jsonl")
    file.write_bytes(gzip.compress(data, 1, mtime=0) if packed else data)
    assert read(file) == [(f"{file}:{n}", row, None) for n, (row, _, _) in zip(numbers, rows, strict=True)]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(OBJECTS), block=st.integers(1, 40), indent=st.sampled_from([None, 1]), escape=st.booleans()
)
def test_any_objects_written_as_an_array_are_read_back(tmp_path, rows, block, indent, escape):
    file = tmp_path / "x.json"
    file.write_text(json.dumps(rows, indent=indent, ensure_ascii=escape), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)
        assert [record[1:] for record in read(file)] == [(row, None) for row in rows]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1))
def test_no_bytes_make_it_raise_anything_but_a_refusal(tmp_path, data):
    def refused(file: Path) -> bool:
        with suppress(ValueError):
            read_rows(str(file), "data.train")
            return False
        return True

    for name in ("x.jsonl", "x.json", "x.json.gz", "x.txt", "x.parquet", "x.arrow"):
        file = tmp_path / name
        file.write_bytes(b"[" + data if name == "x.json" else data)
        with pytest.raises(ValueError, match=f"^data.train: {file} ") if refused(file) else nullcontext():
            assert all((record.row is None) != (record.problem is None) for record in read(file))


# Fingerprints


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=64), place=st.integers(0, 63), change=st.integers(1, 255))
def test_a_fingerprint_changes_with_any_byte(tmp_path, data, place, change):
    file = tmp_path / "x.jsonl"
    file.write_bytes(data)
    before = fingerprint(str(file), "x")
    changed = bytearray(data)
    changed[place % len(data)] ^= change
    file.write_bytes(changed)
    assert fingerprint(str(file), "x") != before


def test_a_fingerprint_depends_on_content_order_and_kind_not_on_the_path(tmp_path):
    for name, text in (("a.jsonl", "1"), ("b.jsonl", "2"), ("ab.jsonl", "12"), ("a.txt", "1")):
        (tmp_path / name).write_text(text)
    a, b, ab, txt = (str(tmp_path / name) for name in ("a.jsonl", "b.jsonl", "ab.jsonl", "a.txt"))
    prints = [fingerprint(path, "x") for path in ([a, b], [b, a], ab, [a, b, a], a, txt)]
    assert len(set(prints)) == 6
    (tmp_path / "moved").mkdir()
    for file in (a, b):
        Path(file).rename(tmp_path / "moved" / ("x" + Path(file).name))
    assert fingerprint(str(tmp_path / "moved" / "*"), "x") == prints[0]


def test_a_saved_folder_may_be_moved_and_changes_with_its_rows(tmp_path):
    write(tmp_path / "one", ROWS)
    before = fingerprint(str(tmp_path / "one"), "x")
    (tmp_path / "one").rename(tmp_path / "two")
    assert fingerprint(str(tmp_path / "two"), "x") == before
    write(tmp_path / "three", ROWS[:-1])
    assert fingerprint(str(tmp_path / "three"), "x") != before


def old(file: Path) -> Path:
    """A file last changed long ago, so that its time of change tells it from a later version."""
    os.utime(file, ns=(10**18, 10**18))
    return file


def test_an_unchanged_file_is_not_hashed_again(tmp_path, monkeypatch):
    file = old(json_lines(tmp_path / "x.jsonl", [ROW]))
    before = fingerprint(str(file), "x")
    monkeypatch.setattr(sources, "_digest", lambda path: pytest.fail("hashed again"))
    assert fingerprint(str(file), "x") == before
    assert list(json.loads((cache_folder() / "files.json").read_text())) == [str(file)]


def test_a_file_changed_a_moment_ago_is_not_remembered(tmp_path):
    file = json_lines(tmp_path / "x.jsonl", [ROW])
    fingerprint(str(file), "x")
    assert not (cache_folder() / "files.json").exists()


@pytest.mark.parametrize("memo", ["", "{", "[]", '{"PATH": 3}', '{"PATH": []}', "\x00"])
def test_a_corrupt_memo_is_ignored_and_replaced(tmp_path, memo):
    file = old(json_lines(tmp_path / "x.jsonl", [ROW]))
    before = fingerprint(str(file), "x")
    (cache_folder() / "files.json").write_text(memo.replace("PATH", str(file)))
    assert fingerprint(str(file), "x") == before
    assert str(file) in json.loads((cache_folder() / "files.json").read_text())


def test_concurrent_writers_leave_a_whole_memo(tmp_path):
    files = [old(json_lines(tmp_path / f"{i}.jsonl", [{"n": i}])) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda file: fingerprint(str(file), "x"), files))
    assert set(json.loads((cache_folder() / "files.json").read_text())) <= set(map(str, files))
    assert [fingerprint(str(file), "x") for file in files] == together
    assert [file.name for file in cache_folder().iterdir()] == ["files.json"]


def test_a_cache_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    file = old(json_lines(tmp_path / "x.jsonl", [ROW]))
    before = fingerprint(str(file), "x")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "file"))
    assert fingerprint(str(file), "x") == before


def test_the_cache_folder_is_where_the_environment_says_and_is_not_created(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache" / "tokens"
    assert not cache_folder().exists()
    monkeypatch.delenv("TRIVIUM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "trivium" / "tokens"
    assert not (tmp_path / ".cache").exists()
