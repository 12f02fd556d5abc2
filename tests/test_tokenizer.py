"""The tokenizer command: every text comes back exactly, numbers are read digit by digit, pad is never eos."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from experiments.cli.user_errors import UserError
from experiments.commands.tokenizer import main, train

ENGLISH = (
    "The film is a quiet story about a teacher and her film about the quiet teachers. It's what they'd film. "
)
CHINESE = "这家酒店的服务很好，房间也很干净。这本书的内容很好，孩子很喜欢。"
TEXTS = [
    "Hello, world! It's a film – they'd don't",
    "你好，世界！这家酒店 very good 很好。",
    "🎬👩‍👩‍👧 émigré naïve Łódź עברית हिन्दी",
    "def f(x):\n\treturn  x ** 2\r\n\n\n    # two  spaces  \n",
    "  leading, trailing and\u3000wide\u2028odd\x00 spaces \t ",
    "40 + 30 = 70. 7 + 8 = 15. 1,234.56",
    "",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("text")
    rows = [{"text": CHINESE + str(n)} for n in range(100)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "chinese.jsonl").write_text(lines, encoding="utf-8")
    (folder / "english.txt").write_text("\n\n".join(ENGLISH + str(n) for n in range(100)), encoding="utf-8")
    return [str(folder / "english.txt"), str(folder / "chinese.jsonl")]


@pytest.fixture(scope="module")
def tokenizer(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = str(tmp_path_factory.mktemp("tokenizer"))
    train(files, 400, folder)
    loaded: Any = AutoTokenizer.from_pretrained(folder)
    return loaded


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_back_exactly_what_was_encoded(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_pad_bos_and_eos_are_three_tokens_and_encoding_adds_none(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert min(tokenizer.encode("a film")) > 2
    assert tokenizer.encode("</s>") == [2]
    assert len(tokenizer) <= 400


def test_numbers_are_read_digit_by_digit(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [tokenizer.decode([token]) for token in tokenizer.encode("100 11")] == [
        "1",
        "0",
        "0",
        " ",
        "1",
        "1",
    ]


def test_frequent_words_of_both_languages_become_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer.encode(" film")) == 1
    assert len(tokenizer.encode("很")) == 1


def test_training_again_gives_the_same_tokenizer(files: list[str], tmp_path: Path) -> None:
    for folder in ("a", "b"):
        train(files, 400, str(tmp_path / folder))
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_a_large_file_does_not_crowd_out_a_small_one(tmp_path: Path) -> None:
    large, small = tmp_path / "large.txt", tmp_path / "small.txt"
    words = [f"{a}{b}{c}{d}" for a in "bcdf" for b in "aeio" for c in "ghjk" for d in "aeio"]
    large.write_text("\n\n".join(" ".join(words) for _ in range(40)), encoding="utf-8")
    small.write_text("zyx " * 100, encoding="utf-8")
    kept = train([str(large), str(small)], 270, str(tmp_path / "fair"), max_bytes=2_000)
    crowded = train([str(large), str(small)], 270, str(tmp_path / "unfair"), max_bytes=2_000_000)
    assert len(kept.encode("zyx")) < len(crowded.encode("zyx")) == 3


def test_chat_template_renders_the_prompt_and_masks_the_reply(tokenizer: PreTrainedTokenizerFast) -> None:
    user = [{"role": "user", "content": "What is 1 + 1?"}]
    chat = [{"role": "system", "content": "Be brief."}, *user, {"role": "assistant", "content": "2"}]
    prompt = "<s>### Instruction:\nWhat is 1 + 1?\n\n### Response:\n"
    assert tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True) == prompt
    assert (
        tokenizer.apply_chat_template(chat, tokenize=False)
        == f"<s>Be brief.\n\n{prompt.removeprefix('<s>')}2</s>"
    )
    encoded: Any = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    trained = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    assert [token for token, kept in trained if kept] == [*tokenizer.encode("2"), 2]


def test_the_command_saves_what_transformers_loads(files: list[str], tmp_path: Path) -> None:
    assert main(["--vocab-size", "300", "--output", str(tmp_path / "saved"), *files]) == 0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "saved")) == 300


def test_another_tokenizer_is_not_replaced_unasked(files: list[str], tmp_path: Path) -> None:
    line = ["--vocab-size", "300", "--output", str(tmp_path / "saved"), *files]
    assert main(line) == main(line) == 0  # the same one is no loss
    before = (tmp_path / "saved" / "tokenizer.json").read_bytes()
    with pytest.raises(UserError, match="holds another tokenizer, which models may have been trained with"):
        main(["--vocab-size", "310", *line[2:]])
    with pytest.raises(UserError, match="`overwrite=True` in Python"):
        train(files, 310, str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "tokenizer.json").read_bytes() == before
    assert main(["--vocab-size", "310", *line[2:], "--overwrite"]) == 0
    assert (tmp_path / "saved" / "tokenizer.json").read_bytes() != before


def test_every_kind_of_file_is_read_as_the_data_modules_read_it(tmp_path: Path) -> None:
    """The same text in each: a JSON array, by lines, in capitals, packed, as CSV, nested, or plain."""
    text = "the film is good and the story is fun. " * 20 + "End."
    row = json.dumps({"text": text})
    (tmp_path / "array.json").write_text(f"[{row}, {row}]")
    (tmp_path / "lines.ndjson").write_text(f"{row}\n{row}\n")
    (tmp_path / "CAPITALS.JSONL").write_text("\ufeff" + f"{row}\n{row}\n")
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(f"{row}\n{row}\n".encode()))
    (tmp_path / "table.csv").write_text(f"text\n{text}\n{text}\n")
    (tmp_path / "plain.txt").write_text(f"{text}\n\n{text}")
    (tmp_path / "nested.jsonl").write_text(json.dumps({"meta": {"body": text}}) + "\n")
    saved = {}
    for path in sorted(tmp_path.iterdir()):
        field = "meta.body" if path.name == "nested.jsonl" else "text"
        out = str(tmp_path / "out" / path.name)
        saved[path.name] = train([str(path)], 290, out, field=field).get_vocab()
    assert "Ġfilm" in saved.pop("plain.txt")  # with line ends of its own
    assert len(saved) == 6
    assert len({json.dumps(vocabulary, sort_keys=True) for vocabulary in saved.values()}) == 1


def test_wrong_inputs_each_give_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    wrong = {
        "missing.txt": "missing.txt does not exist",
        "empty.txt": "empty.txt is empty",
        "rows.jsonl": "rows.jsonl:2: no text under 'text'; say with --field",
        "latin.txt": "latin.txt, row 1 is not UTF-8",
    }
    for name, message in wrong.items():
        with pytest.raises(ValueError, match=message) as refused:
            train([str(tmp_path / name)], 300, str(tmp_path / "out"))
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="at least 259"):
        train([str(tmp_path / "rows.jsonl")], 258, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
