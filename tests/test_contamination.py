"""`trivium data contamination`: which evaluation rows are found in training files, and what is refused."""

import re

from experiments.cli.program import main
from tests.data_files import WORDS, lines, refusal, texts


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
    assert [row.training_rows for row in found] == [2, 2]


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
