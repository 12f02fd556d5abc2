"""`trivium data convert`: what it writes is read as the file itself is."""

import json

import pytest

from datamodules.layouts.reader import RowReader
from datamodules.layouts.recognise import recognise
from datamodules.reading.sources import read_rows
from experiments.cli.program import main
from experiments.data.convert import convert

SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}
HH = {"chosen": "\n\nHuman: Good?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Good?\n\nAssistant: No."}
ANSWERS = [{"response": "a", "overall_score": 2.0}, {"response": "b", "overall_score": 5.0}]
FEEDBACK = {"instruction": "Q", "completions": ANSWERS}
DOLLY = {"instruction": "Who?", "context": "Ann.", "response": "Ann."}
LAYOUTS = {
    "sharegpt": ("instructions", {"id": "x", **SHAREGPT}, {"messages"}),
    "dolly": ("instructions", DOLLY, {"instruction", "input", "output"}),
    "pairs": ("instructions", {"query": "a?", "response": "b"}, {"instruction", "output"}),
    "hh": ("preferences", HH, {"instruction", "chosen", "rejected"}),
    "feedback": ("preferences", FEEDBACK, {"instruction", "replies", "ratings"}),
    "prompts": ("prompts", {"prompt": "Write."}, {"instruction"}),
    "documents": ("documents", {"content": "A text."}, {"text"}),
}


def read(path, kind):
    return [RowReader(kind).read(record.row).row for record in read_rows(str(path), "FILE")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_read_as_the_file_itself_is(tmp_path, rows, layout):
    kind, row, ours = LAYOUTS[layout]
    file = rows(tmp_path / "theirs.jsonl", [row] * 3)
    converted = convert([file], str(tmp_path / "out"))
    assert (converted.kind, converted.rows, converted.kept) == (kind, 3, 3)
    written = tmp_path / "out" / "rows.jsonl"
    assert set(json.loads(written.read_text().splitlines()[0])) - {"id"} == ours
    assert read(written, kind) == read(file, kind)
    assert recognise(str(written), "FILE").kind == kind


def test_a_table_of_another_encoding_and_names_of_its_own(tmp_path, capsys):
    (tmp_path / "a.csv").write_bytes("问,答\n电影好看吗?,很好看。\n,\n".encode("gb18030"))
    line = [
        "data",
        "convert",
        str(tmp_path / "a.csv"),
        "--output",
        str(tmp_path / "out"),
        "--encoding",
        "gb18030",
    ]
    line += ["--kind", "instructions", "--columns", "instruction=问", "output=答"]
    assert main(line) == 0
    (row,) = map(json.loads, (tmp_path / "out/rows.jsonl").read_text().splitlines())
    assert row == {"instruction": "电影好看吗?", "output": "很好看。"}
    told = capsys.readouterr().out
    assert "1 of 2 rows" in told
    assert "left out: " in told
    assert f"{tmp_path}/a.csv" in told
    assert main(line) == 2  # nothing that is there is written over
    assert "holds rows.jsonl already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "more", "reason"),
    [
        ('{"a": 1}\n', [], "instruction"),
        ('{"query": "a", "response": "b"}\n', ["--columns", "instruction"], "give OURS=THEIRS"),
        ('{"query": "a", "response": "b"}\n', ["--columns", "instruktion=query"], "instruktion"),
        ('{"query": "a", "response": "b"}\n', ["--columns", "instruction=nothing"], "nothing"),
        ('{"query": "a", "response": "b"}\n', ["--encoding", "klingon"], "klingon"),
    ],
)
def test_what_cannot_be_converted_is_told_and_leaves_nothing(tmp_path, capsys, text, more, reason):
    (tmp_path / "a.jsonl").write_text(text)
    assert main(["data", "convert", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "out"), *more]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out" / "rows.jsonl").exists()
