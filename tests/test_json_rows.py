"""JSON lines and arrays, plain and packed: every row, or the line, the column and the reason."""

import gzip
import json
import os
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.reading import json_rows
from datamodules.reading.record import Record
from tests.reading import GOOD, ROW, json_lines, read

# Bad rows

BAD_LINES = [
    # Columns and bytes counted by hand; the first line, GOOD and its end, is bytes 0 to 16.
    (b'{"text": }', "is not JSON (Expecting value at column 10)"),
    (b'{"text": "a"', "is not JSON (Expecting ',' delimiter at column 13)"),
    (b'  {"text": "a"} x', "is not JSON (Extra data at column 17)"),
    (b'{"text": "a', "is not JSON (Unterminated string starting at at column 10)"),
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


def test_the_marks_of_files_that_were_put_one_after_another_are_stripped_too(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(2 * (b"\xef\xbb\xbf" + GOOD + b"\n") + b"\xef\xbb\xbf\n\xff\n")
    assert read(file) == [
        (f"{file}:1", ROW, None),
        (f"{file}:2", ROW, None),
        (f"{file}:4", None, "is not UTF-8 (byte 44 of the file)"),
    ]
    parts = [placed.record.row for start in (0, 20) for placed in json_rows.rows_from(str(file), start, 20)]
    assert parts == [ROW, ROW]


def test_a_byte_that_is_not_utf_8_after_a_long_line_is_counted_from_the_files_beginning(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(json_rows, "MAX_LINE", 20)
    file = tmp_path / "x.jsonl"
    file.write_bytes(b"x" * 100 + b"\n" + b"\xff\n")
    assert read(file)[1] == (f"{file}:2", None, "is not UTF-8 (byte 101 of the file)")


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""], ids=["LF", "CRLF", "end of file"])
@pytest.mark.parametrize(("size", "kept"), [(16, True), (17, False), (18, False), (19, False), (200, False)])
def test_a_line_of_more_than_the_limit_is_named_whatever_ends_it(tmp_path, monkeypatch, size, kept, ending):
    monkeypatch.setattr(json_rows, "MAX_LINE", 16)
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
    monkeypatch.setattr(json_rows, "BLOCK", 3)
    rows = [{"text": "é😀" * i, "n": 12345.5, "b": [True, None]} for i in range(30)]
    file = tmp_path / "x.json"
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    assert [record.row for record in read(file)] == rows


def test_a_json_file_may_also_hold_lines(tmp_path):
    file = json_lines(tmp_path / "x.json", [ROW])
    assert read(file) == [(f"{file}:1", ROW, None)]


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
        patch.setattr(json_rows, "BLOCK", block)
        assert [record[1:] for record in read(file)] == [(row, None) for row in rows]
