"""The page on retrieval is true: its commands are accepted, its rows are read, its links lead somewhere."""

import json
import re
import shlex
from pathlib import Path

import pytest

from experiments.cli.program import main
from experiments.cli.user_errors import UserError
from experiments.commands import chat_documents
from experiments.data import retrieve
from experiments.retrieval.prompts import RESTRICTIONS, with_passages

PAGE_FILE = Path(__file__).resolve().parent.parent / "experiments" / "docs" / "retrieval.md"
PAGE = PAGE_FILE.read_text(encoding="utf-8")


def code(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


LINES = [line for block in code("sh") for line in block.splitlines()]


@pytest.mark.parametrize("line", LINES)
def test_every_command_of_the_page_is_accepted(line, monkeypatch, capsys):
    """Up to the first file that it reads."""

    def accepted(*_):
        raise UserError("accepted")

    monkeypatch.setattr("experiments.commands.chat.check_path", lambda *_: None)
    monkeypatch.setattr(chat_documents, "open_library", accepted)
    monkeypatch.setattr(retrieve, "read_questions", accepted)
    program, *argv = shlex.split(line)
    assert program == "trivium"
    assert main(argv) == 2
    assert capsys.readouterr().err == "trivium: accepted\n"


def test_no_command_of_the_page_is_passed_over():
    assert len(LINES) == PAGE.count("\ntrivium chat") + PAGE.count("\ntrivium data") == 6


def test_every_row_of_the_page_is_read(tmp_path):
    (block,) = code("json")
    (tmp_path / "rows.jsonl").write_text(block, encoding="utf-8")
    rows = [tuple(json.loads(line).values()) for line in block.splitlines()]
    assert retrieve.read_questions(str(tmp_path / "rows.jsonl")) == rows


def test_the_prompt_of_the_page_is_what_a_model_is_given():
    (prompt,) = re.findall(r"^```\n(Passage 1:\n.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    passage, question = re.fullmatch(r"Passage 1:\n(.*)\n\n.*\nQuestion: (.*)", prompt, re.DOTALL).groups()
    assert with_passages(question, [passage], RESTRICTIONS["en"][0].wording, "en") == prompt


def test_links_of_the_page_lead_somewhere():
    titles = re.findall("^## (.*)$", PAGE, re.MULTILINE)
    targets = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert {t[1:] for t in targets if t[0] == "#"} == {title.lower().replace(" ", "-") for title in titles}
    assert all((PAGE_FILE.parent / target).exists() for target in targets if target[0] != "#")
