"""`--encoding` and `--columns` say for every data command what they say for a data module, and a path on the
command line is a path whatever it looks like."""

import json

import pytest

from experiments.cli.parser import parse_data
from experiments.cli.path_options import with_listed_paths
from experiments.cli.program import main

WORDS = "一二三四五六七八九十百千万亿兆春夏秋冬东南西北"
TEXTS = ["甲" + WORDS, "乙" + WORDS[::-1], "甲" + WORDS]  # the third is the first again


@pytest.fixture
def foreign(tmp_path):
    """A file in another encoding whose texts are in a column of another name."""
    file = tmp_path / "x.jsonl"
    lines = [json.dumps({"正文": text}, ensure_ascii=False) + "\n" for text in TEXTS]
    file.write_bytes("".join(lines).encode("gb18030"))
    return str(file)


HOW = ["--columns", "text=正文", "--encoding", "gb18030"]


def test_inspect_reads_another_encoding_and_column(foreign, tmp_path, capsys):
    assert main(["data", "inspect", foreign, "--output", str(tmp_path / "page.html"), *HOW]) == 0
    assert "rows 3, cannot be read 0; with text 3" in capsys.readouterr().out.replace("\n", " ")


def test_deduplicate_keeps_encoding_and_column(foreign, tmp_path):
    assert main(["data", "deduplicate", foreign, "--output", str(tmp_path / "out"), *HOW]) == 0
    kept = (tmp_path / "out" / "x.jsonl").read_bytes().decode("gb18030").splitlines()
    assert [json.loads(line) for line in kept] == [{"正文": text} for text in TEXTS[:2]]


def test_deduplicate_refuses_an_encoding_whose_lines_end_otherwise(foreign, tmp_path, capsys):
    line = ["data", "deduplicate", foreign, "--output", str(tmp_path / "out"), "--encoding", "utf-16"]
    assert main(line) == 2
    assert "lines cannot be taken out of utf-16" in capsys.readouterr().err


def test_contamination_reads_another_encoding_and_column(foreign, tmp_path):
    other = tmp_path / "y.jsonl"
    other.write_bytes((json.dumps({"正文": TEXTS[1]}, ensure_ascii=False) + "\n").encode("gb18030"))
    hits = tmp_path / "hits.jsonl"
    line = ["data", "contamination", foreign, "--against", str(other), "--output", str(hits), *HOW]
    assert main(line) == 0
    assert json.loads(hits.read_text("utf-8").splitlines()[0])["training"] == f"{foreign}:2"


def test_retrieve_reads_questions_in_another_encoding_and_column(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("The café in Lyon opened in 1931.\n\nThe mill is red.\n")
    row = {"frage": "When did the café in Lyon open?", "antwort": "1931"}
    (tmp_path / "q.jsonl").write_bytes((json.dumps(row, ensure_ascii=False) + "\n").encode("cp1252"))
    line = ["data", "retrieve", str(tmp_path / "q.jsonl"), "--documents", str(tmp_path / "notes")]
    line += ["--output", str(tmp_path / "out.jsonl"), "--encoding", "cp1252", "--unanswerable-share", "0"]
    assert main([*line, "--columns", "question=frage", "answer=antwort"]) == 0
    assert "café" in json.loads((tmp_path / "out.jsonl").read_text("utf-8"))["instruction"]


def test_a_tokenizer_is_trained_on_another_encoding(foreign, tmp_path):
    line = ["tokenizer", foreign, "--vocab-size", "300", "--output", str(tmp_path / "t")]
    assert main([*line, "--field", "正文", "--encoding", "gb18030"]) == 0
    assert main(line) == 2


def test_a_path_that_looks_like_a_mapping_is_a_path(tiny_tokenizer):
    line = ["fit", "--model", "SFTModule", "--model.init_args.pretrained", "x"]
    line += ["--data", "InstructionData", "--data.init_args.tokenizer", tiny_tokenizer]
    line += ["--data.init_args.train", "a: b.jsonl", "--data.init_args.val=c: d.jsonl"]
    data = parse_data(line)
    assert (data.train, data.val) == (["a: b.jsonl"], ["c: d.jsonl"])


@pytest.mark.parametrize("value", ["[a, b]", "{a: {train: x}}", "{a: b}", "null", "a: {train: x}", "x"])
def test_lists_sources_and_plain_paths_stay_as_they_are(value):
    assert with_listed_paths(["--data.init_args.train", value]) == ["--data.init_args.train", value]
