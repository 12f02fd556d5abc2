"""Conversations as still others spell their turns, trees of OpenAssistant, and rows of another kind."""

import pytest

from datamodules.layouts.comparison import comparison
from datamodules.layouts.reader import RowReader
from datamodules.layouts.recognise import recognise
from datamodules.rendering.segments import BadRow

SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
TURNS = {
    "human and assistant in a turn": {"conversation": [{"human": "Hi", "assistant": "Yo"}]},
    "input and output in a turn": {"conversation": [{"input": "Hi", "output": "Yo"}]},
    "a key for who speaks": {"messages": [{"user": "Hi"}, {"assistant": "Yo"}]},
    "pairs": {"conversations": [["Hi", "Yo"]]},
    "bot": {"messages": [{"role": "human", "content": "Hi"}, {"role": "bot", "content": "Yo"}]},
    "capitals and text": {"messages": [{"role": "User", "text": "Hi"}, {"role": "ASSISTANT", "text": "Yo"}]},
    "speaker": {"dialog": [{"speaker": "human", "text": "Hi"}, {"speaker": "gpt", "text": "Yo"}]},
    "a column of another name": {"dialogue": SAID},
    "model": {"turns": [{"role": "user", "content": "Hi"}, {"role": "model", "content": "Yo"}]},
}


@pytest.mark.parametrize("name", TURNS)
def test_turns_are_read_however_they_are_spelt(rows, tmp_path, name):
    assert RowReader("instructions").read(TURNS[name]).row["messages"] == SAID
    seen = recognise(rows(tmp_path / "x.jsonl", [TURNS[name]]), "FILE")
    assert (seen.kind, seen.is_chat) == ("instructions", True)


def test_a_turn_with_a_system_text_begins_with_it():
    row = {"conversation": [{"system": "S", "input": "Hi", "output": "Yo"}]}
    expected = [{"role": "system", "content": "S"}, *SAID]
    assert RowReader("instructions").read(row).row["messages"] == expected


@pytest.mark.parametrize("pair", [("human", "assistant"), ("user", "assistant"), ("human", "bot")])
def test_a_row_of_what_a_person_and_a_machine_say_is_an_instruction(pair):
    layout = RowReader("instructions").read(dict(zip(pair, ("Hi", "Yo"), strict=True)))
    assert (layout.row["instruction"], layout.row["output"]) == ("Hi", "Yo")
    assert layout.name == " and ".join(pair)


def test_a_column_called_user_or_dialogue_alone_makes_no_conversation(rows, tmp_path):
    posts = [{"user": "anna", "text": "a post", "dialogue": "A: Hi. B: Yo.", "turns": ["Hi"]}]
    seen = recognise(rows(tmp_path / "x.jsonl", posts), "FILE")
    assert (seen.kind, seen.layout) == ("documents", "documents")


def node(role, text, *replies, **more):
    return {"role": role, "text": text, "replies": list(replies), **more}


TREE = {
    "message_tree_id": "1",
    "prompt": node(
        "prompter",
        "Hi",
        node("assistant", "No", rank=1),
        node("assistant", "Yo", node("prompter", "And?", node("assistant", "So.")), rank=0),
        node("assistant", "Gone", rank=0, deleted=True),
        node("assistant", "Unranked", rank=None),
    ),
}


def test_a_tree_of_openassistant_is_its_best_path_and_its_ranked_answers(rows, tmp_path):
    said = [("user", "Hi"), ("assistant", "Yo"), ("user", "And?"), ("assistant", "So.")]
    messages = [{"role": role, "content": text} for role, text in said]
    assert RowReader("instructions").read(TREE).row["messages"] == messages
    compared = comparison(RowReader("preferences").read(TREE).row)
    assert compared.replies == ["Yo", "No"]
    assert compared.ratings[0] > compared.ratings[1]
    assert recognise(rows(tmp_path / "x.jsonl", [TREE]), "FILE").kind == "instructions"


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        (
            "instructions",
            {"message_id": "a", "parent_id": None, "role": "prompter", "text": "Hi"},
            "one message of an OpenAssistant tree.*file of whole trees",
        ),
        ("instructions", {"text": "a"}, "a row of documents, which MixedCorpusData reads"),
        (
            "instructions",
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "preferences, which Pref",
        ),
        ("documents", {"instruction": "a", "output": "b"}, "instructions, which InstructionData reads"),
    ],
)
def test_a_row_of_another_kind_is_refused_with_what_it_is(kind, row, message):
    with pytest.raises(BadRow, match=message) as refusal:
        RowReader(kind).read(row)
    assert "\n" not in str(refusal.value)
