"""`trivium data deduplicate`: which rows go, how those that stay are written, and what is refused."""

import gzip
import json
from pathlib import Path

from experiments.cli.program import main
from tests.data_files import CHANGED, CHANGED_TWICE, CHINESE, WORDS, lines, refusal, texts


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
