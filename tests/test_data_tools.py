"""`trivium data deduplicate`, `contamination` and `inspect`: what they find, keep and refuse."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli.program import main

# 14 different words have 10 runs of five. With the last one changed, 9 runs are common of 11: 0.818; with the
# last two, 8 of 12: 0.667. The same holds for 14 different characters.
WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
CHANGED = WORDS.replace("fourteen", "fifteen")
CHANGED_TWICE = WORDS.replace("thirteen fourteen", "fifteen sixteen")
CHINESE = "春夏秋冬东南西北金木水火土日"


def texts(path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def corpus(tmp_path, rows):
    """Writes texts as rows of a file in a folder `in`."""
    (tmp_path / "in").mkdir()

    def write(name, *found):
        return rows(tmp_path / "in" / name, [{"text": text} for text in found])

    return write


def refusal(capsys, *command) -> str:
    """The one line that a command is refused with."""
    assert main(["data", *map(str, command)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1, told
    return told[0]


# What a text is made of


def test_units_are_words_signs_and_characters_of_scripts_without_spaces():
    from experiments.data.shingles import joined, units

    assert units("Don’t PANIC, (friend)!") == ["don't", "panic", "friend"]
    assert units("96 - 78 = ?") == ["96", "-", "78", "="]  # 96 + 78 is another sum
    assert units("# ======\nx == 1") == ["#", "======", "x", "==", "1"]
    assert units("我用iPhone拍照。") == ["我", "用", "iphone", "拍", "照"]
    assert units("ＡＢＣ　１２") == ["abc", "12"]
    assert units("हिन्दी में") == ["हिन्दी", "में"]
    assert joined(["我", "用", "iphone", "拍", "照"]) == "我用 iphone 拍照"


def test_jaccard_of_planted_pairs():
    from experiments.data.shingles import jaccard, shingles

    assert jaccard(shingles(WORDS, 5), shingles(CHANGED, 5)) == pytest.approx(9 / 11)
    assert jaccard(shingles(WORDS, 5), shingles(CHANGED_TWICE, 5)) == pytest.approx(8 / 12)
    assert jaccard(shingles(CHINESE, 5), shingles(CHINESE[:-1] + "月", 5)) == pytest.approx(9 / 11)
    assert jaccard(shingles("too short", 5), shingles("Too short!", 5)) == 1
    assert jaccard(shingles("", 5), shingles("", 5)) == 0


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "a", "other": "b"}, "a"),
        ({"instruction": "a", "input": "", "output": "b", "task": "c"}, "a\nb"),
        ({"instruction": "a", "replies": ["b", "c"], "ratings": [1, 2]}, "a\nb\nc"),
        ({"instruction": "a", "reply_prefix": "b"}, "a\nb"),
        ({"chosen": "a", "rejected": "b"}, "a\nb"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a\nb"),
        ({"messages": [{"role": "user", "content": "a"}], "replies": ["b", "c"]}, "a\nb\nc"),
        ({"system": "a", "instruction": "b", "steps": ["c", "d"], "output": "e"}, "a\nb\nc\nd\ne"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, "a"),
        (
            {"messages": [{"role": "user", "content": "a"}], "replies": ["b", "c"], "ratings": [1, 2]},
            "a\nb\nc",
        ),
        ({"system": "s", "messages": [{"role": "user", "content": "a"}], "text": "raw"}, "s\na"),
        ({"instruction": "a", "steps": ["b", "c"], "output": "d"}, "a\nb\nc\nd"),
        ({"text": None}, None),
        ({"question": "a"}, None),
    ],
)
def test_the_text_of_every_kind_of_row(row, text):
    from experiments.data.texts import text_of

    assert text_of(row) == text


def test_field_names_the_column(corpus):
    from experiments.data.texts import text_of

    assert text_of({"text": "a", "body": "b"}, "body") == "b"
    assert text_of({"text": "a"}, "body") is None


# Duplicates


def test_duplicates_go_and_the_first_occurrence_stays(corpus, tmp_path, capsys):
    first = corpus("first.jsonl", WORDS, "Something else.", CHANGED_TWICE, "SOMETHING   else.\n", CHINESE)
    second = corpus("second.jsonl", CHANGED, "something else.", CHINESE[:-1] + "月", "new")
    before = [Path(file).read_bytes() for file in (first, second)]
    out = tmp_path / "out"

    assert main(["data", "deduplicate", first, second, "--output", str(out)]) == 0

    assert texts(out / "first.jsonl") == [WORDS, "Something else.", CHANGED_TWICE, CHINESE]
    assert texts(out / "second.jsonl") == ["new"]
    assert lines(out / "duplicates.jsonl") == [
        entry(first, 4, "exact", first, 2, 1.0),
        entry(second, 1, "near", first, 1, 0.8182),
        entry(second, 2, "exact", first, 2, 1.0),
        entry(second, 3, "near", first, 5, 0.8182),
    ]
    assert sorted(file.name for file in out.iterdir()) == ["duplicates.jsonl", "first.jsonl", "second.jsonl"]
    assert [Path(file).read_bytes() for file in (first, second)] == before
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["first.jsonl", "5", "0", "1", "0", "0", "4", "80.0%"] in table
    assert ["second.jsonl", "4", "0", "1", "2", "3", "1", "25.0%"] in table


def entry(file, row, kind, other, other_row, similarity):
    return {
        "file": file,
        "row": row,
        "kind": kind,
        "duplicate_of_file": other,
        "duplicate_of_row": other_row,
        "similarity": similarity,
    }


def test_the_order_of_the_files_decides_what_stays(corpus, tmp_path):
    first, second = corpus("first.jsonl", "same"), corpus("second.jsonl", "same")
    assert main(["data", "deduplicate", second, first, "--output", str(tmp_path / "out")]) == 0
    assert texts(tmp_path / "out" / "first.jsonl") == []
    assert texts(tmp_path / "out" / "second.jsonl") == ["same"]


def test_threshold_ngram_and_exact_only_are_followed(corpus, tmp_path):
    file = corpus("rows.jsonl", WORDS, CHANGED, CHANGED_TWICE, WORDS.upper())

    def left(*options):
        assert main(["data", "deduplicate", file, "--output", str(tmp_path / "out"), *options]) == 0
        return texts(tmp_path / "out" / "rows.jsonl")

    assert left() == [WORDS, CHANGED_TWICE]
    assert left("--threshold", "0.82") == [WORDS, CHANGED, CHANGED_TWICE]
    assert left("--threshold", "0.6") == [WORDS]
    assert left("--exact-only") == [WORDS, CHANGED, CHANGED_TWICE]
    assert left("--ngram", "1") == [WORDS, CHANGED_TWICE]  # 13 of 15 words, 0.867; 12 of 16, 0.75
    assert left("--threshold", "1") == [WORDS, CHANGED, CHANGED_TWICE]


def test_a_row_is_compared_with_rows_that_stay():
    """A resembles B and B resembles C, but A does not resemble C: only B goes."""
    from experiments.data.duplicates import Duplicates

    a, b, c = WORDS, CHANGED, CHANGED.replace("one ", "first ")  # b and c: 9 of 11; a and c: 8 of 12
    seen = Duplicates(0.8)
    assert [found and found.kind for found in map(seen.add, (a, b, c))] == [None, "near", None]
    assert Duplicates(0.8).add(b) is None


def test_sums_that_differ_in_a_sign_are_not_duplicates(corpus, tmp_path):
    file = corpus("sums.jsonl", "12 + 7 = ?", "12 - 7 = ?", "12 +  7 = ?", "12 + 7 = !")
    assert main(["data", "deduplicate", file, "--output", str(tmp_path / "out")]) == 0
    assert texts(tmp_path / "out" / "sums.jsonl") == ["12 + 7 = ?", "12 - 7 = ?"]


def test_every_planted_near_duplicate_is_found_among_many_rows():
    """At the threshold the index alone would miss one pair in 20 000, and without verification it would let
    through pairs of 0.6."""
    import random

    from experiments.data.duplicates import Duplicates

    rng, seen = random.Random(0), Duplicates(0.8)
    rows = [[f"w{rng.randrange(50_000)}" for _ in range(40)] for _ in range(400)]
    assert all(seen.add(" ".join(row)) is None for row in rows)
    for number, row in enumerate(rows):  # 36 runs of five: 4 lost of 36, 32 / 40 = 0.8; 5 lost, 31 / 41
        found = seen.add(" ".join([*row[:-4], "a", "b", "c", "d"]))
        assert found is not None
        assert (found.kind, found.number, found.similarity) == ("near", number, 0.8)
        assert seen.add(" ".join([*row[:-5], "v", f"x{number}", f"y{number}", f"z{number}", "q"])) is None


def test_rows_stay_byte_for_byte_and_blank_lines_and_bad_rows_go(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_bytes(
        b'{"text":  "caf\\u00e9", "n": 1.50}\n\nnot json\n{"other": 1}\n'
        b'{"text": "caf\xc3\xa9"}\n{"text": "last"}'
    )
    assert main(["data", "deduplicate", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out")]) == 0
    kept = (tmp_path / "out" / "in.jsonl").read_bytes()
    assert kept == b'{"text":  "caf\\u00e9", "n": 1.50}\n{"text": "last"}\n'
    assert lines(tmp_path / "out" / "duplicates.jsonl")[0]["row"] == 5
    told = capsys.readouterr().err
    assert "2 rows left out" in told
    assert "in.jsonl:3 is not JSON" in told
    assert "in.jsonl:4 has no column known to hold text (it has `other`; name one with --field)" in told


def test_compressed_files_arrays_parquet_and_texts_are_deduplicated(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": text, "n": n} for n, text in enumerate(("packed", "packed", "also packed"))]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.json").write_text(json.dumps([{"text": "array"}, {"text": "packed"}, {"text": "more"}]))
    table = pa.table({"text": ["table", "array", "Table", "rest"], "n": pa.array([1, 2, 3, 4], pa.int8())})
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=2)
    (tmp_path / "d.txt").write_text("rest")
    (tmp_path / "e.txt").write_text("Alone.\n")
    files = [str(tmp_path / name) for name in ("a.jsonl.gz", "b.json", "c.parquet", "d.txt", "e.txt")]

    assert main(["data", "deduplicate", *files, "--output", str(tmp_path / "out")]) == 0

    with gzip.open(tmp_path / "out" / "a.jsonl.gz", "rt") as file:
        assert [json.loads(line) for line in file] == [rows[0], rows[2]]
    assert json.loads((tmp_path / "out" / "b.json").read_text()) == [{"text": "array"}, {"text": "more"}]
    left = pq.read_table(tmp_path / "out" / "c.parquet")
    assert left.to_pylist() == [{"text": "table", "n": 1}, {"text": "rest", "n": 4}]
    assert left.schema == table.schema
    assert (tmp_path / "out" / "d.txt").read_bytes() == b""
    assert (tmp_path / "out" / "e.txt").read_bytes() == b"Alone.\n"


def test_a_file_that_was_cut_off_is_refused_and_not_taken_for_a_whole_one(corpus, tmp_path, capsys):
    lines = "".join(json.dumps({"text": f"row {n} {n * 7919 % 1009}"}) + "\n" for n in range(500))
    cut, whole = tmp_path / "cut.jsonl.gz", corpus("whole.jsonl", "row")
    packed = gzip.compress(lines.encode())
    cut.write_bytes(packed[: len(packed) // 2])
    for command in (
        ("deduplicate", cut, "--output", tmp_path / "out"),
        ("contamination", cut, "--against", whole),
        ("contamination", whole, "--against", cut),
    ):
        assert "cannot be unpacked, nor can what follows be read" in refusal(capsys, *command)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_when_a_later_file_fails(corpus, tmp_path, capsys):
    first, second = corpus("first.jsonl", "a"), corpus("second.jsonl")
    out = tmp_path / "out"
    assert "second.jsonl is empty" in refusal(capsys, "deduplicate", first, second, "--output", out)
    assert not out.exists()
    out.mkdir()
    (out / "first.jsonl").write_text("from before")
    refusal(capsys, "deduplicate", first, second, "--output", out)
    assert [(file.name, file.read_text()) for file in out.iterdir()] == [("first.jsonl", "from before")]


def test_deduplicate_refuses(corpus, tmp_path, capsys, rows):
    file = corpus("rows.jsonl", "a", "b")
    out, folder = tmp_path / "out", tmp_path / "in"

    def told(*command):
        return refusal(capsys, "deduplicate", *command)

    assert "would overwrite" in told(file, "--output", folder)
    assert "missing.jsonl does not exist" in told(folder / "missing.jsonl", "--output", out)
    assert "rows.jsonl have one name" in told(file, rows(tmp_path / "rows.jsonl", [{}]), "--output", out)
    assert "is a file" in told(file, "--output", file)
    for threshold in ("0", "1.01", "-1", "nan"):
        assert "above 0 and at most 1" in told(file, "--output", out, f"--threshold={threshold}")
    assert "--ngram is 0" in told(file, "--output", out, "--ngram", "0")
    assert "has no column `body` (it has `text`)" in told(file, "--output", out, "--field", "body")
    (tmp_path / "link").symlink_to(folder)
    assert "would overwrite" in told(file, "--output", tmp_path / "link")
    assert texts(folder / "rows.jsonl") == ["a", "b"]
    assert not out.exists()


# Contamination


def test_a_planted_ngram_is_found_at_its_row(corpus, tmp_path, capsys):
    gram = "the quick brown fox jumps over the lazy dog and runs away quickly"  # 13 words
    train = corpus("train.jsonl", "nothing here", f"He said: The QUICK, brown{gram[15:]}; indeed.", gram[:-8])
    evaluation = corpus(
        "eval.jsonl", "No. " * 20, f"What follows {gram}?", "short", f"Not {gram[:-8]} slowly."
    )
    hits = tmp_path / "hits.jsonl"

    assert main(["data", "contamination", train, "--against", evaluation, "--output", str(hits)]) == 0

    assert lines(hits) == [
        {
            "evaluation": f"{evaluation}:2",
            "training": f"{train}:2",
            "ngram": gram,
            "whole": False,
            "training_rows": 1,
        }
    ]
    out = capsys.readouterr().out
    assert re.search(r"4 +0 +1 +1 +25\.0%", out)
    assert gram in out


def test_chinese_is_compared_by_characters(corpus, tmp_path):
    from experiments.data.contamination import contamination

    gram = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉"  # 20 characters
    train = corpus("train.jsonl", f"前面{gram}后面", gram[1:])
    evaluation = corpus("eval.jsonl", f"请问：{gram}？", f"请问：{gram[1:]}以及其他许多别的事情。")
    (summary,), found = contamination([train], [evaluation])
    assert [(row.where, [hit.training for hit in row.hits]) for row in found] == [
        (f"{evaluation}:1", [f"{train}:1"])
    ]
    assert found[0].hits[0].ngram == gram
    assert (summary.rows, summary.contaminated) == (2, 1)
    _, found = contamination([train], [evaluation], characters=19)
    assert [row.found for row in found] == [2, 2]


def test_a_short_evaluation_row_is_found_only_whole(corpus):
    from experiments.data.contamination import contamination

    train = corpus("train.jsonl", "What is two plus two, they asked.", "what is TWO plus two")
    evaluation = corpus("eval.jsonl", "What is two plus two?", "What is two?")
    (summary,), found = contamination([train], [evaluation])
    assert [(row.where, row.hits[0].training, row.hits[0].whole) for row in found] == [
        (f"{evaluation}:1", f"{train}:2", True)
    ]
    assert summary.short == 2


def test_each_side_has_its_column(tmp_path, rows):
    from experiments.data.contamination import contamination

    train = rows(tmp_path / "train.jsonl", [{"body": WORDS, "text": "no"}])
    evaluation = rows(tmp_path / "eval.jsonl", [{"question": WORDS}])
    _, found = contamination([train], [evaluation], field="body", against_field="question")
    assert len(found) == 1


def test_contamination_refuses(corpus, tmp_path, capsys):
    file, other = corpus("train.jsonl", "a"), corpus("eval.jsonl", "b")
    empty = corpus("empty.jsonl")

    def told(*command):
        return refusal(capsys, "contamination", *command)

    assert "--against: " in (line := told(file, "--against", tmp_path / "no.jsonl"))
    assert "no.jsonl does not exist" in line
    assert "empty.jsonl is empty" in told(file, "--against", empty)
    assert "both to train on and with --against" in told(file, "--against", file)
    assert "--ngram is 0" in told(file, "--against", other, "--ngram", "0")
    assert "would overwrite" in told(file, "--against", other, "--output", other)
    assert texts(tmp_path / "in" / "eval.jsonl") == ["b"]


# The page


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


# The command


def test_help_teaches_without_torch():
    code = "import sys, experiments.cli.program as c; c.main(['data', '-h']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *usage, imported = done.stdout.splitlines()
    assert imported == "False"
    assert {line.split()[0] for line in usage if line.startswith("  ")} == {
        *("inspect", "deduplicate", "contamination", "receipt"),
    }


def test_an_unknown_command_is_told_in_one_line(capsys):
    assert "no command `shuffle`" in refusal(capsys, "shuffle")


def test_a_missing_library_names_the_extra(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    file = corpus("rows.jsonl", "a")
    told = refusal(capsys, "deduplicate", file, "--output", tmp_path / "out")
    assert told == "trivium: this needs rensa: pip install 'trivium[data]'"
    assert main(["data", "deduplicate", file, "--output", str(tmp_path / "out"), "--exact-only"]) == 0
