"""`trivium data`: its help, a command that does not exist, and a library that is missing."""

import json
import subprocess
import sys

import pytest

from experiments.cli.program import main
from tests.data_files import refusal


def test_help_teaches_without_torch():
    code = "import sys, experiments.cli.program as c; c.main(['data', '-h']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *usage, imported = done.stdout.splitlines()
    assert imported == "False"
    assert {line.split()[0] for line in usage if line.startswith("  ")} == {
        *("inspect", "deduplicate", "contamination", "receipt", "retrieve", "convert"),
    }


def test_an_unknown_command_is_told_in_one_line(capsys):
    assert "no command `shuffle`" in refusal(capsys, "shuffle")


def test_a_missing_library_names_the_extra(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    file = corpus("rows.jsonl", "a")
    told = refusal(capsys, "deduplicate", file, "--output", tmp_path / "out")
    assert told == "trivium: this needs rensa: pip install 'trivium[data]'"
    assert main(["data", "deduplicate", file, "--output", str(tmp_path / "out"), "--exact-only"]) == 0


def test_the_receipt_takes_the_options_of_fit_and_tells_of_files_that_are_read_twice(
    tiny_stages, tmp_path, capsys
):
    files = tiny_stages.files
    (tmp_path / "copy.jsonl").write_bytes((files / "instructions.val.jsonl").read_bytes())
    line = [*tiny_stages.stage("sft")[1:], "--data.init_args.max_length", "60"]
    train = [str(files / "instructions.train.jsonl"), str(tmp_path / "copy.jsonl")]
    line += ["--data.init_args.train", json.dumps(train), "--data.init_args.max_dropped", "1"]
    capsys.readouterr()
    assert main(["data", "receipt", *line]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "max_length 60" in out
    assert (
        f"data.val: {files}/instructions.val.jsonl holds what {tmp_path}/copy.jsonl of data.train holds"
        in out
    )


@pytest.mark.parametrize(
    "text",
    ["instruction,output\nName: a fruit,A pear.\n", '{"instruction": "a: b", "output": "c"}\n', "a: [\n"],
)
def test_a_path_is_a_path_whatever_is_in_the_file(tiny_stages, tmp_path, text):
    """The parser would take a file that it is given for an argument as YAML."""
    from experiments.cli.parser import ParseOnly, parse

    file = tmp_path / "a.csv"
    file.write_text(text)
    options = ["fit", *tiny_stages.stage("sft")[1:], "--data.init_args.train", str(file)]
    assert parse(options, ParseOnly).config.fit.data.init_args.train == str(file)
