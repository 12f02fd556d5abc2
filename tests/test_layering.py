"""Who may know whom, found from the imports themselves, and how large a file and a function may be.

Every rule is a function of a folder, so that it is also shown to find a fault that is planted in one.
"""

import ast
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import strategies
from experiments.cli.program import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("modules", "datamodules", "strategies", "experiments")
# A file imports its own room and those of the lines above. `experiments` stands for the files right in it.
ORDER = (
    ("modules", "datamodules", "strategies"),
    ("experiments",),
    ("html",),
    ("cli",),
    ("distributed",),
    ("plan",),
    ("callbacks",),
    ("retrieval",),
    ("evaluation",),
    ("chat",),
    ("commands",),
    ("sweep",),
    ("data", "init", "quickstart", "benchmarks", "abilities", "scaling", "web", "notebooks"),
    ("docs",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
FILE, FUNCTION, TEST_FILE = 400, 60, 500  # lines at most


def files_of(root: Path) -> dict[str, Path]:
    """Dotted name → file of everything in the four folders."""
    files = sorted(file for folder in FOLDERS for file in (root / folder).rglob("*.py"))
    names = (".".join(file.relative_to(root).with_suffix("").parts) for file in files)
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def line_count(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def imported(name: str, file: Path) -> Iterator[str]:
    """The dotted names that a file imports anywhere, in functions and for type checking too.

    A name that is put together when it is needed has `*` for what is not known. One that only a variable
    holds is no import: the program's commands, each loaded when it is called, and a user's own classes.
    """
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            match node.args[0]:
                case ast.Constant(value=str(constant)):
                    yield constant
                case ast.JoinedStr(values=parts):
                    texts = [part.value if isinstance(part, ast.Constant) else "*" for part in parts]
                    own = ast.unparse(node.args[0]).startswith("f'{__name__}")
                    yield "".join([name, *map(str, texts[1:])] if own else map(str, texts))


def outside(root: Path, folder: str) -> set[str]:
    """The top-level names that a folder's files import; a relative import is named `.`."""
    files = {name: file for name, file in files_of(root).items() if name.split(".")[0] == folder}
    return {path.split(".")[0] or "." for name, file in files.items() for path in imported(name, file)}


def arrows(root: Path) -> dict[str, set[str]]:
    """File → the files of the four folders that it imports, both by their dotted names."""
    files = files_of(root)

    def targets(path: str) -> list[str]:
        if "*" in path:
            return [name for name in files if fnmatch(name, path)]
        while path and path not in files:  # `modules.stage.Stage` is in `modules.stage`
            path = path.rpartition(".")[0]
        return [path] if path else []

    return {
        name: {target for path in imported(name, file) for target in targets(path)} - {name}
        for name, file in files.items()
    }


def room(name: str) -> str:
    """Where a file is: a library, or a folder of `experiments`."""
    folder, *inner = name.split(".")
    return inner[0] if inner and inner[0] in LEVEL else folder


def circles(root: Path) -> list[str]:
    """A circle of imports, if there is one, as a text."""
    try:
        TopologicalSorter(arrows(root)).prepare()
    except CycleError as error:
        return [" ← ".join(error.args[1])]
    return []


def upward_arrows(root: Path) -> list[str]:
    """Imports of a room that is not below the file's own."""
    pairs = [(name, target) for name, targets in arrows(root).items() for target in sorted(targets)]
    return [
        f"{name} imports {target}"
        for name, target in pairs
        if room(name) != room(target) and LEVEL[room(name)] <= LEVEL[room(target)]
    ]


def shadowed_factories(root: Path) -> list[str]:
    """Files that would hide the function of their name: `strategies.fsdp` would be a module once imported."""
    return [name for name in strategies.__all__ if (root / "strategies" / f"{name}.py").exists()]


def too_long(root: Path) -> list[str]:
    """Files and functions with more lines than a reader can hold."""
    files = files_of(root).items()
    sizes = [f"{name}: {line_count(file)} lines" for name, file in files if line_count(file) > FILE]
    for name, file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = node.end_lineno - node.lineno + 1
                sizes += [f"{name}.{node.name}: {count} lines"] if count > FUNCTION else []
    return sizes


def too_long_tests(root: Path) -> list[str]:
    """Test files that promise too many things at once."""
    files = sorted(root.glob("tests/*.py"))
    return [f"{file.name}: {line_count(file)} lines" for file in files if line_count(file) > TEST_FILE]


def raised_value_errors(root: Path) -> list[str]:
    """Where a mistake would be taken for a bug: a user's is a `UserError`, our own invariant an `assert`."""
    return [
        f"{name}:{node.lineno}"
        for name, file in files_of(root).items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and node.exc and ast.unparse(node.exc).split("(")[0] == "ValueError"
    ]


RULES = (circles, upward_arrows, shadowed_factories, too_long, too_long_tests, raised_value_errors)


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_is_kept(rule):
    problems = rule(ROOT)
    assert not problems, "\n".join(problems)


IN_A_TABLE = "import_module(f'{__name__}.{FILES[name]}')"
IN_A_FUNCTION = "def f():\n    from strategies import b"
BY_A_CALL = "importlib.import_module('experiments.b')"
A_COMMAND = "from experiments.commands.b import main"
LONG = "\n".join(f"    x = {number}" for number in range(FUNCTION))
FAULTS: list[tuple[Callable, str, dict[str, str]]] = [
    (circles, "modules.a", {"modules/a.py": "import modules.b", "modules/b.py": "from modules import a"}),
    (circles, "modules.b", {"modules/a.py": "if X:\n import modules.b", "modules/b.py": "import modules.a"}),
    (circles, "modules.a", {"modules/__init__.py": IN_A_TABLE, "modules/a.py": "import modules"}),
    (upward_arrows, "strategies.b", {"modules/a.py": IN_A_FUNCTION, "strategies/b.py": ""}),
    (upward_arrows, "experiments.b", {"strategies/a.py": BY_A_CALL, "experiments/b.py": ""}),
    (upward_arrows, "commands.b", {"experiments/cli/a.py": A_COMMAND, "experiments/commands/b.py": ""}),
    (upward_arrows, "commands.b", {"experiments/html/a.py": A_COMMAND, "experiments/commands/b.py": ""}),
    (shadowed_factories, "fsdp", {"strategies/fsdp.py": ""}),
    (too_long, "modules.a: 401 lines", {"modules/a.py": "\n" * (FILE + 1)}),
    (too_long, "modules.a.long: 61 lines", {"modules/a.py": f"class A:\n  def long(self):\n{LONG}"}),
    (too_long_tests, "test_a.py: 501 lines", {"tests/test_a.py": "\n" * (TEST_FILE + 1)}),
    (raised_value_errors, "modules.a:2", {"modules/a.py": "def f():\n    raise ValueError('x')"}),
]


@pytest.mark.parametrize(("rule", "fault", "files"), FAULTS)
def test_the_rule_finds_a_planted_fault(tmp_path, rule, fault, files):
    for name, code in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code)
    (problem,) = rule(tmp_path)
    assert fault in problem


def test_every_room_has_its_place_and_no_import_is_relative():
    assert {path.name for path in (ROOT / "experiments").iterdir() if any(path.rglob("*.py"))} <= set(LEVEL)
    assert all("." not in outside(ROOT, folder) for folder in FOLDERS)


def test_the_program_names_commands_that_are_there():
    assert {command.file for command in COMMANDS.values()} <= set(files_of(ROOT))


def test_the_network_never_hears_of_files_rows_or_yaml_and_the_text_never_of_the_network():
    assert outside(ROOT, "modules") & {"datasets", "yaml", "csv", "tests"} == set()
    assert outside(ROOT, "datamodules") & {"deepspeed", "safetensors", "tests"} == set()
