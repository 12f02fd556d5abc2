"""`trivium data`: its help, a command that does not exist, and a library that is missing."""

import subprocess
import sys

from experiments.cli.program import main
from tests.data_files import refusal


def test_help_teaches_without_torch():
    code = "import sys, experiments.cli.program as c; c.main(['data', '-h']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *usage, imported = done.stdout.splitlines()
    assert imported == "False"
    assert {line.split()[0] for line in usage if line.startswith("  ")} == {
        *("inspect", "deduplicate", "contamination", "receipt", "retrieve"),
    }


def test_an_unknown_command_is_told_in_one_line(capsys):
    assert "no command `shuffle`" in refusal(capsys, "shuffle")


def test_a_missing_library_names_the_extra(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    file = corpus("rows.jsonl", "a")
    told = refusal(capsys, "deduplicate", file, "--output", tmp_path / "out")
    assert told == "trivium: this needs rensa: pip install 'trivium[data]'"
    assert main(["data", "deduplicate", file, "--output", str(tmp_path / "out"), "--exact-only"]) == 0
