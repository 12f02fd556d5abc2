"""What messages hold beside role and content: thoughts are trained on where the chat template writes them,
and what it does not write is told."""

import pytest

from datamodules import ChatTemplate, InstructionData, PreferenceData
from datamodules.layouts.reader import RowReader
from datamodules.rendering.tokenizer import load_tokenizer

TURN = "{{ m.role + ': ' }}%s{{ m.content or '' }}{{ eos_token if m.role == 'assistant' else '\n' }}"
OPEN = "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
CALLS = (
    "{% if m.tool_calls %}{{ 'calls ' }}{% for c in m.tool_calls %}{{ c.function.name + ' ' }}{% endfor %}"
    "{% endif %}"
)
# how a template reads thoughts: what it writes before a reply
SHAPES = {
    "not at all": "",
    "always": "{% if m.reasoning_content %}{{ '<t>' + m['reasoning_content'] + '</t>' }}{% endif %}",
    "by another name": "{{ '<t>' + m.get('thinking') + '</t>' if m.get('thinking') else '' }}",
    "before calls alone": CALLS.replace("'calls '", "'<t>' + (m.thinking or '') + '</t>calls '"),
    "calls and no thoughts": CALLS,
    "whatever there is": "{{ (m | tojson) if m.role == 'assistant' else '' }}",
}
U, LOOK = {"role": "user", "content": "Hi"}, {"type": "function", "function": {"name": "f", "arguments": {}}}
THOUGHT = {"role": "assistant", "content": "Yo", "reasoning_content": "hm"}
CALLED = {**THOUGHT, "content": "", "tool_calls": [LOOK]}
RESULT = {"role": "tool", "content": "12", "tool_call_id": "1"}


@pytest.fixture
def data(tiny_tokenizer, tmp_path, rows):
    """Makes a data module of one row with a chat template of some shape."""

    def make(shape, row, module=InstructionData):
        tokenizer = load_tokenizer(tiny_tokenizer)
        turns = "{% for m in messages %}" + TURN % SHAPES[shape] + "{% endfor %}"
        tokenizer.chat_template = turns + OPEN
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        file = rows(tmp_path / "x.jsonl", [row])
        options = {"template": ChatTemplate(), "global_batch_size": 1}
        made = module(file, str(tmp_path / "tokenizer"), **options)
        made.setup()
        return made

    return make


def trained(data):
    (item,) = data.splits["train"].members(0)
    return data.tokenizer.decode(item["input_ids"][item["trained"].astype(bool)])


def lost(data):
    """Key of a thought → turns that lose it, by the receipt."""
    changed = {
        change: n for change, n in data.receipts[0].changed.items() if "chat template does not" in change
    }
    assert all(
        "put it into `content`, or give the tokenizer a template that does" in line for line in changed
    )
    return {line.split("`")[1]: n for line, n in changed.items()}


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("shape", ["always", "by another name"])
def test_thoughts_are_trained_on_where_the_template_writes_them(data, shape, key):
    made = data(shape, {"messages": [U, {"role": "assistant", "content": "Yo", key: "hm"}]})
    assert "<t>hm</t>Yo" in trained(made)
    assert (lost(made), made.receipts[0].not_read) == ({}, [])


def test_thoughts_that_are_not_written_are_told_turn_by_turn(data):
    other = {"role": "assistant", "content": "a", "thinking": "so"}
    made = data("not at all", {"messages": [U, THOUGHT, U, THOUGHT, U, other, U, {**other, "thinking": ""}]})
    assert "hm" not in trained(made)
    assert lost(made) == {"reasoning_content": 2, "thinking": 1}


@pytest.mark.parametrize(
    ("shape", "turns"),
    [
        ("before calls alone", {"thinking": 1}),  # of the last reply, which calls nothing
        ("calls and no thoughts", {"reasoning_content": 2}),
        ("always", None),
        ("whatever there is", {}),
    ],
)
def test_thoughts_beside_calls_of_tools(data, shape, turns):
    row = {"messages": [U, CALLED, RESULT, THOUGHT]}
    if turns is None:  # this template does not write calls, which is refused by name
        with pytest.raises(Exception, match="does not write `tool_calls`"):
            data(shape, row)
        return
    made = data(shape, row)
    assert lost(made) == turns
    assert ("hm" in trained(made)) == (shape != "calls and no thoughts")


def test_turns_that_are_not_trained_lose_nothing(data):
    made = data(
        "not at all", {"messages": [U, {**THOUGHT, "weight": 0}, U, {"role": "assistant", "content": "a"}]}
    )
    assert lost(made) == {}


def test_the_thoughts_of_a_ranked_reply_are_told(data):
    row = {"chosen": [U, THOUGHT], "rejected": [U, {"role": "assistant", "content": "No"}]}
    assert lost(data("not at all", row, PreferenceData)) == {"reasoning_content": 1}
    assert lost(data("always", row, PreferenceData)) == {}


def test_any_other_key_of_a_message_that_nobody_reads_is_named(data):
    row = {
        "messages": [{**U, "country": "CH", "toxic": False, "name": "Ann"}, {**THOUGHT, "id": None}],
        "x": 1,
    }
    made = data("always", row)
    assert made.receipts[0].not_read == ["x", "messages.country", "messages.name", "messages.toxic"]
    assert data("whatever there is", {**row, "messages": [U, {**THOUGHT, "n": "1"}]}).receipts[
        0
    ].not_read == ["x"]


def test_thoughts_in_parts_are_thoughts_of_the_message():
    said = {"role": "assistant", "content": "Yo", "reasoning_content": "hm"}
    bedrock = [{"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}}, {"text": "Yo"}]
    for row in (
        {"messages": [U, {"role": "assistant", "content": bedrock}]},
        {
            "contents": [
                {"parts": [{"text": "Hi"}]},
                {"role": "model", "parts": [{"thought": True, "text": "hm"}, "Yo"]},
            ]
        },
    ):
        assert RowReader("instructions").read(row).row["messages"][1] == said
