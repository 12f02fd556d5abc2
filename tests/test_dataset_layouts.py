"""Rows as well-known datasets have them, columns from their cards: who says what, which reply is better, what
is a tie; or one line that names the setting."""

import json

import pytest

from datamodules import ChatTemplate, InstructionData, PreferenceData
from datamodules.errors import UserError
from datamodules.layouts.comparison import comparison
from datamodules.layouts.kinds import kind_of
from datamodules.layouts.reader import RowReader
from datamodules.rendering.segments import BadRow, DropRow
from experiments.cli.program import main

U, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
N = {"role": "assistant", "content": "No"}
U2, A2 = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
TOOL = {"name": "f", "parameters": {}}


def moss(human, answer, commands="None"):
    return {
        "Human": f"<|Human|>: {human}<eoh>\n",
        "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
        "Commands": f"<|Commands|>: {commands}<eoc>\n",
        "Tool Responses": "<|Results|>: None<eor>\n",
        "MOSS": f"<|MOSS|>: {answer}<eom>\n",
    }


PARTS = [
    {"role": "user", "parts": [{"text": "Hi"}]},
    {"role": "model", "parts": [{"text": "Y"}, {"text": "o"}]},
]
# dataset: row, what it says
INSTRUCTIONS = {
    "Gemini": (
        {"systemInstruction": {"role": "system", "parts": [{"text": "S"}]}, "contents": PARTS},
        {"messages": [U, A], "system": "S"},
    ),
    "Gemini's functions": (
        {
            "contents": [
                PARTS[0],
                {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"x": 1}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"r": 12}}}]},
                PARTS[1],
            ],
            "tools": [{"functionDeclarations": [TOOL]}],
        },
        {
            "messages": [
                U,
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                {"role": "tool", "name": "f", "content": '{"r": 12}'},
                A,
            ],
            "tools": [{"type": "function", "function": TOOL}],
        },
    ),
    "Bedrock": (
        {"system": [{"text": "S"}], "messages": [{"role": "user", "content": [{"text": "Hi"}]}, A]},
        {"system": "S"},
    ),
    "LLaMA-Factory": (
        {
            "instruction": "Hi",
            "input": "C",
            "output": "Yo",
            "system": "S",
            "history": [["q", "a"], ["q", "a"]],
        },
        {"messages": [U2, A2, U2, A2, {"role": "user", "content": "Hi\nC"}, A], "system": "S"},
    ),
    "LLaMA-Factory without earlier turns": (
        {"instruction": "Hi", "input": "", "output": "Yo", "history": []},
        {"instruction": "Hi", "output": "Yo"},
    ),
    "ChatGLM": ({"prompt": "Hi", "response": "Yo", "history": [["q", "a"]]}, {"messages": [U2, A2, U, A]}),
    "ShareGPT, system and tools": (
        {
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}],
            "system": "S",
            "tools": json.dumps([TOOL]),
        },
        {"messages": [U, A], "system": "S", "tools": json.dumps([TOOL])},
    ),
    "KTO, a reply to learn": (
        {"prompt": "Hi", "completion": "Yo", "label": True},
        {"instruction": "Hi", "output": "Yo"},
    ),
    "BELLE": (
        {"instruction": "Human:q\nAssistant:a\nHuman:Hi\nAssistant:", "input": "", "output": "Yo"},
        {"messages": [U2, A2, U, A]},
    ),
    "Firefly": ({"kind": "NLI", "input": "Hi", "target": "Yo"}, {"instruction": "Hi", "output": "Yo"}),
    "MOSS-003": (
        {
            "meta_instruction": "S",
            "num_turns": 2,
            "chat": {"turn_1": moss("q", "a"), "turn_2": moss("Hi", "Yo")},
        },
        {"messages": [U2, A2, U, A], "system": "S"},
    ),
    "MOSS-002": (
        {"prefix": "S", "plain_text": "[Human]: q<eoh> [MOSS]: a<eoa> [Human]: Hi<eoh> [MOSS]: Yo<eoa>"},
        {"messages": [U2, A2, U, A], "system": "S"},
    ),
    "COIG": (
        {"instruction": "", "conversations": [{"question": "Hi", "answer": "Yo"}]},
        {"messages": [U, A]},
    ),
    "UltraChat": ({"id": "0", "data": ["q", "a", "Hi", "Yo"]}, {"messages": [U2, A2, U, A]}),
    "LIMA": ({"conversations": ["Hi", "Yo"], "source": "x"}, {"messages": [U, A]}),
    "Capybara": (
        {"conversation": [{"input": "q", "output": "a"}, {"input": "Hi", "output": "Yo"}]},
        {"messages": [U2, A2, U, A]},
    ),
    "Magpie": (
        {
            "instruction": "Hi",
            "response": "Yo",
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}],
        },
        {"messages": [U, A]},
    ),
    "Orca": (
        {"system_prompt": "S", "question": "Hi", "response": "Yo"},
        {"instruction": "Hi", "output": "Yo", "system": "S"},
    ),
    "OpenChat": (
        {"items": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}], "system": "S"},
        {"messages": [U, A], "system": "S"},
    ),
    "xLAM": (
        {"query": "Hi", "answers": '[{"name": "f", "arguments": {"x": 1}}]', "tools": json.dumps([TOOL])},
        {"messages": [U, {"role": "assistant", "content": "", "tool_calls": [CALL]}]},
    ),
    "OpenR1, with replies that nobody rated": (
        {"problem": "Hi", "solution": "z", "messages": [U, A], "generations": ["x", "y"]},
        {"messages": [U, A]},
    ),
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_who_says_what_is_read_as_the_dataset_has_it(name):
    row, said = INSTRUCTIONS[name]
    assert kind_of(row) == "instructions"
    read = RowReader("instructions").read(row).row
    assert {column: read[column] for column in said} == said


def arena(winner):
    return {
        "model_a": "x",
        "model_b": "y",
        "winner": winner,
        "conversation_a": [U, N],
        "conversation_b": [U, A],
    }


SUMMARIES = {
    "info": {"post": "P", "title": "T", "subreddit": "r", "article": None},
    "summaries": [{"text": " No", "policy": "x"}, {"text": " Yo", "policy": "y"}],
}
SHP = {"history": "Hi", "human_ref_A": "No", "human_ref_B": "Yo", "score_A": 9, "score_B": 4}
PKU = {"prompt": "Hi", "response_0": "No", "response_1": "Yo", "safer_response_id": 0}
WEBGPT = {"question": {"dataset": "x", "full_text": "Hi"}, "answer_0": "Yo", "answer_1": "No"}
HELPSTEER = {"prompt": "Hi", "response_1": "No", "response_2": "Yo"}
SAID = [[{"text": "Yo", "pm_score": 4}, {"text": "No", "pm_score": 1}]]
# dataset: row, what it asks, ratings of Yo and of No
PREFERENCES = {
    "SHP": ({**SHP, "labels": 0}, "Hi", 1, 0),
    "SHP, A is better": ({**SHP, "human_ref_A": "Yo", "human_ref_B": "No", "labels": 1}, "Hi", 1, 0),
    "PKU-SafeRLHF": ({**PKU, "better_response_id": 1}, "Hi", 1, 0),
    "HelpSteer2": ({**HELPSTEER, "preference_strength": 2}, "Hi", 2, -2),
    "HelpSteer2, a tie": ({**HELPSTEER, "preference_strength": 0}, "Hi", 0, 0),
    "HelpSteer3": (
        {"context": [U], "response1": "Yo", "response2": "No", "overall_preference": -3},
        [U],
        3,
        -3,
    ),
    "WebGPT": ({**WEBGPT, "score_0": 0.5, "score_1": -0.5}, "Hi", 0.5, -0.5),
    "WebGPT, a tie": ({**WEBGPT, "score_0": 0.0, "score_1": 0.0}, "Hi", 0, 0),
    "an arena": (arena("model_b"), [U], 1, 0),
    "an arena, a tie": (arena("tie (bothbad)"), [U], 0, 0),
    "an arena of lists": (
        {"prompt": '["Hi"]', "response_a": '["No"]', "response_b": '["Yo"]'}
        | {"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
        [U],
        1,
        0,
    ),
    "Prometheus": (
        {"orig_instruction": "Hi", "orig_response_A": "Yo", "orig_response_B": "No", "orig_preference": "A"},
        "Hi",
        1,
        0,
    ),
    "summarize_from_feedback": (
        {**SUMMARIES, "choice": 1},
        "SUBREDDIT: r/r\n\nTITLE: T\n\nPOST: P\n\nTL;DR:",
        1,
        0,
    ),
    "Nectar": (
        {"prompt": "\n\nHuman: Hi\n\nAssistant: "}
        | {"answers": [{"answer": "No", "rank": 2.0}, {"answer": "Yo", "rank": 1.0}]},
        "Hi",
        -1,
        -2,
    ),
    "stack exchange": ({"question": "Hi", "answers": SAID[0]}, "Hi", 4, 1),
    "stack exchange, paired": ({"question": "Hi", "response_j": "Yo", "response_k": "No"}, "Hi", 1, 0),
    "ranks": ({"prompt": "Hi", "responses": ["No", "Yo"], "rank": [2, 1]}, "Hi", -1, -2),
    "Argilla": (
        {"system": "S", "input": "Hi", "chosen": "Yo", "rejected": "No", "generations": ["No", "Yo"]}
        | {"order": ["rejected", "chosen"], "rating": [7.0, 9.0]},
        "Hi",
        9,
        7,
    ),
    "Argilla, a tie": (
        {"input": "Hi", "chosen": "Yo", "rejected": "No", "generations": ["Yo", "No"], "rating": [9, 9]},
        "Hi",
        9,
        9,
    ),
    "Argilla, turns": (
        {"conversation": [{"input": "Hi", "output": "Z"}], "chosen": [U, A], "rejected": [U, N]}
        | {"rating_chosen": 5, "rating_rejected": 4},
        [U],
        5,
        4,
    ),
    "prompt said twice": ({"prompt": "Hi", "question": "Hi", "chosen": "Yo", "rejected": "No"}, "Hi", 1, 0),
    "the worse reply alone": ({"messages": [U, A], "rejected_response": "No"}, [U, A], 1, 0),
    "LLaMA-Factory": (
        {"instruction": "Hi", "history": [["q", "a"]], "chosen": "Yo", "rejected": "No"},
        [U2, A2, U],
        1,
        0,
    ),
    "Chinese HH": (
        {"context": [{"role": "human", "text": "Hi"}], "chosen": {"role": "assistant", "text": "Yo"}}
        | {"rejected": {"role": "assistant", "text": "No"}},
        [U],
        1,
        0,
    ),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_the_better_reply_is_the_datasets_and_a_tie_is_a_tie(name):
    row, asked, better, worse = PREFERENCES[name]
    assert kind_of(row) == "preferences"
    written = RowReader("preferences").read(row).row
    for ours in (written, RowReader("preferences").read(json.loads(json.dumps(written))).row):  # as converted
        found = comparison(ours)
        assert dict(zip(found.replies, found.ratings, strict=True)) == {"Yo": better, "No": worse}
        assert (found.prompt.get("messages") or found.prompt["instruction"]) == asked
        yo = found.replies.index("Yo")
        assert found.preferred[yo, 1 - yo] == (0.5 if better == worse else 1.0)


def test_columns_say_what_is_better():
    found = comparison(RowReader("preferences", {"better": "safer_response_id"}).read({**PKU}).row)
    assert found.replies[found.ratings.argmax()] == "No"


@pytest.mark.parametrize(
    ("kind", "row", "error", "message"),
    [
        (
            "preferences",
            {**PKU, "safer_response_id": None},
            BadRow,
            "nothing says which is .*better: …",
        ),
        (
            "preferences",
            {**PKU, "better_response_id": 7},
            BadRow,
            "`better_response_id` is 7, which is neither",
        ),
        ("preferences", {**SUMMARIES, "choice": 2}, BadRow, "`choice` is 2, which is none of the 2"),
        (
            "preferences",
            {"prompt": "Hi", "completion": "Yo", "label": True},
            BadRow,
            "one reply with its mark in `label`.*data convert FILE --kind preferences",
        ),
        (
            "preferences",
            {"prompt": "Hi", "response": "Yo", "helpfulness": 4, "verbosity": 2},
            BadRow,
            "one reply with its mark in `helpfulness`.*data convert FILE --kind preferences",
        ),
        (
            "preferences",
            {"prompt": "Hi", "completions": ["a", "b"], "labels": [True, False]},
            BadRow,
            r"`completions` do not say how good each is.*columns: \{replies: completions\}",
        ),
        (
            "instructions",
            {"prompt": "Hi", "completion": "No", "label": False},
            DropRow,
            "`label` is false: a reply that is not to be learned",
        ),
        ("instructions", {"messages": [U, N], "kto_tag": "false"}, DropRow, "`kto_tag` is false"),
        (
            "instructions",
            {"instruction": "Hi", "output": "Yo", "history": ["q"]},
            BadRow,
            "`history` is no list",
        ),
        (
            "instructions",
            {"chat": {"turn_1": moss("Hi", "Yo", "look around")}},
            BadRow,
            "`Commands` of a turn are no calls of tools: 'look around'",
        ),
        (
            "instructions",
            {"contents": [{"role": "user", "parts": [{"inlineData": {"data": "x"}}]}]},
            BadRow,
            "a part of `inlineData`: only text",
        ),
        (
            "instructions",
            {"message_id": "a", "parent_id": "b", "role": "prompter", "text": "Hi"},
            BadRow,
            "one message of an OpenAssistant tree.*data convert FILE --kind instructions",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_remedy(kind, row, error, message):
    with pytest.raises(error, match=message) as refusal:
        RowReader(kind).read(row)
    assert "\n" not in str(refusal.value)


def converted(tmp_path, rows, lines, kind):
    file = rows(tmp_path / "x.jsonl", lines)
    assert main(["data", "convert", file, "--kind", kind, "--output", str(tmp_path / kind)]) == 0
    text = (tmp_path / kind / "rows.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_convert_joins_the_replies_to_one_prompt(tmp_path, rows, tiny_tokenizer, capsys):
    lines = [
        {"prompt": "Hi", "response": "No", "helpfulness": 1},
        {"prompt": "Bye", "response": "Yo", "helpfulness": 3},
        {"prompt": "Hi", "response": "Yo", "helpfulness": 4},
    ]
    (row,) = converted(tmp_path, rows, lines, "preferences")
    assert row == {"instruction": "Hi", "replies": ["No", "Yo"], "ratings": [1.0, 4.0]}
    assert "left out: one reply to its prompt: nothing to compare (1 rows" in capsys.readouterr().out
    data = PreferenceData(str(tmp_path / "preferences/rows.jsonl"), tiny_tokenizer)
    data.setup()
    assert data.splits["train"][0]["ratings"].tolist() == [1, 4]


def test_convert_joins_the_messages_of_a_tree(tmp_path, rows):
    node = {"message_tree_id": "1", "lang": "en", "deleted": False}
    lines = [
        {**node, "message_id": "5", "parent_id": "4", "role": "assistant", "text": "a", "rank": 0},
        {**node, "message_id": "1", "parent_id": None, "role": "prompter", "text": "Hi", "rank": None},
        {**node, "message_id": "2", "parent_id": "1", "role": "assistant", "text": "No", "rank": 1},
        {**node, "message_id": "3", "parent_id": "1", "role": "assistant", "text": "Yo", "rank": 0},
        {**node, "message_id": "4", "parent_id": "3", "role": "prompter", "text": "q", "rank": None},
    ]
    assert converted(tmp_path, rows, lines, "instructions") == [{"messages": [U, A, U2, A2]}]
    (row,) = converted(tmp_path, rows, lines, "preferences")
    assert (row["instruction"], row["replies"]) == ("Hi", ["Yo", "No"])
    assert row["ratings"][0] > row["ratings"][1]


def test_what_is_marked_as_bad_is_left_out_and_counted(tmp_path, rows, tiny_tokenizer):
    lines = [{"prompt": "Hi", "completion": text, "label": text == "Yo"} for text in ("Yo", "No")]
    file = rows(tmp_path / "x.jsonl", lines)
    with pytest.raises(UserError, match=r"1 .*`label` is false.*x\.jsonl:2"):
        InstructionData(file, tiny_tokenizer).setup()
    data = InstructionData(file, tiny_tokenizer, max_dropped=0.5)
    data.setup()
    assert [data.tokenizer.decode(data.splits["train"][0]["input_ids"])[-6:]] == ["Yo</s>"]


@pytest.mark.parametrize("name", ["Gemini", "LLaMA-Factory", "MOSS-003", "UltraChat"])
def test_only_the_replies_are_trained(tmp_path, rows, tiny_tokenizer, name):
    row, said = INSTRUCTIONS[name]
    file = rows(tmp_path / "x.jsonl", [row])
    data = InstructionData(file, tiny_tokenizer, template=ChatTemplate(), global_batch_size=1)
    data.setup()
    (batch,) = data.predict_dataloader() if data.val else [data.batch(data.splits["train"], [0])]
    trained = data.tokenizer.decode(batch["input_ids"][0][batch["labels"][0] != -100])
    replies = [turn["content"] for turn in said["messages"] if turn["role"] == "assistant"]
    assert trained.replace("</s>", "") == "".join(replies)
