"""`trivium data inspect`: the page about a file nobody has seen, and what it counts."""

import json
import re

import pytest

from experiments.cli.program import main
from tests.data_files import CHANGED, WORDS, refusal


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    """The page of a file that has one of everything, and the file."""
    folder = tmp_path_factory.mktemp("inspect")
    rows = [
        {"text": "<script>alert(1)</script> & \x1b[31mred \u202eturned"},
        *(
            {"text": text}
            for text in [WORDS, WORDS.upper(), f"{WORDS}\n", CHANGED, "这家酒店很好，下次还会再来。"]
        ),
        {"text": None, "tags": []},
        {"text": "", "tags": ["a"]},
        {"text": 7},
    ]
    lines = [json.dumps(row) for row in rows] + ["[1]"] + ["{<b>"] * 24
    (folder / "unseen.jsonl").write_text("\n".join(lines))
    assert main(["data", "inspect", str(folder / "unseen.jsonl"), "--output", str(folder / "page.html")]) == 0
    return (folder / "page.html").read_text("utf-8"), str(folder / "unseen.jsonl")


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(page):
    html, _ = page
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; \\u001b[31mred \\u202eturned" in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src""" in html
    assert not re.search(r'(?:src|href)="(?!#)|url\((?!#)|@import', html)
    assert "http://" not in html
    assert "https://" not in html


def test_the_page_names_bad_rows_and_stops_at_twenty(page):
    html, file = page
    assert f"<b>{file}:10</b> is not a JSON object" in html
    assert f"<b>{file}:29</b> is not JSON" in html
    assert f"<b>{file}:30</b>" not in html
    assert "The first 20 of 25." in html
    assert "{&lt;b&gt;" not in html


def test_the_survey_counts_what_is_there(page):
    from experiments.data.survey import survey

    found = survey(page[1])
    assert (found.rows, found.bad, found.texts, found.blank) == (34, 25, 8, 1)
    assert (found.exact, found.near) == (2, 1)
    text, tags = found.columns["text"], found.columns["tags"]
    assert (dict(text.kinds), text.null, text.empty) == ({"text": 7, "whole number": 1}, 1, 1)
    assert (tags.present, tags.empty) == (2, 1)
    assert [(count, sample.where) for count, sample in found.repeated] == [(3, f"{page[1]}:2")]
    assert found.languages["Chinese"] == 1
    assert sorted(found.characters)[:3] == [0, 1, 14]
    reasons = {sample.why.split(",")[0]: sample.where for sample in found.samples}
    assert reasons["first"] == f"{page[1]}:1"
    assert found.textless == f"{page[1]}:7 has null in `text`"


def test_random_samples_follow_the_seed(corpus):
    from experiments.data.survey import survey

    file = corpus("rows.jsonl", *(f"row {number}" for number in range(200)))

    def chosen(seed):
        return [sample.where for sample in survey(file, seed=seed).samples if "random" in sample.why]

    assert len(chosen(1)) == 5
    assert chosen(1) == chosen(1) != chosen(2)


def test_tokens_are_counted_with_a_tokenizer(corpus, tiny_tokenizer):
    from datamodules.rendering.tokenizer import load_tokenizer, tokenize
    from experiments.data.survey import survey

    file = corpus("rows.jsonl", "the film is good", "电影很好")
    found = survey(file, tokenizer=tiny_tokenizer)
    tokenizer = load_tokenizer(tiny_tokenizer)
    assert list(found.tokens) == [len(tokenize(tokenizer, text)) for text in ("the film is good", "电影很好")]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("很一般。性价比很差。", "Chinese"),
        ("电影很好", "Chinese"),
        ("Called when we stop or break at a line.", "English"),
        ("The film is great.", "English"),
        ("Das ist ein guter Film.", "German"),
        ("これは良い映画です", "Japanese"),
        ("12345 + 678", "no language"),
        ("ok", "unsure"),
    ],
)
def test_languages_of_short_texts(text, language):
    from experiments.data.languages import Languages

    assert Languages().of(text) == language


def test_a_row_of_an_unknown_kind_shows_all_its_texts(tmp_path, rows):
    from experiments.data.survey import survey

    found = survey(rows(tmp_path / "x.jsonl", [{"question": "a?", "choices": ["b", "c"], "n": 3}, {"n": 1}]))
    assert (found.guessed, found.texts) == (1, 1)
    assert list(found.characters) == [len("a?\nb\nc")]
    assert "has no column known to hold text (it has `n`" in found.textless


def test_a_file_of_bad_rows_alone_is_shown(tmp_path):
    (tmp_path / "bad.jsonl").write_text("x\ny\n")
    page = tmp_path / "page.html"
    assert main(["data", "inspect", str(tmp_path / "bad.jsonl"), "--output", str(page)]) == 0
    html = page.read_text("utf-8")
    assert "No row can be read." in html
    assert f"<b>{tmp_path}/bad.jsonl:2</b> is not JSON" in html
    assert "Columns" not in html


def test_inspect_refuses(corpus, tmp_path, capsys):
    file = corpus("rows.jsonl", "a")
    (tmp_path / "blank.jsonl").write_text("\n\n")

    def told(*command):
        return refusal(capsys, "inspect", *command)

    assert "missing.jsonl does not exist" in told(tmp_path / "missing.jsonl")
    assert "empty.jsonl is empty" in told(corpus("empty.jsonl"))
    assert "blank.jsonl has no rows" in told(tmp_path / "blank.jsonl", "--output", tmp_path / "page.html")
    assert "is the file that is read" in told(file, "--output", file)
    assert "there is no folder" in told(file, "--output", tmp_path / "no" / "page.html")
    assert not (tmp_path / "page.html").exists()
