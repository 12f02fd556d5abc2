"""A row as a text, and a text as words, signs and n-grams that are compared."""

import pytest

from tests.data_files import CHANGED, CHANGED_TWICE, CHINESE, WORDS


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
