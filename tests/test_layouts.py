"""Rows as others lay them out: read as what they say, or refused in one line that names the setting."""

import io
import json

import pytest
from rich.console import Console

from datamodules import ChatTemplate, InstructionData, MixedCorpusData, PreferenceData, PromptData, Source
from datamodules.errors import UserError
from datamodules.layouts.comparison import comparison
from datamodules.layouts.reader import RowReader
from datamodules.layouts.recognise import recognise
from datamodules.receipt import render
from datamodules.rendering.segments import BadRow

ASKED, SAID = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
CHAT = [ASKED, SAID]
GPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]
HH = "\n\nHuman: Hi\n\nAssistant:"
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
PAIR = {"instruction": "Q", "output": "R"}

# layout: row, what it is told as, the columns that templates read
INSTRUCTIONS = {
    "Alpaca": ({**PAIR, "input": "C"}, "Alpaca", {**PAIR, "input": "C"}),
    "Dolly": (
        {"instruction": "Q", "context": "C", "response": "R", "category": "x"},
        "Dolly: context → input, response → output",
        {**PAIR, "input": "C"},
    ),
    "context beside output": ({**PAIR, "context": "C"}, "Alpaca: context → input", {**PAIR, "input": "C"}),
    "an empty input beside a context": (
        {**PAIR, "input": "", "context": "C"},
        "Alpaca: context → input",
        {**PAIR, "input": "C"},
    ),
    "query": (
        {"query": "Q", "response": "R"},
        "query and response: query → instruction, response → output",
        PAIR,
    ),
    "question": (
        {"question": "Q", "answer": "R"},
        "question and answer: question → instruction, answer → output",
        PAIR,
    ),
    "SQuAD": (
        {"question": "Q", "context": "C", "answers": {"text": ["R"], "answer_start": [3]}},
        "question and answers: question → instruction, context → input, answers → output",
        {**PAIR, "input": "C"},
    ),
    "completion": (
        {"prompt": "Q", "completion": "R"},
        "prompt and completion: prompt → instruction, completion → output",
        PAIR,
    ),
    "problem": (
        {"problem": "Q", "solution": "R", "answer": "7"},
        "problem and solution: problem → instruction, solution → output",
        PAIR,
    ),
    "OpenOrca": (
        {"system_prompt": "S", "question": "Q", "response": "R"},
        "question and response: question → instruction, system_prompt → system, response → output",
        {**PAIR, "system": "S"},
    ),
    "input and output": (
        {"input": "Q", "output": "R"},
        "input and output: input → instruction",
        PAIR,
    ),
    "FLAN": (
        {"inputs": "Q", "targets": "R"},
        "inputs and targets: inputs → instruction, targets → output",
        PAIR,
    ),
    "ShareGPT": ({"conversations": GPT}, "ShareGPT: conversations → messages", {"messages": CHAT}),
    "ShareGPT's roles": (
        {"messages": [{"role": "human", "content": "Hi"}, {"role": "GPT", "content": "Yo"}]},
        "ShareGPT: their roles → user, assistant",
        {"messages": CHAT},
    ),
    "ShareGPT with tools": (
        {
            "conversations": [
                GPT[0],
                {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "12"},
                GPT[1],
            ],
            "tools": '[{"name": "f"}]',
        },
        "ShareGPT: conversations → messages",
        {
            "messages": [
                ASKED,
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                {"role": "tool", "content": "12"},
                SAID,
            ],
            "tools": '[{"name": "f"}]',
        },
    ),
    "OpenAI messages": ({"messages": CHAT}, "OpenAI messages", {"messages": CHAT}),
    "OpenAI functions": (
        {"messages": CHAT, "functions": [{"name": "f"}]},
        "OpenAI messages: functions → tools",
        {"messages": CHAT, "tools": [{"type": "function", "function": {"name": "f"}}]},
    ),
    "OpenAI's earlier calls": (
        {"messages": [ASKED, {"role": "assistant", "content": None, "function_call": CALL["function"]}]},
        "ShareGPT: their roles → user, assistant",
        {"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
    ),
    "prompt as messages and a completion": (
        {"prompt": [ASKED], "completion": [SAID]},
        "messages: prompt → messages, completion → messages",
        {"messages": CHAT},
    ),
    "messages and a response": (
        {"messages": [ASKED], "response": "Yo"},
        "OpenAI messages: response → messages",
        {"messages": CHAT},
    ),
    "transcript and response": (
        {"prompt": HH, "response": " Yo"},
        "HH-RLHF transcript: prompt → instruction, response → output",
        {"instruction": "Hi", "output": "Yo"},
    ),
    "UltraChat": ({"prompt": "Hi", "messages": CHAT}, "OpenAI messages", {"messages": CHAT}),
    "messages as JSON text": (
        {"messages": json.dumps(CHAT)},
        "OpenAI messages",
        {"messages": CHAT},
    ),
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions_are_read_and_told(name):
    row, told, expected = INSTRUCTIONS[name]
    layout = RowReader("instructions").read(row)
    assert layout.told == told
    assert {column: layout.row[column] for column in expected} == expected


COMPLETIONS = [{"response": "a", "overall_score": 8.5}, {"response": "b", "overall_score": "7"}]
CHOSEN, REJECTED = [ASKED, SAID], [ASKED, {"role": "assistant", "content": "No"}]
PREFERENCES = {
    "texts": ({"instruction": "Hi", "chosen": "Yo", "rejected": "No"}, ["Yo", "No"], "Hi", [1, 0]),
    "prompt": ({"prompt": "Hi", "chosen": "Yo", "rejected": "No"}, ["Yo", "No"], "Hi", [1, 0]),
    "conversations": ({"chosen": CHOSEN, "rejected": REJECTED}, ["Yo", "No"], [ASKED], [1, 0]),
    "prompt inside": (
        {"prompt": "Hi", "chosen": CHOSEN, "rejected": REJECTED},
        ["Yo", "No"],
        [ASKED],
        [1, 0],
    ),
    "prompt as messages": (
        {"prompt": [ASKED], "chosen": CHOSEN[1:], "rejected": REJECTED[1:]},
        ["Yo", "No"],
        [ASKED],
        [1, 0],
    ),
    "prompt as messages, inside": (
        {"prompt": [ASKED], "chosen": CHOSEN, "rejected": REJECTED},
        ["Yo", "No"],
        [ASKED],
        [1, 0],
    ),
    "binarized": (
        {"prompt": "Hi", "messages": CHOSEN, "chosen": CHOSEN, "rejected": REJECTED}
        | {"score_chosen": 8.0, "score_rejected": 6.5},
        ["Yo", "No"],
        [ASKED],
        [8.0, 6.5],
    ),
    "a tie": (
        {"prompt": "Hi", "chosen": CHOSEN, "rejected": REJECTED, "score_chosen": 8, "score_rejected": 8},
        ["Yo", "No"],
        [ASKED],
        [8, 8],
    ),
    "HH-RLHF": ({"chosen": HH + " Yo", "rejected": HH + " No"}, ["Yo", "No"], "Hi", [1, 0]),
    "HH-RLHF of two turns": (
        {"chosen": f"{HH} Yo{HH} a", "rejected": f"{HH} Yo{HH} b"},
        ["a", "b"],
        [*CHAT, ASKED],
        [1, 0],
    ),
    "UltraFeedback": ({"instruction": "Hi", "completions": COMPLETIONS}, ["a", "b"], "Hi", [8.5, 7.0]),
    "generations": (
        {"instruction": "Hi", "generations": ["a", "b"], "ratings": [1, 2]},
        ["a", "b"],
        "Hi",
        [1, 2],
    ),
    "lists as JSON text": (
        {"instruction": "Hi", "replies": '["a", "b"]', "ratings": "[1, 2]"},
        ["a", "b"],
        "Hi",
        [1, 2],
    ),
    "annotations": (
        {
            "instruction": "Hi",
            "completions": [
                {"response": text, "annotations": {"a": {"Rating": rating}, "b": {"Rating": "N/A"}}}
                for text, rating in (("a", "5"), ("b", "2"))
            ],
        },
        ["a", "b"],
        "Hi",
        [5.0, 2.0],
    ),
    "transcript as prompt": (
        {"prompt": HH, "chosen": " Yo", "rejected": " No"},
        ["Yo", "No"],
        "Hi",
        [1, 0],
    ),
    "one message each": (
        {"conversations": GPT[:1], "chosen": GPT[1], "rejected": {"from": "gpt", "value": "No"}},
        ["Yo", "No"],
        [ASKED],
        [1, 0],
    ),
    "OpenAI's wrapped": (
        {"input": {"messages": [ASKED]}, "preferred_output": [SAID], "non_preferred_output": REJECTED[1:]},
        ["Yo", "No"],
        [ASKED],
        [1, 0],
    ),
    "OpenAI": (
        {"prompt": "Hi", "preferred_output": CHOSEN[1:], "non_preferred_output": REJECTED[1:]},
        ["Yo", "No"],
        "Hi",
        [1, 0],
    ),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences_are_read_and_ties_are_ties(name):
    row, replies, asked, ratings = PREFERENCES[name]
    found = comparison(RowReader("preferences").read(row).row)
    assert found.replies == replies
    assert found.ratings.tolist() == ratings
    assert (found.prompt.get("messages") or found.prompt["instruction"]) == asked
    assert found.preferred[0, 1] == (0.5 if ratings[0] == ratings[1] else ratings[0] > ratings[1])


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"prompt": "Hi"}, "Hi"),
        ({"prompt": [ASKED]}, [ASKED]),
        ({"prompt": HH}, "Hi"),
        ({"prompt": f"{HH} Yo{HH}"}, [*CHAT, ASKED]),
        ({"query": "Hi"}, "Hi"),
        ({"question": "Hi", "answer": "Yo"}, "Hi"),
        ({"conversations": GPT[:1]}, [ASKED]),
        ({"chosen": HH + " Yo", "rejected": HH + " No"}, "Hi"),
        ({"chosen": CHOSEN, "rejected": REJECTED}, [ASKED]),
        ({"instruction": "Hi", "completions": COMPLETIONS}, "Hi"),
    ],
)
def test_prompts_are_found_in_every_layout(row, asked):
    read = RowReader("prompts").read(row).row
    assert (read.get("messages") or read["instruction"]) == asked


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("instructions", {**PAIR, "messages": CHAT}, "`messages` and `instruction` both ask: .*columns"),
        ("instructions", {"messages": CHAT, "conversations": GPT}, "`messages` and `conversations` both"),
        ("instructions", {"prompt": "a", "question": "b", "answer": "c"}, "`prompt` and `question` both ask"),
        ("instructions", {"prompt": "b", "messages": CHAT}, "`messages` and `prompt` both ask"),
        (
            "instructions",
            {"query": "a", "response": "b", "answer": "c"},
            "`response` and `answer` both answer",
        ),
        ("instructions", {**PAIR, "input": "x", "context": "y"}, "`input` and `context` both add to it"),
        ("instructions", {"instruction": "a"}, "no `output` .it has `instruction`.: .*columns: {output"),
        ("instructions", {"frage": "a", "antwort": "b"}, "it has `frage`, `antwort`.: .*`columns"),
        (
            "preferences",
            {"instruction": "Q", "chosen": "a", "rejected": "b", "replies": ["a", "b"]},
            "both rank",
        ),
        ("preferences", {"prompt": "Q", "chosen": "a"}, "no `rejected` beside `chosen`"),
        ("preferences", {"prompt": "Q", "best": "a"}, "no `chosen` and no `replies` .*columns"),
        (
            "preferences",
            {"prompt": "Q", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2},
            "`score_chosen` is less than `score_rejected`",
        ),
        ("preferences", {"prompt": "other", "chosen": CHOSEN, "rejected": REJECTED}, "none of the messages"),
        ("preferences", {"instruction": "Q", "completions": [{"response": "a"}]}, "have no score"),
        ("prompts", {"text": "a"}, "no `instruction` and no `messages` .it has `text`.: .*columns"),
        ("documents", {"body": "a"}, r"no `text` \(it has `body`\): name it with `columns: {text: …}`"),
    ],
)
def test_what_may_be_meant_in_two_ways_is_refused_with_the_setting(kind, row, message):
    with pytest.raises(BadRow, match=message) as refusal:
        RowReader(kind).read(row)
    assert "\n" not in str(refusal.value)


def test_columns_say_which_of_two_is_meant():
    row = {**PAIR, "messages": CHAT}
    for columns, ours in (
        ({"messages": "messages"}, "messages"),
        ({"instruction": "instruction"}, "instruction"),
    ):
        read = RowReader("instructions", columns).read(row).row
        assert read.get(ours) == row[ours]
        assert {"messages": "instruction", "instruction": "messages"}[ours] not in read


# --- the mapping


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"frage": "Q", "antwort": "R"}, {"instruction": "frage", "output": "antwort"}),
        ({"x": {"q": "Q", "a": ["n", "R"]}}, {"instruction": "x.q", "output": "x.a.1"}),
        ({"x": {"q": "Q"}, "x.a": "R"}, {"instruction": "x.q", "output": "x.a"}),
        ({"output": "Q", "instruction": "R"}, {"instruction": "output", "output": "instruction"}),
    ],
)
def test_columns_are_our_names_for_theirs_and_may_lie_inside_others(row, columns):
    layout = RowReader("instructions", columns).read(row)
    assert {column: layout.row[column] for column in PAIR} == PAIR
    assert layout.moves == {their: our for our, their in columns.items()}


def test_a_wrong_name_lists_the_columns_that_are_there():
    with pytest.raises(
        BadRow, match=r"no `qery`, which `columns` calls `instruction` \(it has `query`, `r`\)"
    ):
        RowReader("instructions", {"instruction": "qery"}).read({"query": "Q", "r": "R"})
    errors = RowReader("instructions", {"instructon": "query"}).config_errors("data")
    assert errors == ["data.columns names instructon, which is no column here: did you mean instruction?"]
    errors = RowReader("instructions", {"xyz": "query"}).config_errors("data")
    assert errors[0].startswith("data.columns names xyz, which is no column here: choose from answer, ")


# --- through the data modules


def read(module, file, tokenizer, **options):
    data = module(str(file), tokenizer, **{"max_dropped": 1.0, "global_batch_size": 2, **options})
    data.setup()
    return data, data.tokenizer.decode(data.splits["train"][0].get("input_ids", []))


def test_an_optional_column_that_no_row_has_is_refused_and_one_that_some_lack_is_not(
    tmp_path, rows, tiny_tokenizer
):
    columns = {"instruction": "q", "output": "a", "input": "c"}
    file = rows(tmp_path / "x.jsonl", [{"q": "Q", "a": "R"}, {"q": "Q", "a": "R", "c": "C"}])
    data, _ = read(InstructionData, file, tiny_tokenizer, columns=columns)
    texts = [data.tokenizer.decode(data.splits["train"][i]["input_ids"]) for i in (0, 1)]
    assert [text.count("C") for text in texts] == [0, 1]
    with pytest.raises(UserError, match="`columns` calls `k` `input`, but no row has it .*`q`, `a`"):
        read(InstructionData, file, tiny_tokenizer, columns={**columns, "input": "k"})


def test_the_receipt_tells_the_layout_and_what_is_not_read(tmp_path, rows, tiny_tokenizer):
    lines = [
        {"conversations": GPT, "id": 1},
        {"messages": CHAT, "source": "x"},
        {"conversations": GPT, "id": 2},
    ]
    file = rows(tmp_path / "x.jsonl", lines)
    data, text = read(InstructionData, file, tiny_tokenizer, template=ChatTemplate())
    assert text == "<s>### Instruction:\nHi\n\n### Response:\nYo</s>"
    (receipt,) = data.receipts
    assert receipt.layouts == {"ShareGPT: conversations → messages": 2, "OpenAI messages": 1}
    assert receipt.layout_first["OpenAI messages"] == f"{file}:2"
    assert receipt.not_read == ["id", "source"]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(data.receipts))
    told = console.export_text()
    assert f"2 rows, the first {file}:1, read as ShareGPT: conversations → messages" in told
    assert "data.train: not read: `id`, `source`" in told


def test_columns_are_part_of_the_cache(tmp_path, rows, tiny_tokenizer):
    file = rows(tmp_path / "x.jsonl", [{"instruction": "a", "output": "b", "other": "c"}])
    texts = [
        read(InstructionData, file, tiny_tokenizer, columns=columns)[1]
        for columns in (None, {"output": "other"}, None)
    ]
    assert [text[-5] for text in texts] == ["b", "c", "b"]


def test_a_chat_without_a_chat_template_names_the_setting(tmp_path, rows, tiny_tokenizer):
    file = rows(tmp_path / "x.jsonl", [{"conversations": GPT}])
    with pytest.raises(UserError, match=r"x\.jsonl:1: .*needs `template: datamodules.ChatTemplate`"):
        read(InstructionData, file, tiny_tokenizer)


def test_hh_rlhf_is_asked_and_ranked_alike(tmp_path, rows, tiny_tokenizer):
    file = rows(tmp_path / "x.jsonl", [{"chosen": f"{HH} Yes, quite.", "rejected": f"{HH} No."}])
    ranked, _ = read(PreferenceData, file, tiny_tokenizer)
    asked, prompt = read(PromptData, file, tiny_tokenizer)
    assert prompt == "<s>### Instruction:\nHi\n\n### Response:\n"
    replies = [ranked.tokenizer.decode(ids) for ids in ranked.splits["train"][0]["replies"]]
    assert replies == [prompt + "Yes, quite.</s>", prompt + "No.</s>"]


@pytest.mark.parametrize("replies", [["Yes.", "Yes. "], ["a b", "a\n b"]])
def test_replies_that_differ_in_white_space_alone_make_no_pair(tmp_path, rows, tiny_tokenizer, replies):
    row = {"instruction": "Q", "chosen": replies[0], "rejected": replies[1]}
    with pytest.raises(UserError, match="no two different replies of different rating"):
        read(PreferenceData, rows(tmp_path / "x.jsonl", [row]), tiny_tokenizer)


def test_infinite_ratings_are_refused():
    row = {"instruction": "Q", "replies": ["a", "b"], "ratings": [float("inf"), 1]}
    with pytest.raises(BadRow, match="`ratings` are not all finite"):
        comparison(RowReader("preferences").read(row).row)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ({"columns": {"text": "content.body"}}, {}),
        ({"text": "content.body"}, {}),
        ({}, {"columns": {"text": "content.body"}}),
    ],
)
def test_a_corpus_reads_a_nested_column(tmp_path, rows, tiny_tokenizer, source, options):
    file = rows(tmp_path / "x.jsonl", [{"content": {"body": "a good film"}}] * 3)
    data = MixedCorpusData({"x": Source(file, **source)}, tiny_tokenizer, sequence_length=4, **options)
    data.setup()
    ids = next(iter(data.predict_dataloader()))["input_ids"][0]
    assert data.tokenizer.decode(ids).startswith("<s>a good")


@pytest.mark.parametrize(
    ("row", "kind", "columns", "is_chat"),
    [
        ({"conversations": GPT}, "instructions", {"messages": "conversations"}, True),
        (
            {"query": "Q", "response": "R"},
            "instructions",
            {"instruction": "query", "output": "response"},
            False,
        ),
        ({"chosen": HH + " Yo", "rejected": HH + " No"}, "preferences", {}, False),
        ({"chosen": CHOSEN, "rejected": REJECTED}, "preferences", {}, True),
        ({"prompt": "Q"}, "prompts", {"instruction": "prompt"}, False),
        ({"messages": [ASKED]}, "prompts", {}, True),
        ({"content": "a"}, "documents", {"text": "content"}, False),
        ({"input_ids": [1]}, "tokens", {}, False),
    ],
)
def test_a_files_kind_and_columns_are_recognised(tmp_path, rows, row, kind, columns, is_chat):
    found = recognise(rows(tmp_path / "x.jsonl", [row, row]), "FILE")
    assert (found.kind, found.columns, found.is_chat) == (kind, columns, is_chat)
    assert found.rows == [row, row]


@pytest.mark.parametrize("row", [{"a": 1}, {**PAIR, "messages": CHAT}])
def test_a_file_that_is_not_recognised_is_refused_in_one_line(tmp_path, rows, row):
    with pytest.raises(UserError, match=r"^FILE: .*x\.jsonl:1: .*columns"):
        recognise(rows(tmp_path / "x.jsonl", [row]), "FILE")
