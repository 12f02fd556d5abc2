"""Documents become passages: all of a text, in pieces of bounded length, each with its place and heading."""

import gzip
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.cli.user_errors import UserError
from experiments.retrieval.cutting import Section, pieces, sections
from experiments.retrieval.passages import Passage, read_documents, read_passages

ENGLISH = "The red fox sleeps. The blue bird sings! Does the green frog jump? "
CHINESE = "红狐狸睡觉了。蓝色的鸟在唱歌！绿色的青蛙会跳吗？"


def cut(text, length, heading=""):
    return [piece.text for piece in pieces(Section(heading, 1, text, 1), length)]


@pytest.fixture
def write(tmp_path):
    """Writes a file below a folder `docs`, which it returns the path of."""

    def make(name, content):
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return make


def refused(*paths, **options):
    """The one line that documents are refused with."""
    with pytest.raises(UserError) as refusal:
        read_documents(paths, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_short_document_is_one_passage_with_its_place(write):
    file = write("a.txt", "\n\nOne line.\n\nAnother.\n")
    assert read_passages([file]) == [Passage("One line.\n\nAnother.", f"{file}:3")]


def test_a_paragraph_that_fits_is_never_cut():
    first, second = "A" * 30 + ".", "B" * 20 + ". " + "B" * 20 + "."
    assert cut(f"{first}\n\n{second}", 60) == [first, second]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (ENGLISH, ["The red fox sleeps. The blue bird sings!", "Does the green frog jump?"]),
        (CHINESE, ["红狐狸睡觉了。", "蓝色的鸟在唱歌！", "绿色的青蛙会跳吗？"]),  # 3 bytes a character
    ],
)
def test_a_long_paragraph_is_cut_where_a_sentence_ends(text, sentences):
    assert cut(text, 44) == sentences


def test_a_closing_quote_stays_with_its_sentence():
    assert cut("他说：“走吧。”她没有回答他。", 33) == ["他说：“走吧。”", "她没有回答他。"]


def test_a_word_without_end_is_cut_between_characters_and_nothing_is_lost():
    assert cut("好" * 50, 40) == ["好" * 13, "好" * 13, "好" * 13, "好" * 11]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab。.!？ \n，é文𝄞#", max_size=300), st.integers(40, 80))
def test_every_character_of_a_text_is_in_one_piece_at_its_line(text, length):
    lines = text.split("\n")
    found = list(pieces(Section("", 1, text, 1), length))
    assert "".join("".join(piece.text for piece in found).split()) == "".join(text.split())
    for piece in found:
        assert 0 < len(piece.text.encode()) <= length
        assert piece.text.split("\n")[0].strip() in lines[piece.line - 1]
    starts = [piece.line for piece in found]
    assert starts == sorted(starts)


MARKDOWN = """Before.

# Guide

## Tea #1
Green leaves.

```sh
# a comment
```

Coffee
======
Brown beans.
"""


def test_a_heading_is_on_top_of_every_passage_under_it(write):
    file = write("guide.md", MARKDOWN)
    assert read_passages([file]) == [
        ("Before.", f"{file}:1"),
        ("# Guide\n## Tea #1\nGreen leaves.\n\n```sh\n# a comment\n```", f"{file}:3"),
        ("Coffee\n======\nBrown beans.", f"{file}:12"),
    ]
    long = write("long.md", "# Tea\n\n" + "Leaves are picked by hand. " * 4)
    assert read_passages([long], length=64) == [
        ("# Tea\nLeaves are picked by hand. Leaves are picked by hand.", f"{long}:1"),
        ("# Tea\nLeaves are picked by hand. Leaves are picked by hand.", f"{long}:3"),
    ]


@pytest.mark.parametrize(
    ("text", "headings"),
    [
        ("# One\n# Two\n", ["# One\n# Two"]),
        ("text\nmore\n---\nrest", [""]),  # the end of a paragraph is no heading
        ("#hashtag\n####### seven", [""]),
        ("```\n# in\n~~~\n# in\n```\n# out\nx", ["", "# out"]),
    ],
)
def test_only_headings_are_taken_for_headings(text, headings):
    assert [section.heading for section in sections(text)] == headings


def test_a_text_file_has_no_headings(write):
    assert read_passages([write("a.txt", "# no heading\n\ntext")])[0].text == "# no heading\n\ntext"


def test_rows_are_documents_under_their_titles(write):
    rows = [{"title": "茶", "text": "绿茶。"}, {"text": "Coffee."}, {"title": None, "text": "Milk."}]
    file = write("rows.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    texts = ["茶\n绿茶。", "Coffee.", "Milk."]
    assert read_passages([file]) == [(text, f"{file}:{n}") for n, text in enumerate(texts, 1)]
    packed = write("rows.jsonl.gz", gzip.compress(b'{"text": "packed"}\n'))
    assert read_passages([packed]) == [("packed", f"{packed}:1")]


def test_a_folder_is_read_in_order_and_each_file_once(write, tmp_path):
    b, a = write("b.txt", "b"), write("inner/a.md", "a")
    write(".git/hidden.txt", "hidden")
    write("picture.png", b"\x89PNG\0")
    write("binary.txt", b"\x00\x01")
    write("settings.json", '{\n "no": "rows"\n}')
    os.symlink(b, tmp_path / "docs" / "link.txt")
    folder = str(tmp_path / "docs")
    documents = read_documents([folder, b, f"{folder}/**/*.md"])
    assert [passage.source for passage in documents.passages] == [f"{b}:1", f"{a}:1"]
    assert documents.files == 2
    assert [line.removeprefix(folder)[1:].split()[0].strip(",:") for line in documents.left_out] == [
        *("binary.txt", "picture.png", "settings.json:1")
    ]


def test_what_cannot_be_read_is_refused_in_a_line(write, tmp_path):
    assert "no documents found: nowhere does not exist" in refused("nowhere")
    (tmp_path / "empty").mkdir()
    assert "no documents found in" in refused(str(tmp_path / "empty"))
    assert "is no document: give .json" in refused(write("a.pdf", b"%PDF"))
    assert "NUL bytes" in refused(write("a.txt", b"a\0b"))
    assert "is not UTF-8" in refused(write("b.txt", b"caf\xe9"))
    assert "is empty" in refused(write("c.txt", ""))
    assert "an empty index" in refused(write("d.txt", " \n\n"))
    assert "rows.jsonl:2 has no column `text` (it has `body`)" in refused(
        write("rows.jsonl", '{"text": "a"}\n{"body": "b"}\n')
    )
    assert "has no text in `text`" in refused(write("null.jsonl", '{"text": null}\n'))
    assert "hold no sentence" in refused(write("e.txt", "x"), length=39)
    write("only/a.png", "x")
    assert "1 files are left out, the first" in refused(str(tmp_path / "docs" / "only"))
