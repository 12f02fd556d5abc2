"""Who may know whom: `experiments` imports the other three folders; those never import each other or it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("modules", "datamodules", "strategies")


def imported_folders(file: Path) -> set[str]:
    """The top-level names that a file imports anywhere, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("a relative import" if node.level else str(node.module).split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                names.add(str(argument.value).split(".")[0])
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_knows_neither_the_others_nor_experiments(layer):
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    forbidden = {*LAYERS, "experiments", "tests", "a relative import"} - {layer}
    found = {str(file.relative_to(ROOT)): imported_folders(file) & forbidden for file in files}
    assert {file: names for file, names in found.items() if names} == {}


def test_experiments_brings_the_three_together():
    names = set().union(*(imported_folders(file) for file in (ROOT / "experiments").rglob("*.py")))
    assert set(LAYERS) - {"strategies"} <= names  # YAML names strategies; Python need not import them
    assert "tests" not in names


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f():\n    from modules.rl import gae", {"modules"}),
        ("import datamodules.sampling.step_sampler as p, json", {"datamodules", "json"}),
        ("from . import x", {"a relative import"}),
        ("import importlib\nimportlib.import_module('strategies.factory')", {"importlib", "strategies"}),
    ],
)
def test_the_walk_sees_every_way_to_import(tmp_path, code, found):
    (tmp_path / "x.py").write_text(code)
    assert imported_folders(tmp_path / "x.py") == found


def test_the_network_never_hears_of_files_rows_or_yaml_and_the_text_never_of_the_network():
    modules = set().union(*(imported_folders(file) for file in (ROOT / "modules").rglob("*.py")))
    data = set().union(*(imported_folders(file) for file in (ROOT / "datamodules").rglob("*.py")))
    assert modules & {"datasets", "yaml", "csv"} == set()
    assert data & {"deepspeed", "safetensors"} == set()
