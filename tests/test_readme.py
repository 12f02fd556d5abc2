"""The README and its neighbours are true: links lead somewhere, the tree is the tree, commands exist."""

import re
from pathlib import Path

import pytest
import yaml

from experiments.cli.parser import ParseOnly, parse
from experiments.cli.program import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGS = sorted((ROOT / "experiments" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_leads_to_a_file(page):
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_tree_names_every_folder_of_code_and_no_other():
    tree = re.search(r"^```\n(modules/ .*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert tree
    named, folder = set(), ""
    for line in tree[1].splitlines():
        names = re.findall(r"[a-z]+/", line.split("  ")[0] if line[0] != " " else line.strip().split("  ")[0])
        folder = names[0] if line[0] != " " else folder
        named |= {folder} if line[0] != " " else {folder + name for name in names}
    there = {f"{top}/" for top in ("modules", "datamodules", "strategies", "experiments", "tests")}
    for top in sorted(there - {"tests/"}):
        inner = (path for path in (ROOT / top).iterdir() if path.is_dir() and path.name != "__pycache__")
        there |= {f"{top}{path.name}/" for path in inner}
    assert named == there


def test_every_command_is_in_the_table_of_what_you_want():
    table = README.split("## What you want")[1].split("## Where things are")[0]
    assert [name for name in COMMANDS if name != "test" and not re.search(rf"\b{name}\b", table)] == []


def test_the_chinese_readme_has_the_same_python_and_the_same_commands():
    chinese = (ROOT / "experiments" / "docs" / "index.zh.md").read_text(encoding="utf-8")
    for language, indent in (("python", ""), ("", "trivium ")):
        pattern = rf"^```{language}\n({indent}.*?)^```$"
        found = [re.findall(pattern, text, re.MULTILINE | re.DOTALL) for text in (chinese, README)]
        assert found[0] == found[1] != []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_parsed(config):
    parsed = parse(["fit", "--config", str(config)], ParseOnly).config["fit"]
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    assert parsed["run"] == document["run"]
    assert parsed["model"]["class_path"] == document["model"]["class_path"]
