"""Files of every format, packing and encoding: the same rows, or one line that names what to set."""

import bz2
import datetime
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from datamodules import InstructionData, MixedCorpusData, Source, TokenData
from datamodules.errors import UserError
from datamodules.layouts.reader import RowReader
from datamodules.reading.hub import Hub
from datamodules.reading.record import NOT_READ, Unreadable
from datamodules.reading.sources import parts_of, read_rows
from datamodules.reading.streams import encoding_errors

ROWS = [
    {"instruction": "Name a fruit.", "output": "A pear."},
    {"instruction": "电影好看吗", "output": "很好\n看"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'instruction,output\nName a fruit.,A pear.\n"电影好看吗","很好\n看"\n'


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def read(file, encoding=None, columns=None):
    return list(read_rows(str(file), "data.train", encoding, columns))


def rows_of(file, encoding=None):
    records = read(file, encoding)
    assert [record.problem for record in records] == [None] * len(records)
    return [record.row for record in records]


PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
FORMATS = {
    "x.jsonl": LINES,
    "x.JSONL": LINES,
    "x.ndjson": LINES,
    "x.json": LINES,
    "array.json": json.dumps(ROWS),
    "object.json": json.dumps({"version": 1, "data": ROWS}),
    "indented.json": json.dumps({"version": {"a": [1]}, "rows": ROWS, "licence": "x"}, indent=2),
    "x.csv": CSV,
    "bom.csv": "\ufeff" + CSV,
    "crlf.csv": CSV.replace("很好\n看", "很好看").replace("\n", "\r\n").replace("很好看", "很好\n看"),
    "semicolons.csv": CSV.replace(",", ";"),
    "x.tsv": CSV.replace(",", "\t"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    (tmp_path / name).write_bytes(FORMATS[name].encode())
    assert rows_of(tmp_path / name) == ROWS


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("name", ["x.jsonl", "object.json", "x.csv"])
def test_every_packing_gives_the_same_rows_and_a_cut_is_told(tmp_path, name, packing):
    file = tmp_path / (name + packing)
    data = PACKED[packing](FORMATS[name].encode() * (1 if name != "x.jsonl" else 400))
    file.write_bytes(data)
    assert rows_of(file)[: len(ROWS)] == ROWS
    file.write_bytes(data[: len(data) * 2 // 3])
    try:
        told = read(file)[-1].problem
    except UserError as refusal:  # the header of a CSV is read at once
        told = str(refusal)
    assert "cannot be unpacked, nor can" in told or "has a header that cannot be read (" in told


@pytest.mark.parametrize("packing", PACKED)
def test_a_packing_that_the_name_does_not_say_is_refused_and_the_reverse(tmp_path, packing):
    (tmp_path / "x.jsonl").write_bytes(PACKED[packing](LINES.encode()))
    with pytest.raises(UserError, match=rf"is packed with \w+: add {packing} to its name"):
        read(tmp_path / "x.jsonl")
    (tmp_path / f"x.jsonl{packing}").write_bytes(LINES.encode())
    with pytest.raises(UserError, match=rf"ends in {packing} but is not packed with \w+: rename it"):
        read(tmp_path / f"x.jsonl{packing}")


# --- CSV


def test_cells_are_texts_and_empty_ones_are_null(tmp_path):
    (tmp_path / "x.csv").write_text('a,b,c\n1,,"x, ""y"""\n\n007,2.50,NA\n')
    assert rows_of(tmp_path / "x.csv") == [
        {"a": "1", "b": None, "c": 'x, "y"'},
        {"a": "007", "b": "2.50", "c": "NA"},
    ]


@pytest.mark.parametrize(
    ("data", "row", "problem"),
    [
        (b"a,b\n1,2\n3\n4,5\n", 2, "has 1 cells where the header has 2"),
        (b"a,b\n1,2\n3,4,5\n6,7\n", 2, "has 3 cells where the header has 2"),
        (b"a,b\n1,\xff\n3,4\n", 1, "is not UTF-8 (byte 2 "),
        (b'a,b\n1,2\n"3,4\n5,6\n', 2, "is no CSV, nor can what follows be read (unexpected end of data)"),
        (b"a,b\n1,\0\n3,4\n", 1, "has NUL bytes"),
    ],
)
def test_a_row_of_a_csv_that_is_wrong_is_named_and_the_next_is_read(tmp_path, data, row, problem):
    file = tmp_path / "x.csv"
    file.write_bytes(data)
    records = read(file)
    (bad,) = [record for record in records if record.row is None]
    assert bad.where == f"{file}, row {row}"
    assert bad.problem.startswith(problem)
    if "nor can" not in problem:
        assert records[-1].row is not None


@pytest.mark.parametrize("header", [b"a,a\n1,2\n", b"\n\n", b"\xff,b\n1,2\n"])
def test_a_header_that_names_nothing_is_refused_at_once(tmp_path, header):
    (tmp_path / "x.csv").write_bytes(header)
    with pytest.raises(UserError, match="data.train: .*x.csv has "):
        read_rows(str(tmp_path / "x.csv"), "data.train")


def test_an_object_with_two_arrays_of_rows_is_told(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"train": ROWS, "test": ROWS}, indent=1))
    records = read(tmp_path / "x.json")
    assert records[2].problem == "holds rows in `train` and in `test`: make two files of them"


def test_one_row_alone_in_a_json_file_is_a_row(tmp_path):
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}
    (tmp_path / "x.json").write_text(json.dumps(row))
    assert rows_of(tmp_path / "x.json") == [row]


# --- encodings


@pytest.mark.parametrize("encoding", ["gb18030", "gbk", "utf-16", "utf-16-le", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("name", ["x.jsonl", "array.json", "object.json", "x.csv", "x.jsonl.zst"])
def test_text_of_another_encoding_is_read(tmp_path, name, encoding):
    data = FORMATS[name.removesuffix(".zst")].encode(encoding)
    (tmp_path / name).write_bytes(zstd(data) if name.endswith(".zst") else data)
    assert rows_of(tmp_path / name, encoding) == ROWS


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("我觉得这部电影很好看，故事也很有意思。", "gb18030"),
        ("이 영화는 아주 재미있습니다. 이야기도 좋아요.", "euc_kr"),
        ("この映画はとても面白いです。話もいいです。", "shift_jis"),
        ("Un café à la crème, déjà vu, très intéressant.", "cp1252"),
        ("Этот фильм очень хороший, и история интересная.", "cp1251"),
    ],
)
def test_what_is_not_utf_8_names_the_setting_and_the_likely_encoding(tmp_path, text, encoding):
    file = tmp_path / "x.jsonl"
    file.write_bytes(json.dumps({"text": text}, ensure_ascii=False).encode(encoding))
    (record,) = read(file)
    assert record.problem.endswith(f": set `encoding`, perhaps to {encoding}")


def test_what_an_encoding_does_not_know_is_told_with_its_row(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(LINES.encode("gbk").replace("好".encode("gbk"), b"\x80\xff", 1) + b'{"output": "a"}\n')
    first, second, third = read(file, "gbk")
    assert (first.row, third.row) == (ROWS[0], {"output": "a"})
    assert second.where == f"{file}:2"
    assert second.problem == "is not gbk (set `encoding` to another, or leave it out for UTF-8)"


@pytest.mark.parametrize("encoding", ["gkb", "base64", "idna", "undefined", "punycode", "", 3])
def test_an_encoding_that_is_none_is_refused(encoding):
    errors = encoding_errors("data.encoding", encoding) if encoding else [encoding_errors("x", "no")[0]]
    assert "give the name of an encoding" in errors[0]


def test_a_data_module_and_a_source_take_an_encoding(tmp_path, tiny_tokenizer):
    file = tmp_path / "x.jsonl"
    file.write_bytes(LINES.encode("gbk"))
    with pytest.raises(UserError, match=r"x\.jsonl:2 is not UTF-8 .*: set `encoding`, perhaps to gb18030"):
        InstructionData(str(file), tiny_tokenizer).setup()
    data = InstructionData(str(file), tiny_tokenizer, encoding="gbk")
    data.setup()
    assert data.tokenizer.decode(data.splits["train"][1]["input_ids"]).endswith("很好\n看</s>")
    text = tmp_path / "x.txt"
    text.write_bytes("电影很好 a good film".encode("gbk"))
    corpus = MixedCorpusData(
        {"x": Source(str(text), encoding="gbk")}, tiny_tokenizer, sequence_length=4, global_batch_size=1
    )
    corpus.setup()
    assert corpus.receipts[0].sample[1][0].startswith("电影")


# --- tables


def table(tmp_path, **columns):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    return tmp_path / "x.parquet"


FAR = {
    "a date": (pa.array([2932897], pa.date32()), "date value out of range"),
    "a time": (pa.array([253402300800000000], pa.timestamp("us")), "date value out of range"),
    "a zone": (pa.array([0], pa.timestamp("us", "Mars/Olympus")), "time zone 'Mars/Olympus' is not known"),
}


@pytest.mark.parametrize("kind", FAR)
def test_a_value_that_python_cannot_hold_matters_only_to_who_reads_it(tmp_path, kind, tiny_tokenizer):
    column, reason = FAR[kind]
    file = table(tmp_path, text=["a good film"], when=column)
    (record,) = read(file)
    assert record.row["text"] == "a good film"
    assert isinstance(record.row["when"], Unreadable)
    options = {"sequence_length": 2, "global_batch_size": 1}
    data = MixedCorpusData({"x": Source(str(file))}, tiny_tokenizer, **options)
    data.setup()
    assert data.receipts[0].not_read == ["when"]
    read_it = MixedCorpusData({"x": Source(str(file), text="when")}, tiny_tokenizer, **options)
    with pytest.raises(UserError, match=rf"x\.parquet, row 1: `text` cannot be read: .*{reason}"):
        read_it.setup()


def test_only_columns_that_are_read_are_converted(tmp_path):
    file = table(tmp_path, text=["a"], other=[b"\xff" * 10])
    assert read(file, columns={"text"})[0].row == {"text": "a", "other": NOT_READ}
    assert read(file, columns={"none"})[0].row == {"text": NOT_READ, "other": NOT_READ}
    with pytest.raises(UserError, match="cannot be read"):
        str(NOT_READ)
    wanted = RowReader("documents", {"text": "meta.text"}).wanted
    assert wanted >= {"text", "content", "meta", "meta.text"}
    assert not wanted & {"other", "Meta", "instruction"}


def test_dates_that_python_can_hold_are_dates(tmp_path):
    day = datetime.date(9999, 12, 31)
    assert read(table(tmp_path, when=[day]))[0].row == {"when": day}


def test_tokens_of_another_name_are_read(tmp_path, tiny_tokenizer):
    file = table(tmp_path, tokens=[[5, 6, 7]], masked=[[-100, 6, 7]])
    data = TokenData(str(file), tiny_tokenizer, columns={"input_ids": "tokens", "labels": "masked"})
    data.setup()
    row = data.splits["train"][0]
    assert (row["input_ids"].tolist(), row["trained"].tolist()) == ([5, 6, 7], [0, 1, 1])


# --- folders and the hub


def test_a_folder_is_all_its_files_of_rows_in_order_and_tells_what_it_leaves_out(tmp_path, caplog):
    caplog.set_level("INFO", "lightning.pytorch.utilities.rank_zero")  # another test may have hushed it
    for name, text in (("b.jsonl", LINES), ("a.csv", CSV), ("README.md", "#"), ("x.bin", "?")):
        (tmp_path / name).write_text(text)
    assert parts_of(str(tmp_path), "x") == [str(tmp_path / name) for name in ("a.csv", "b.jsonl")]
    assert [record.getMessage() for record in caplog.records] == [
        f"x: of folder {tmp_path} not read: README.md, x.bin"
    ]
    (tmp_path / "texts").mkdir()
    for name in ("2.txt", "1.md"):
        (tmp_path / "texts" / name).write_text(name)
    assert [row["text"] for row in rows_of(tmp_path / "texts")] == ["1.md", "2.txt"]


def test_a_folder_of_several_splits_asks_for_one(tmp_path):
    for name in ("train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl", "validation.jsonl"):
        (tmp_path / name).write_text(LINES)
    with pytest.raises(UserError, match="holds several splits: give one of test, train, val, as in"):
        parts_of(str(tmp_path), "x")
    assert parts_of(f"{tmp_path}[train]", "x") == [str(tmp_path / "train-00000-of-00001.jsonl")]
    assert parts_of(f"{tmp_path}[validation]", "x") == [str(tmp_path / "validation.jsonl")]


def test_the_split_of_a_saved_folder_is_read(tmp_path):
    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])}).save_to_disk(
        str(tmp_path / "d")
    )
    assert rows_of(f"{tmp_path}/d[test]") == ROWS[:1]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("name", ("name", None, "train")),
        ("owner/name", ("owner/name", None, "train")),
        ("owner/name[test]", ("owner/name", None, "test")),
        ("name[validation]", ("name", None, "validation")),
        ("hub:owner/name/config", ("owner/name", "config", "train")),
        ("hub:owner/name/20231101.en[test]", ("owner/name", "20231101.en", "test")),
    ],
)
def test_a_name_on_the_hub_may_have_a_config_and_a_split(path, parts):
    (hub,) = parts_of(path, "x")
    assert isinstance(hub, Hub)
    assert hub.parts == parts


@pytest.mark.parametrize("path", ["hub:a/b/c/d", "hub:", "hub:a[b", "runs/no/such", "no/such/x.jsonl"])
def test_what_is_no_name_and_no_file_is_refused(path):
    with pytest.raises(UserError, match="^data.train: "):
        parts_of(path, "data.train")
