"""The key of the token cache states the user's own code: another function, or another helper that it imports,
makes other tokens."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from datamodules.caching.code_key import code_key
from datamodules.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
KEYS = """
import sys
sys.path.insert(0, sys.argv[1])
import mytext
from datamodules.caching.code_key import code_key
print(*[code_key([getattr(mytext, name)]) for name in ("pick", "Mine", "tuned", "plain")])
"""
MODULE = """
import functools
import helper
from datamodules import InstructionTemplate

def pick(row):
    return row["title"] + helper.END

class Mine(InstructionTemplate):
    def prompt(self, row):
        return "ask: " + row["instruction"]

tuned = functools.partial(pick, )

def plain(row):
    return row["title"]
"""


@pytest.fixture
def keys(tmp_path):
    """The keys of what a module holds, in a process of its own, as the next run would make them."""

    def write_and_ask(module=MODULE, helper="END = '.'"):
        (tmp_path / "mytext.py").write_text(textwrap.dedent(module))
        (tmp_path / "helper.py").write_text(helper)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        line = [sys.executable, "-c", KEYS, str(tmp_path)]
        return subprocess.run(line, capture_output=True, text=True, check=True, env=env).stdout.split()

    return write_and_ask


@pytest.mark.slow
def test_code_that_changes_between_two_runs_has_another_key_and_unchanged_code_the_same(keys):
    first = keys()
    assert len(set(first)) == 4
    assert keys() == first
    body = keys(MODULE.replace('row["title"] + helper.END', 'row["body"] + helper.END'))
    assert all(key not in first for key in body[:3])  # pick, and what is beside it in its file
    assert all(key not in first for key in keys(helper="END = '!'"))  # what the file imports
    prompt = keys(MODULE.replace('"ask: "', '"say: "'))
    assert prompt[1] not in first


def test_what_a_closure_and_a_lambda_of_a_notebook_hold_is_in_the_key():
    def column(name):
        return lambda row: row[name]

    assert code_key([column("title")]) == code_key([column("title")])
    assert code_key([column("title")]) != code_key([column("body")])
    cells = []
    for name in ("title", "body"):  # a cell that is edited and run again, in one process
        cell: dict = {"__name__": "__main__"}
        exec(f"def pick(row):\n    return row['{name}']", cell)
        cells.append(code_key([cell["pick"]]))
    assert cells[0] != cells[1]


def test_what_cannot_be_stated_is_refused():
    numbers = (number for number in range(3))
    with pytest.raises(UserError, match="numbers|generator"):
        code_key([lambda row: next(numbers)])
