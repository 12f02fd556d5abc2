"""Conversations in one text, calls of tools in others' notations, columns spelt otherwise, questions with
choices: read as what they say, or one line that says why not."""

import json
from contextlib import suppress

import pytest

from datamodules import ChatTemplate, InstructionData, PreferenceData
from datamodules.errors import UserError
from datamodules.layouts.comparison import comparison
from datamodules.layouts.joined import Joined
from datamodules.layouts.kinds import kind_of
from datamodules.layouts.reader import RowReader
from datamodules.layouts.recognise import recognise
from datamodules.rendering.messages import conversation
from datamodules.rendering.segments import BadRow

S = {"role": "system", "content": "S"}
U, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
U2, A2 = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
PAIR = {"instruction": "Hi", "output": "Yo"}
RATE = {"name": "get_rate", "description": "R", "parameters": {"type": "object", "properties": {}}}


def call(name, key=None, **arguments):
    function = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"id": key} | function if key else function


def calls(*functions, content=""):
    return {"role": "assistant", "content": content, "tool_calls": [*functions]}


def tool(content, **more):
    return {"role": "tool", "content": content, **more}


# texts that hold a whole conversation, and its messages
WRITTEN = {
    "Guanaco": ("### Human: Hi### Assistant: Yo### Human: q### Assistant: a", [U, A, U2, A2]),
    "Llama 2": (
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nHi [/INST] Yo </s><s>[INST] q [/INST] a </s>",
        [S, U, A, U2, A2],
    ),
    "ChatML": (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n",
        [S, U, A],
    ),
    "Llama 3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|>",
        [U, A],
    ),
    "Gemma": ("<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYo<end_of_turn>\n", [U, A]),
    "Zephyr": ("<|system|>\nS</s>\n<|user|>\nHi</s>\n<|assistant|>\nYo</s>", [S, U, A]),
    "OpenAssistant": ("<|prompter|>Hi<|endoftext|><|assistant|>Yo<|endoftext|>", [U, A]),
    "OIG": ("<human>: Hi\n<bot>: Yo\n<human>: q\n<bot>: a", [U, A, U2, A2]),
    "Alpaca's template": (
        "Below is an instruction that describes a task. Write a response.\n\n### Instruction:\nHi\n\n"
        "### Input:\nC\n\n### Response:\nYo",
        [{"role": "user", "content": "Hi\nC"}, A],
    ),
    "Vicuna": (
        "A chat between a curious user and an assistant. USER: Hi ASSISTANT: Yo</s>USER: q ASSISTANT: a</s>",
        [{**S, "content": "A chat between a curious user and an assistant."}, U, A, U2, A2],
    ),
    "names of speakers": ("User: Hi\n\nAssistant: Yo", [U, A]),
    "a post that quotes one": (
        "I tried this:\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo",
        None,
    ),
    "HH-RLHF": ("\n\nHuman: Hi\n\nAssistant: Yo", [U, A]),
    "a question that is still open": ("### Human: Hi\n### Assistant: Yo\n### Human:", [U, A]),
    "a post about a template": ("Write `[INST]` before what you ask.", None),
    "a play": ("ROMEO: Hi\nJULIET: Yo", None),
    "an answer to nothing": ("Assistant: Yo", None),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_conversation_in_one_text_is_its_turns_and_any_other_text_a_document(name, rows, tmp_path):
    text, messages = WRITTEN[name]
    seen = recognise(rows(tmp_path / "x.jsonl", [{"text": text}]), "FILE")
    assert seen.kind == ("instructions" if messages else "documents")
    assert RowReader("documents").read({"text": text}).row == {"text": text}  # a corpus reads what is there
    if messages:
        assert RowReader("instructions").read({"text": text}).row["messages"] == messages
        named = RowReader("instructions", {"messages": "t"}).read({"t": text, "text": "x"})
        assert named.row["messages"] == messages
    row = {"instruction": "Q", "output": "R", "text": text}  # as Alpaca's file has it: rendered once more
    assert RowReader("instructions").read(row).row["instruction"] == "Q"


def test_a_conversation_in_one_text_is_a_document_where_columns_say_so():
    row = {"text": WRITTEN["ChatML"][0]}
    assert kind_of(row, {"text": "text"}) == "documents"


GLAIVE = (
    "USER: I'm in Bern\nUSER is my name\n\n\nASSISTANT: <functioncall> "
    '{"name": "get_rate", "arguments": \'{"to": "it\\\'s CHF", "n": 2}\'} <|endoftext|>\n\n\n'
    'FUNCTION RESPONSE: {"rate": 0.9}\n\n\nASSISTANT: Yo <|endoftext|>\n\n\n'
)
SYSTEM = (
    "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
)
ASKED = {"role": "user", "content": "I'm in Bern\nUSER is my name"}


def test_glaives_functions_calls_and_responses_are_read():
    row = {"system": SYSTEM + json.dumps(RATE, indent=4) + "\n\n" + json.dumps(RATE) + "\n", "chat": GLAIVE}
    read = RowReader("instructions").read(row).row
    assert kind_of(row) == "instructions"
    assert read["messages"] == [ASKED, calls(call("get_rate", to="it's CHF", n=2)), tool('{"rate": 0.9}'), A]
    assert read["system"] == "You are a helpful assistant."
    assert read["tools"] == [{"type": "function", "function": RATE}] * 2
    alone = {"system": "SYSTEM: You are kind, with no access to external functions.\n", "chat": "USER: Hi\n"}
    alone["chat"] += "\n\nASSISTANT: Yo <|endoftext|>\n"
    read = RowReader("instructions").read(alone).row
    assert (read["messages"], "tools" in read) == ([U, A], False)
    assert read["system"] == "You are kind, with no access to external functions."


def moss(commands, results):
    return {
        "Human": "<|Human|>: Hi<eoh>\n",
        "Inner Thoughts": "<|Inner Thoughts|>: hm<eot>\n",
        "Commands": f"<|Commands|>: {commands}<eoc>\n",
        "Tool Responses": f"<|Results|>:\n{results}\n<eor>\n",
        "MOSS": "<|MOSS|>: Yo<eom>\n",
    }


META = "S\n- Web search: enabled. API: Search(query)\n- Calculator: enabled. API: Calculate(expression)\n"
PARTS = [
    U,
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "x"},
            {"type": "text", "text": "Look."},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "12"}]},
            {"type": "text", "text": "q"},
        ],
    },
    {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
]
SCHEMA = {"type": "object", "properties": {}}
DECLARED = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}]
# notation: row, what it says
TOOLS = {
    "MOSS's commands": (
        {"meta_instruction": META, "chat": {"turn_1": moss('Search("x, y"), Calculate("1+2")', "r => 3")}},
        {
            "messages": [
                U,
                calls(call("Search", query="x, y"), call("Calculate", expression="1+2")),
                tool("r => 3"),
                A,
            ]
        },
    ),
    "MOSS's commands that nobody declared": (
        {"chat": {"turn_1": moss("Draw('x', n=1 + y)", "r")}},
        {"messages": [U, calls(call("Draw", argument_1="x", n="1 + y")), tool("r"), A]},
    ),
    "Anthropic": (
        {
            "system": "S",
            "messages": PARTS,
            "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
        },
        {
            "messages": [
                U,
                calls(call("f", "t1", x=1), content="Look.") | {"reasoning_content": "hm"},
                tool("12", tool_call_id="t1"),
                U2,
                {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
            ],
            "tools": DECLARED,
        },
    ),
    "Bedrock": (
        {
            "messages": [
                U,
                {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "f", "input": {}}}]},
                {
                    "role": "user",
                    "content": [{"toolResult": {"toolUseId": "t", "content": [{"json": {"r": 1}}]}}],
                },
                A,
            ],
            "tools": [{"toolSpec": {"name": "f", "description": "d", "inputSchema": {"json": SCHEMA}}}],
        },
        {"messages": [U, calls(call("f", "t")), tool('{"r": 1}', tool_call_id="t"), A], "tools": DECLARED},
    ),
    "OpenAI's Responses": (
        {
            "messages": [
                U,
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"x": 1}'},
                {"type": "function_call_output", "call_id": "c", "output": "12"},
                {"role": "assistant", "content": [{"type": "output_text", "text": "Yo"}]},
            ]
        },
        {"messages": [U, calls(call("f", "c", x=1)), tool("12", tool_call_id="c"), A]},
    ),
}


@pytest.mark.parametrize("name", TOOLS)
def test_calls_of_tools_are_read_in_every_notation(name):
    row, said = TOOLS[name]
    read = RowReader("instructions").read(row).row
    assert {column: read[column] for column in said} == said
    again = RowReader("instructions").read(json.loads(json.dumps(read))).row  # as `data convert` writes it
    assert again["messages"] == read["messages"]


CHOICES = "Hi\nA. a\nB. b\nC. c\nD. d"
# dataset: row, what it says
READ = {
    "COIG, with an instruction": (
        {
            "instruction": "I",
            "conversations": [{"question": "Hi", "answer": "Yo"}, {"question": "q", "answer": "a"}],
        },
        {"messages": [{"role": "user", "content": "I\nHi"}, A, U2, A2]},
    ),
    "COIG's exams": (
        {"textbox_q_instruction": "Hi", "textbox_q_context": "C", "textbox_question": "Q", "subject": "x"}
        | {"textbox_answer": "Yo", "textbox_answer_analysis": "W"},
        {"instruction": "Hi", "input": "C\nQ", "output": "Yo\nW"},
    ),
    "COIG's exams without a text or why": (
        {"textbox_q_instruction": "Hi", "textbox_q_context": None, "textbox_question": "Q"}
        | {"textbox_answer": "Yo", "textbox_answer_analysis": []},
        {"instruction": "Hi", "input": "Q", "output": "Yo"},
    ),
    "columns in capitals": ({"INSTRUCTION": "Hi", "RESPONSE": "Yo", "SOURCE": "x"}, PAIR),
    "a header of CSV": ({"Question": "Hi", "Answer": "Yo"}, PAIR),
    "a header with a space": ({"Input Text": "Hi", "Output Text": "Yo"}, PAIR),
    "a Chinese header": ({"问题": "Hi", "回答": "Yo"}, PAIR),
    "a context alone": ({"Context": "Hi", "Response": "Yo"}, PAIR),
    "MMLU": ({"question": "Hi", "choices": [*"abcd"], "answer": 2}, {"instruction": CHOICES, "output": "C"}),
    "MMLU-Pro": (
        {"question": "Hi", "options": [*"abcdefghijk"], "answer": "K", "answer_index": 10},
        {
            "instruction": "\n".join(["Hi", *(f"{one.upper()}. {one}" for one in "abcdefghijk")]),
            "output": "K",
        },
    ),
    "C-Eval": (
        {"question": "Hi", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "A"},
        {"instruction": CHOICES, "output": "A"},
    ),
    "ARC": (
        {"question": "Hi", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
        {"instruction": "Hi\n1. x\n2. y", "output": "2"},
    ),
    "MedQA": (
        {"question": "Hi", "options": {"A": "x", "B": "y"}, "answer": "y", "answer_idx": "B"},
        {"instruction": "Hi\nA. x\nB. y", "output": "B"},
    ),
    "RACE": (
        {"article": "P", "question": "Hi", "options": ["x", "y"], "answer": "B"},
        {"instruction": "Hi\nA. x\nB. y", "input": "P", "output": "B"},
    ),
    "a choice by its text": (
        {"question": "Hi", "choices": ["x", "y"], "answer": "y"},
        {"instruction": "Hi\nA. x\nB. y", "output": "B"},
    ),
    "a passage": ({"passage": "P", "question": "Hi", "answer": "Yo"}, {**PAIR, "input": "P"}),
    "TriviaQA": ({"question": "Hi", "answer": {"value": "Yo", "aliases": ["yo"]}}, PAIR),
    "a number": ({"question": "Hi", "answer": 7}, {"output": "7"}),
    "a list of one": ({"prompt": "Hi", "response": ["Yo"]}, PAIR),
    "LIMO": ({"question": "Hi", "solution": "Yo", "answer": "7"}, PAIR),
    "OpenMathInstruct": ({"problem": "Hi", "generated_solution": "Yo", "expected_answer": "7"}, PAIR),
    "P3": ({"inputs": [1], "targets": [2], "inputs_pretokenized": "Hi", "targets_pretokenized": "Yo"}, PAIR),
    "Natural Instructions": (
        {"definition": "D", "inputs": "Hi", "targets": "Yo"},
        {"instruction": "D", "input": "Hi", "output": "Yo"},
    ),
    "an empty instruction": ({"instruction": "", "input": "Hi", "output": "Yo"}, PAIR),
    "Nemotron": ({"input": [U], "output": "Yo", "system_prompt": "S"}, {"messages": [U, A], "system": "S"}),
    "HuatuoGPT": ({"data": ["问：Hi", "答：Yo"]}, {"messages": [U, A]}),
    "turns as lists": (
        {"conversations": {"from": ["human", "gpt"], "value": ["Hi", "Yo"]}},
        {"messages": [U, A]},
    ),
    "turns as Python prints them": ({"messages": str([U, A])}, {"messages": [U, A]}),
    "OpenAI's logs": (
        {"request": {"messages": [U], "model": "x"}, "response": {"choices": [{"message": A}]}},
        {"messages": [U, A]},
    ),
    "Camel": ({"role_1": "x", "message_1": "Hi", "message_2": "Yo"}, PAIR),
}


@pytest.mark.parametrize("name", READ)
def test_public_datasets_are_read_as_what_they_say(name):
    row, said = READ[name]
    assert kind_of(row) == "instructions"
    read = RowReader("instructions").read(row).row
    assert {column: read[column] for column in said} == said
    if "input" not in said:
        assert not read.get("input")


def test_a_column_spelt_otherwise_is_told_as_the_file_has_it():
    reader = RowReader("instructions")
    layout = reader.read({"Question": "Hi", "Answer": "Yo", "Context": "", "Notes": "x"})
    assert layout.told == "question and answer: Question → instruction, Answer → output"
    assert reader.not_used(layout) == ["Notes"]
    with pytest.raises(BadRow, match=r"`Prompt` and `Query` both ask.*columns: \{instruction: Prompt\}"):
        reader.read({"Prompt": "Hi", "Query": "q", "Output": "Yo"})
    own = RowReader("instructions", any_column=True)  # a user's own template may read `Context`
    assert own.read({**PAIR, "Context": "C"}).row == {**PAIR, "Context": "C"}
    assert RowReader("documents").wanted >= {"text", "Text", "TEXT", "正文"}


def test_a_turn_that_is_marked_as_not_trained_is_not(rows, tmp_path, tiny_tokenizer):
    no = {"role": "assistant", "content": "No"}
    lines = [{"messages": [U, {**no, key: False}, U2, {**A, key: True}]} for key in ("loss", "train")]
    data = InstructionData(
        rows(tmp_path / "x.jsonl", lines), tiny_tokenizer, template=ChatTemplate(), global_batch_size=2
    )
    data.setup()
    batch = data.batch(data.splits["train"], [0, 1])
    trained = data.tokenizer.decode(batch["input_ids"][batch["labels"] != -100])
    assert trained.replace("</s>", "").replace(" ", "") == "YoYo"
    assert data.receipts[0].changed == {"an assistant's turn of weight 0 not trained": 2}


def test_a_system_text_beside_a_system_message_is_told():
    layout = RowReader("instructions").read({"system": "T", "messages": [S, U, A]})
    assert layout.changes == ["`system` not used beside a system message"]
    assert RowReader("instructions").read({"system": "S", "messages": [S, U, A]}).changes == []


def test_a_rejected_conversation_beside_messages_is_the_worse_one(rows, tmp_path, tiny_tokenizer):
    row = {"messages": [U, A], "rejected_messages": [U, {**A, "content": "No"}]}
    assert kind_of(row) == "preferences"
    compared = comparison(RowReader("preferences").read(row).row)
    assert (compared.replies, compared.ratings.tolist()) == (["Yo", "No"], [1, 0])
    data = PreferenceData(
        rows(tmp_path / "x.jsonl", [row]), tiny_tokenizer, template=ChatTemplate(), global_batch_size=1
    )
    data.setup()
    assert data.splits["train"][0]["ratings"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "Write a story.", "text": "Once.", "token_length": 3}, "documents"),  # Cosmopedia
        ({"code": "x = 1", "repo_name": "r"}, "documents"),
        ({"raw_content": "x", "url": "u"}, "documents"),
        ({"context_messages": [U], "datasource": "x"}, "prompts"),
        ({"Prompt": "Hi", "Chosen": "Yo", "Rejected": "No"}, "preferences"),
        ({"Prompt": "Hi", "Response_A": "Yo", "Response_B": "No", "Winner": "a"}, "preferences"),
    ],
)
def test_a_row_is_what_it_is_meant_for(row, kind):
    assert kind_of(row) == kind
    RowReader(kind).read(row)


@pytest.mark.parametrize(
    "row",
    [
        {"turns": [{"role": {}, "content": "x"}]},
        {"messages": [{"type": {"a": 1}, "role": "user"}]},
        {"label": True, "messages": []},
        {"conversations": {}},
        {"messages": {"from": ["human"], "value": []}},
        {"chat": {"turn_1": {"Human": 1, "MOSS": [], "Commands": "f(*a, **b)"}}},
        {"question": "Hi", "choices": ["a", "b"], "answer": {"a": 1}},
        {"question": "Hi", "choices": {"text": ["a", "b"], "label": 7}, "answer": 1},
        {"input": {"messages": [{}]}, "output": [None]},
    ],
)
@pytest.mark.parametrize("kind", ["documents", "instructions", "preferences", "prompts"])
def test_odd_values_are_refused_and_break_nothing(row, kind):
    kind_of(row)
    Joined(kind).takes(row)
    with pytest.raises(UserError) if kind != "prompts" else suppress(UserError):
        comparison(RowReader(kind).read(row).row) if kind == "preferences" else conversation_of(kind, row)


def conversation_of(kind, row):
    return conversation(RowReader(kind).read(row).row, whole=kind == "instructions")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"image": "a.jpg", "conversations": [{**U, "content": "<image>\nHi"}, A]},
            "a conversation about what is in `image`: only text can be trained on",
        ),
        ({"chat": "USER: Hi\nASSISTANT: <functioncall> {name: f}"}, "a <functioncall> is no JSON of name"),
        ({"system": SYSTEM + "{broken", "chat": GLAIVE}, "a function in the text of `system` is no JSON"),
        ({"question": "Hi", "choices": ["a", "b"], "answer": "C"}, "the answer 'C' is none of the 2 choices"),
        ({"question": "Hi", "choices": [*"ab"] * 14, "answer": 1}, "28 choices, but 26 labels for them"),
    ],
)
def test_what_cannot_be_read_says_why_in_a_line(row, message):
    with pytest.raises(BadRow, match=message) as refusal:
        RowReader("instructions").read(row)
    assert "\n" not in str(refusal.value)
