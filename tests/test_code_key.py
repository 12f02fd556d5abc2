"""The token cache's key states the user's own code: other code is another cache, the same one the same."""

import importlib
import json
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest

from datamodules import ChatTemplate, InstructionTemplate, MixedTemplates
from datamodules.caching.code_key import code_key
from datamodules.caching.own_modules import version_of
from datamodules.caching.row_encoder import INTS
from datamodules.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes a module of the user's and imports it; written again, it is imported again."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a .pyc is told from its source by whole seconds
    names = set()

    def write(name, code, again=True):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        names.add(name)
        importlib.invalidate_caches()
        if again:
            for each in names:
                sys.modules.pop(each, None)
        return importlib.import_module(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


# A module, what of it makes the text, and two texts of which the second replaces the first
CHANGES = {
    "a function's body": ("def pick(row): return row['title']", "pick", "title", "body"),
    "a function that it calls": (
        "def f(row): return row['a']\ndef pick(row): return f(row)",
        "pick",
        "a",
        "b",
    ),
    "a global": ("SIGN = 'Q: '\ndef pick(row): return SIGN + row['a']", "pick", "Q: ", "A: "),
    "an argument's default": ("def pick(row, key='a'): return row[key]", "pick", "'a'", "'b'"),
    "a keyword's default": ("def pick(row, *, key='a'): return row[key]", "pick", "'a'", "'b'"),
    "a closure": (
        "def make(k): return lambda row: row[k]\npick = make('a')",
        "pick",
        "make('a')",
        "make('b')",
    ),
    "a function within": ("def pick(row):\n  def f(): return row['a']\n  return f()", "pick", "'a'", "'b'"),
    "a lambda": ("pick = lambda row: row['a']", "pick", "'a'", "'b'"),
    "a partial": (
        "from functools import partial\ndef f(row, k): return row[k]\npick = partial(f, k='a')",
        "pick",
        "k='a'",
        "k='b'",
    ),
    "what is decorated": (
        "import functools\n@functools.lru_cache\ndef pick(row): return row['a']",
        "pick",
        "'a'",
        "'b'",
    ),
    "a decorator": (
        "import functools\ndef deco(f):\n  @functools.wraps(f)\n  def inner(row): return f(row) + '!'\n"
        "  return inner\n@deco\ndef pick(row): return row['a']",
        "pick",
        "'!'",
        "'?'",
    ),
    "an object's attribute": (
        "class Pick:\n  def __init__(self, key): self.key = key\n"
        "  def __call__(self, row): return row[self.key]\npick = Pick('a')",
        "pick",
        "Pick('a')",
        "Pick('b')",
    ),
    "an object's method": (
        "class Pick:\n  def it(self, row): return row['a']\npick = Pick().it",
        "pick",
        "'a'",
        "'b'",
    ),
    "a library's object": (
        "import operator\nget = operator.itemgetter('a')\ndef pick(row): return get(row)",
        "pick",
        "'a'",
        "'b'",
    ),
    "an expression": (
        "import re\nX = re.compile('x+')\ndef pick(row): return X.sub('', row['a'])",
        "pick",
        "x+",
        "y+",
    ),
    "a set": ("WORDS = {'a', 'b', 'c'}\ndef pick(row): return str(row['a'] in WORDS)", "pick", "'c'", "'d'"),
    "a class constant": (
        "class C:\n  key = 'a'\ndef pick(row): return row[C.key]",
        "pick",
        "'a'",
        "'b'",
    ),
    "what only its name finds": (
        "def f(row): return row['a']\ndef pick(row): return globals()['f'](row)",
        "pick",
        "'a'",
        "'b'",
    ),
    "a template's prompt": (
        "from datamodules import InstructionTemplate\nclass T(InstructionTemplate):\n"
        "  def prompt(self, row, number, tokenizer):\n"
        "    return super().prompt({**row, 'instruction': 'Say'}, number, tokenizer)\npick = T()",
        "pick",
        "Say",
        "Do",
    ),
    "a template's attribute": (
        "from datamodules import InstructionTemplate\nclass T(InstructionTemplate):\n"
        "  def __init__(self, mark): super().__init__(); self.mark = mark\npick = T('a')",
        "pick",
        "T('a')",
        "T('b')",
    ),
    "a template's base": (
        "from datamodules import InstructionTemplate\nclass B(InstructionTemplate):\n  mark = 'a'\n"
        "class T(B):\n  pass\npick = T()",
        "pick",
        "'a'",
        "'b'",
    ),
    "a template among several": (
        "from datamodules import InstructionTemplate, MixedTemplates\nclass T(InstructionTemplate):\n"
        "  mark = 'a'\npick = MixedTemplates({'one': T(), 'two': InstructionTemplate()})",
        "pick",
        "'a'",
        "'b'",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_code_is_another_key_and_the_same_code_the_same(mine, change):
    code, name, old, new = CHANGES[change]
    keys = [
        code_key([getattr(mine("mytext", text), name)]) for text in (code, code, code.replace(old, new), code)
    ]
    assert keys[0] == keys[1] == keys[3] != keys[2]


IMPORTS = {
    "a module": "import helper\ndef pick(row): return helper.clean(row)",
    "a name": "from helper import clean\ndef pick(row): return clean(row)",
    "within the function": "def pick(row):\n  from helper import clean\n  return clean(row)",
    "by another module": "import between\ndef pick(row): return between.clean(row)",
    "for its effect": "import helper\ndef pick(row): return row['a']",
}


@pytest.mark.parametrize("how", IMPORTS)
def test_what_is_imported_from_the_users_own_modules_is_in_the_key(mine, how):
    keys = []
    for mark in "!!?":
        mine("helper", f"MARK = '{mark}'\ndef clean(row): return row['a'] + MARK")
        mine("between", "from helper import clean")
        keys.append(code_key([mine("mytext", IMPORTS[how]).pick]))
    assert keys[0] == keys[1] != keys[2]


def test_a_file_that_changed_but_was_not_imported_again_has_a_key_of_its_own(mine):
    """What runs is the old code, which must not be taken for the new file's."""
    old, new = "def pick(row): return row['a']", "def pick(row): return row['b']"
    before = code_key([mine("mytext", old).pick])
    stale = code_key([mine("mytext", new, again=False).pick])
    after = code_key([mine("mytext", new).pick])
    assert len({before, stale, after}) == 3


def test_a_function_that_was_replaced_while_running_is_another(mine):
    module = mine("mytext", "def f(row): return 'a'\ndef pick(row): return f(row)")
    before = code_key([module.pick])
    module.f = lambda row: "b"
    assert code_key([module.pick]) != before


SCRIPT = """
import sys
from datamodules.caching.code_key import code_key
from datamodules.caching.own_modules import version_of
sys.path.insert(0, sys.argv[1])
import mytext
WORDS = {"one", "two", "three", "four"}
def main_pick(row): return mytext.pick(row) if row["a"] in WORDS or row["b"] in {"x", "y", "z"} else ""
print(code_key([mytext.pick]), code_key([main_pick]), code_key([lambda row: row["a"]]), code_key([mytext]))
"""


def test_another_process_gives_the_same_key_however_it_hashes(tmp_path):
    (tmp_path / "mytext.py").write_text(
        "import dataclasses, enum, json, logging, re, threading\nLOCK = threading.Lock()\n"
        "class K(enum.Enum):\n  A = 1\n@dataclasses.dataclass\nclass O:\n  n: int = 3\n"
        "def pick(row):\n  with LOCK: logging.getLogger('x').info(K.A, O().n, {'a', 'b', 'c'})\n"
        "  return json.dumps(row)\n"
    )

    def keys(seed):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
        env = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "PATH": ""}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()

    first = keys("1")
    assert len(set(first)) == 4
    assert keys("2") == first  # now from the .pyc
    (tmp_path / "mytext.py").write_text(
        (tmp_path / "mytext.py").read_text().replace("n: int = 3", "n: int = 4")
    )
    second = keys("1")
    assert [a == b for a, b in zip(first, second, strict=True)] == [False, False, True, False]


def test_trivium_s_own_templates_are_left_to_their_settings():
    templates = [
        InstructionTemplate(),
        ChatTemplate(date="2026-01-31"),
        MixedTemplates({"a": ChatTemplate()}),
    ]
    assert len({code_key([template]) for template in templates}) == 1


def test_functions_of_c_and_of_installed_packages_are_told_apart():
    keys = [code_key([each]) for each in (str.upper, str.lower, len, json.dumps, json.loads)]
    assert len(set(keys)) == 5


def test_the_package_of_a_module_is_the_one_that_importlib_names():
    packages = metadata.packages_distributions()
    for module in ("torch.nn", "yaml", "pytest", "_pytest.fixtures"):
        names = packages[module.partition(".")[0]]
        assert version_of(module) == " ".join(f"{name} {metadata.version(name)}" for name in names)


@pytest.mark.parametrize("value", ["(n for n in 'ab')", "open(__file__)"])
def test_what_cannot_be_stated_is_refused_by_name(mine, value):
    module = mine("mytext", f"THING = {value}\ndef pick(row): return str(THING)")
    with pytest.raises(UserError, match=r"^pick, THING is a \w+, whose content cannot be stated") as caught:
        code_key([module.pick])
    assert "\n" not in str(caught.value)


def test_a_cell_of_a_notebook_that_is_edited_and_run_again_is_another():
    keys = []
    for name in ("title", "title", "body"):
        cell: dict = {"__name__": "__main__"}
        exec(f"def pick(row):\n    return row['{name}']", cell)
        keys.append(code_key([cell["pick"]]))
    assert keys[0] == keys[1] != keys[2]


def test_what_a_closure_holds_and_cannot_be_stated_is_refused():
    numbers = (number for number in range(3))
    with pytest.raises(UserError, match="numbers is a generator"):
        code_key([lambda row: next(numbers)])


def test_what_a_function_refers_to_may_be_of_a_library_in_c():
    """Cython's functions have classes whose module is no text."""
    assert code_key([lambda row: INTS]) == code_key([lambda row: INTS])
