"""The data page is true: its commands and YAML are accepted, its rows are read, its pictures can be drawn."""

import json
import re
import shlex
import sys
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from experiments.cli.program import main

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "experiments" / "docs"
PAGE = (DOCS / "data.md").read_text(encoding="utf-8")


def code(language: str) -> list[str]:
    """The page's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in code("sh") for line in block.splitlines()]
DOCUMENTS = [yaml.safe_load(block) for block in code("yaml")]
BLOCKS = [d for d in DOCUMENTS if "data" in d]
ROWS = [[json.loads(line) for line in block.splitlines()] for block in code("json")]


@pytest.mark.parametrize(
    "line", ["data inspect a --tokeniser x", "data deduplicate a --output b --near-only", "plan --mixtures a"]
)
def test_a_wrong_option_would_be_noticed(only_parse, line):
    with pytest.raises(SystemExit, match="2"):
        sys.exit(main(line.split()))


def test_the_page_names_every_data_command():
    from experiments.data.program import COMMANDS as KNOWN

    assert {shlex.split(line)[2] for line in COMMANDS if line.startswith("trivium data ")} == set(KNOWN)


def accepted(document: dict):
    """The data module of a YAML document; the model beside it, if any, is checked too."""
    from datamodules.base import TextDataModule
    from experiments.cli.config_errors import ConfigParser
    from modules.stage import Stage

    parser = ConfigParser()
    parser.add_subclass_arguments(TextDataModule, "data")
    parser.add_subclass_arguments(Stage, "model", required=False)
    return parser.instantiate_classes(parser.parse_object(document)).data


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["data"]["class_path"])
def test_every_data_block_is_accepted_by_its_data_module(block, tiny_tokenizer):
    document = deepcopy(block)
    document["data"]["init_args"]["tokenizer"] = tiny_tokenizer
    data = accepted(document)
    assert f"datamodules.{type(data).__name__}" == block["data"]["class_path"]
    assert data.config_errors(1) == []
    document["data"]["init_args"]["no_such_option"] = 1
    with pytest.raises(ValueError, match="no_such_option"):
        accepted(document)


def test_no_block_of_the_page_is_passed_over():
    assert len(BLOCKS) + 1 == len(DOCUMENTS)
    assert len(COMMANDS) == PAGE.count("\ntrivium ") == 10
    assert PAGE.count("\n```") == 2 * (len(code("sh")) + len(code("yaml")) + len(code("json")))


def test_the_mixture_file_is_a_mixture(tmp_path, capsys):
    (document,) = [d for d in DOCUMENTS if "data" not in d]
    file = tmp_path / "mixture.yaml"
    file.write_text(yaml.safe_dump(document))
    assert main(["plan", "--mixture", str(file), "--tokens", "1.4e12", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["sources"]) == {"web", "code", "wikipedia"}


def test_every_row_of_the_page_is_read(tiny_tokenizer):
    from datamodules.layouts.comparison import comparison
    from datamodules.rendering.chat_template import ChatTemplate
    from datamodules.rendering.templates import InstructionTemplate
    from datamodules.rendering.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(tiny_tokenizer)
    instructions, chats, preferences = ROWS
    for template, rows in ((InstructionTemplate(), instructions), (ChatTemplate(), chats)):
        for row in rows:
            assert any(segment.trained for segment in template.segments(row, 0, tokenizer))
    assert len(preferences) == 7
    for row in preferences:
        prompt, replies, ratings, preferred = comparison(row)
        assert ratings[0] == max(ratings) > min(ratings)
        assert preferred.shape == (len(replies), len(replies))
        assert ChatTemplate().prompt(prompt, 0, tokenizer)


def test_the_table_of_policies_gives_the_defaults():
    from datamodules import Policies

    table = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \| .*? \| .*? \|$", PAGE, re.MULTILINE))
    assert table == asdict(Policies())


def test_the_script_draws_the_pictures_that_the_page_shows(tmp_path):
    from experiments.docs.pictures import main as draw

    drawn = {path.name for path in draw(str(tmp_path))}
    assert drawn == {path.name for path in tmp_path.iterdir()}
    assert drawn == set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGE))
    pages = ("report", "strategies", "scaling", "abilities", "serve", "sweeps", "rank", "rank_report")
    others = {f"{page}.png" for page in pages} | {path.name for path in DOCS.glob("sweep-*.png")}
    assert drawn == {path.name for path in DOCS.glob("*.png")} - others
    assert all((DOCS / name).stat().st_size < 150_000 for name in drawn)


def test_links_of_the_page_lead_to_its_sections():
    titles = re.findall("^## (.*)$", PAGE, re.MULTILINE)
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) == {title.lower().replace(" ", "-") for title in titles}
