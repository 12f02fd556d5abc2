"""`trivium data retrieve`: rows that teach to answer from passages, and what they are made of."""

import json
from random import Random

import pytest

from experiments.cli.program import main
from experiments.retrieval.gold import Gold, holds
from experiments.retrieval.index import BM25
from experiments.retrieval.passages import Passage
from experiments.retrieval.prompts import NEUTRAL, RESTRICTIONS, TRAINED, language_of, with_passages
from tests.data_files import lines, refusal

CITIES = ["Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Quito", "Sofia", "Minsk"]
LANDS = ["France", "Italy", "Norway", "Peru", "Egypt", "India", "Japan", "Ecuador", "Bulgaria", "Belarus"]


@pytest.fixture
def material(tmp_path, rows):
    """Arguments that name ten questions, one without an answer in the documents, and the documents."""
    facts = [{"text": f"The capital of {land} is {city}."} for land, city in zip(LANDS, CITIES, strict=True)]
    asked = [
        {"question": f"What is the capital of {land}?", "answer": city}
        for land, city in zip(LANDS, CITIES, strict=True)
    ]
    asked[4] = {"question": "法国的首都是哪里？", "answer": "巴黎"}
    facts.append({"text": "法国的首都是巴黎。"})
    asked.append({"question": "What is the capital of Chad?", "answer": "N'Djamena"})
    documents = rows(tmp_path / "facts.jsonl", facts)
    return [rows(tmp_path / "questions.jsonl", asked), "--documents", documents]


@pytest.fixture
def made(material, tmp_path):
    """Runs the command with options; gives the rows."""

    def run(*options):
        output = tmp_path / "reading.jsonl"
        assert main(["data", "retrieve", *material, "--output", str(output), *options]) == 0
        return lines(output)

    return run


def test_a_row_has_its_gold_passage_among_distractors_and_the_answer(made, capsys):
    read = made("--restrict-share", "0", "--distractors", "3")
    assert "dropped" in capsys.readouterr().out
    answers = [*CITIES[:4], "巴黎", *CITIES[5:]]
    assert [row["output"] for row in read] == answers
    assert {row["kind"] for row in read} == {"free"}
    assert [row["language"] for row in read] == ["en"] * 4 + ["zh"] + ["en"] * 5
    places = set()
    for row, answer in zip(read, answers, strict=True):
        *passages, question = row["instruction"].split("\n\n")
        texts = [passage.split("\n")[1] for passage in passages]
        assert len(set(texts)) == 4
        (place,) = [place for place, text in enumerate(texts) if answer in text]
        places.add(place)
        assert question.startswith(NEUTRAL[row["language"]])
    assert len(places) > 1


def test_shares_are_kept_and_a_row_without_its_passage_says_unknown(made):
    read = made("--restrict-share", "0.6", "--unanswerable-share", "0.5")
    kinds = [row["kind"] for row in read]
    assert {kind: kinds.count(kind) for kind in kinds} == {"free": 4, "restricted": 3, "unknown": 3}
    for row in read:
        words = [restriction.wording for restriction in RESTRICTIONS[row["language"]][:TRAINED]]
        assert any(word in row["instruction"] for word in words) == (row["kind"] != "free")
        assert row["instruction"].count("Passage ") + row["instruction"].count("资料") >= 3
        passages = row["instruction"].rpartition("\n\n")[0]
        if row["kind"] == "unknown":
            assert row["output"] == {"en": "unknown", "zh": "不知道"}[row["language"]]
            assert sum(f"is {city}" in passages for city in CITIES) == 3
        else:
            assert row["output"] in passages


def test_the_seed_decides(made):
    first = made("--seed", "1")
    assert made("--seed", "1") == first
    assert made("--seed", "2") != first


def test_counts_are_told_as_json_too(made, capsys):
    made("--json", "--restrict-share", "0.5", "--unanswerable-share", "0.4")
    out = capsys.readouterr().out
    counts = json.loads(out)
    assert {**counts, "output": ""} == {
        **{"output": "", "rows": 10, "free": 5, "restricted": 3, "unknown": 2, "dropped": 1}
    }


def test_instruction_data_reads_the_rows(made, tiny_tokenizer, tmp_path):
    from datamodules import InstructionData

    made()
    data = InstructionData(
        str(tmp_path / "reading.jsonl"), tiny_tokenizer, group_by=["kind", "language"], global_batch_size=2
    )
    data.setup("fit")
    assert data.receipts[0].rows == data.receipts[0].kept == 10


def test_instructions_with_an_input_are_questions_too(tmp_path, rows):
    facts = rows(tmp_path / "facts.jsonl", [{"text": "Rome is in Italy."}, {"text": "Oslo is in Norway."}])
    asked = rows(
        tmp_path / "asked.jsonl",
        [{"instruction": "Where is it?", "input": "Oslo", "output": "Norway."}],
    )
    output = tmp_path / "out.jsonl"
    assert main(["data", "retrieve", asked, "--documents", facts, "--output", str(output)]) == 0
    (row,) = lines(output)
    assert "Oslo is in Norway." in row["instruction"]
    assert row["instruction"].endswith("Question: Where is it?\nOslo")


def test_bad_input_is_refused_in_a_line_and_nothing_is_written(material, tmp_path, rows, capsys):
    questions, documents = material[0], material[2]
    output = str(tmp_path / "out.jsonl")

    def refused(*options, asked=questions, texts=documents):
        return refusal(capsys, "retrieve", asked, "--documents", texts, "--output", output, *options)

    assert "--restrict-share is 1.5: give a share" in refused("--restrict-share", "1.5")
    assert "--distractors is -1" in refused("--distractors", "-1")
    assert "nowhere.jsonl does not exist" in refused(asked="nowhere.jsonl")
    assert "no documents found" in refused(texts=str(tmp_path / "nothing"))
    blank = rows(tmp_path / "blank.jsonl", [{"question": "Who?", "answer": " "}])
    assert "blank.jsonl:1 has no text in `answer` (it has `question`, `answer`)" in refused(asked=blank)
    capsys.readouterr()
    apart = rows(tmp_path / "apart.jsonl", [{"question": "Who?", "answer": "Nobody here"}])
    command = ["data", "retrieve", apart, "--documents", documents, "--output", output]
    assert main(command) == 2
    assert "of the 1 answers in" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
    command[-1] = apart
    assert main(command) == 2
    assert "is the file that is read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "answer", "is_held"),
    [
        ("The capital is\n  PARIS, of course", "Paris.", True),
        ("a part of it", "art", False),
        ("in 1913", "13", False),
        ("在1913年", "1913", True),
        ("首都是巴黎。", "巴黎", True),
        ("ＰＡＲＩＳ", "paris", True),
        ("anything", "...", False),
        ("costs 3.5 (net)", "3.5 (net)", True),
    ],
)
def test_an_answer_is_held_word_for_word(text, answer, is_held):
    assert holds(text, answer) == is_held


def test_distractors_never_hold_the_answer_and_are_filled_up_at_random():
    passages = [Passage(text, text) for text in ("tea is green", "tea is hot", "milk", "milk", "salt")]
    gold = Gold(passages, BM25(passages))
    assert gold.find("What is tea?", "hot").text == "tea is hot"
    assert gold.find("What is tea?", "salt") is None  # no hit: it shares no word with the question
    distractors = gold.distractors("What is tea?", "hot", 3, Random(0))
    assert distractors[0] == "tea is green"
    assert sorted(distractors[1:]) == ["milk", "salt"]
    assert len(gold.distractors("What is tea?", "hot", 9, Random(0))) == 3  # there are no more


def test_a_prompt_shows_passages_wording_and_question():
    assert with_passages("Why?", ["One. ", "Two."], None, "en") == (
        "Passage 1:\nOne.\n\nPassage 2:\nTwo.\n\nAnswer the question.\nQuestion: Why?"
    )
    wording = RESTRICTIONS["zh"][0].wording
    assert with_passages("为什么？", ["一。"], wording, "zh") == f"资料1：\n一。\n\n{wording}\n问题：为什么？"


def test_every_restriction_says_what_to_reply_and_two_are_held_out():
    for restrictions in RESTRICTIONS.values():
        assert len({restriction.wording for restriction in restrictions}) == len(restrictions) == TRAINED + 2
        assert all(restriction.unknown in restriction.wording for restriction in restrictions)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What does 茶 mean?", "en"),
        ("Python 的 len 函数是什么？", "zh"),
        ("茶", "zh"),
        ("12?", "en"),
        ("", "en"),
    ],
)
def test_the_language_of_a_question(text, language):
    assert language_of(text) == language
