"""The page on serving is true: its commands and its YAML are accepted, its Python runs, its row is read."""

import json
import re
import shlex
from pathlib import Path

import openai
import pytest
import yaml

from datamodules import ChatTemplate
from datamodules.rendering.tokenizer import load_tokenizer
from experiments.cli.program import main
from experiments.cli.user_errors import UserError
from experiments.web import hosted as hosting
from experiments.web.hosted import Hosted, check, load
from experiments.web.serve import parser
from tests.serving import random_model, serving

FILE = Path(__file__).resolve().parent.parent / "experiments" / "docs" / "serve.md"
PAGE = FILE.read_text(encoding="utf-8")


def code(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


LINES = [line for block in code("sh") for line in block.splitlines()]


@pytest.mark.parametrize("line", LINES)
def test_every_command_of_the_page_is_accepted(line):
    program, name, *argv = shlex.split(line)
    assert (program, name) == ("trivium", "serve")
    assert parser().parse_args(argv).directories


def test_no_command_of_the_page_is_passed_over_and_its_links_lead_somewhere():
    assert len(LINES) == PAGE.count("\ntrivium serve") == 2
    targets = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert targets
    assert all((FILE.parent / target).exists() for target in targets)


def test_the_row_of_the_page_is_read_by_its_yaml(tiny_tokenizer):
    (row,), (document,) = map(json.loads, code("json")), map(yaml.safe_load, code("yaml"))
    template = document["data"]["init_args"]["template"]
    assert template == f"datamodules.{ChatTemplate.__name__}"
    segments = ChatTemplate().segments(row, 0, load_tokenizer(tiny_tokenizer))
    assert [segment.text for segment in segments if segment.trained][0] == "It is."


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tiny_tokenizer, tiny_config):
    return random_model(tmp_path_factory.mktemp("documented") / "tiny", tiny_tokenizer, tiny_config)


def test_the_python_of_the_page_prints_a_reply(directory, monkeypatch, capsys):
    (model,) = load(*check([directory], None), None).models.values()
    with serving(Hosted({"sft": model}, {}, {}, None), "--max-new-tokens", "8") as url:
        (program,) = code("python")
        assert "http://127.0.0.1:8000" in program
        exec(program.replace("http://127.0.0.1:8000", url), {"openai": openai})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["nowhere"], "serve: nowhere is no directory and no model in the local hub cache"),
        (["{dir}", "{dir}"], "serve: two models are named `tiny`: name them apart, as other={dir}"),
        (["{dir}", "--reference", "nowhere"], "serve: nowhere is no directory"),
        (["{dir}", "--together", "0"], "--together is 0: give 1 or more"),
        (["{dir}", "--waiting", "-1"], "--waiting is -1: give 0 or more"),
        (["{dir}", "--max-new-tokens", "0"], "--max-new-tokens is 0: give 1 or more"),
        (["{dir}", "--save", "/"], "--save / is a folder: give a file of JSON lines"),
        (["{dir}", "--save", "nowhere/x.jsonl"], "--save nowhere/x.jsonl: its folder does not exist"),
        (["{dir}", "--restrict"], "--restrict is about documents: name them with --documents"),
        (["{dir}", "--port", "99999"], "--port is 99999: give 0 to 65535"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line_before_anything_is_loaded(
    argv, line, directory, monkeypatch, capsys
):
    def loaded(*_):
        raise UserError("loaded")

    monkeypatch.setattr(hosting, "load", loaded)
    assert main(["serve", *(part.format(dir=directory) for part in argv)]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("trivium: " + line.format(dir=directory))
