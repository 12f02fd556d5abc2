"""What a chat's row may hold: tools and calls, weights, an answer at the end of a prompt, parts, dates."""

import datetime

import numpy as np
import pytest

from datamodules import ChatTemplate, InstructionData, Policies, PreferenceData, PromptData
from datamodules.errors import UserError
from datamodules.instruction import InstructionEncoder
from datamodules.rendering.chat_template import turn_end
from tests.chat_templates import CHATML, DATED, GEMMA, LLAMA3, MISTRAL, tokenizers
from tests.conversations import chat

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Bern"}}}
    ],
}
ASKED = [{"role": "user", "content": "Weather?"}]
WEATHER = [
    *[*ASKED, CALL, {"role": "tool", "tool_call_id": "c1", "content": "12 C"}],
    {"role": "assistant", "content": "12 degrees."},
]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers()["byte level"]


@pytest.fixture
def data(tokenizer, tmp_path, rows):
    def make(written, module, content, **options):
        tokenizer.chat_template = written
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        file, options = rows(tmp_path / "rows.jsonl", content), {"max_dropped": 1.0, **options}
        data = module(file, str(tmp_path / "tokenizer"), **{"template": ChatTemplate(), **options})
        data.setup()
        return data

    return make


def columns(data, number=0):
    return data.splits["train"].members(number)[0]


def trained(data, number=0):
    """The trained stretches of a row, as text."""
    row, texts, before = columns(data, number), [], False
    for token, on in zip(row["input_ids"], row["trained"], strict=True):
        if on and not before:
            texts.append([])
        if on:
            texts[-1].append(token)
        before = on
    return [data.tokenizer.decode(ids) for ids in texts]


# --- tools


def test_the_rows_tools_and_calls_are_what_the_template_writes(data):
    sft = data(MISTRAL, InstructionData, [{"tools": TOOLS, "messages": WEATHER}])
    whole = sft.tokenizer.apply_chat_template(WEATHER, tools=TOOLS, return_dict=False)
    assert columns(sft)["input_ids"].tolist() == whole
    assert "[AVAILABLE_TOOLS]" in sft.tokenizer.decode(whole)
    call = '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Bern"}}]</s>'
    assert trained(sft) == [call, " 12 degrees.</s>"]
    row = {"tools": TOOLS, "messages": WEATHER[:2]}
    prompt = columns(data(MISTRAL, PromptData, [row]))["input_ids"].tolist()
    assert prompt == whole[: len(prompt)]
    pair = {
        "tools": TOOLS,
        "chosen": WEATHER[:2],
        "rejected": [*ASKED, {"role": "assistant", "content": "No."}],
    }
    ranked = columns(data(MISTRAL, PreferenceData, [pair]))
    assert ranked["replies"][0].tolist() == whole[: len(ranked["replies"][0])]
    assert sft.tokenizer.decode(ranked["replies"][0][ranked["prompt_length"] :]) == call
    assert ranked["prompt_length"] == len(prompt)


def test_tools_as_json_text_are_read(data):
    import json

    given = [{"tools": tools, "messages": WEATHER} for tools in (TOOLS, json.dumps(TOOLS))]
    sft = data(MISTRAL, InstructionData, given)
    assert columns(sft, 0)["input_ids"].tolist() == columns(sft, 1)["input_ids"].tolist()


@pytest.mark.parametrize(
    ("template", "row", "reason"),
    [
        (CHATML, {"tools": TOOLS, **chat("a", "b")}, "does not write the row's `tools`"),
        (CHATML, {"messages": WEATHER}, "cannot write `content: null`"),
        (CHATML, {"messages": [*ASKED, {**CALL, "content": "I look."}]}, "does not write `tool_calls`"),
        (MISTRAL, {"tools": "weather", **chat("a", "b")}, "`tools` is text but not JSON"),
        (MISTRAL, {"tools": {"a": 1}, **chat("a", "b")}, "`tools` is no list of objects"),
        (
            MISTRAL,
            {"messages": [*ASKED, {"role": "assistant", "content": None}]},
            "a message without content",
        ),
    ],
)
def test_tools_that_a_template_would_lose_are_refused_by_name(data, template, row, reason):
    with pytest.raises(UserError, match=reason):
        data(template, InstructionData, [row])


def test_a_content_of_text_parts_is_its_text_and_another_part_is_refused(data):
    parts = [{"type": "text", "text": "Is it"}, {"type": "text", "text": " good?"}]
    row, plain = chat(parts, "Yes."), chat("Is it good?", "Yes.")
    sft = data(CHATML, InstructionData, [row, plain])
    assert columns(sft, 0)["input_ids"].tolist() == columns(sft, 1)["input_ids"].tolist()
    with pytest.raises(UserError, match=r"rows\.jsonl:1: .* a part of type image_url"):
        data(CHATML, InstructionData, [chat([{"type": "image_url", "image_url": {}}], "Yes.")])


# --- what is not trained


def test_a_turn_of_weight_0_is_given_and_counted(data):
    row = chat("a", "WRONG", "c", "d")
    row["messages"][1]["weight"], row["messages"][3]["weight"] = 0, 1
    sft = data(CHATML, InstructionData, [row, chat("a", "WRONG", "c", "d")])
    assert trained(sft, 0) == ["d<|im_end|>"]
    assert trained(sft, 1) == ["WRONG<|im_end|>", "d<|im_end|>"]
    assert columns(sft, 0)["input_ids"].tolist() == columns(sft, 1)["input_ids"].tolist()
    assert sft.receipts[0].changed == {"an assistant's turn of weight 0 not trained": 1}


@pytest.mark.parametrize(
    ("weights", "train_on", "outcome"),
    [
        ((0, 0), "all", "every assistant turn has weight 0"),
        ((1, 0), "last", "every assistant turn has weight 0"),
        ((1, 0.5), "all", "`weight` of a message is 0.5: give 0 .* or 1"),
        ((1, "high"), "all", "`weight` of a message is 'high'"),
        ((1, 0), "all", ["b<|im_end|>"]),
        ((None, False), "all", ["b<|im_end|>"]),
        ((0, True), "last", ["d<|im_end|>"]),
    ],
)
def test_weights_say_what_is_trained(data, weights, train_on, outcome):
    row = chat("a", "b", "c", "d")
    for place, weight in zip((1, 3), weights, strict=True):
        row["messages"][place]["weight"] = weight
    if isinstance(outcome, str):
        with pytest.raises(UserError, match=outcome):
            data(CHATML, InstructionData, [row], template=ChatTemplate(train_on))
    else:
        sft = data(CHATML, InstructionData, [row], template=ChatTemplate(train_on))
        assert trained(sft) == outcome


def test_a_greeting_at_the_beginning_is_given_and_counted(data):
    greeting = {"role": "assistant", "content": "hello"}
    for template in (ChatTemplate(), ChatTemplate(system="Be kind.")):
        row = {"messages": [greeting, *chat("a", "b")["messages"]]}
        sft = data(CHATML, InstructionData, [row], template=template)
        assert trained(sft) == ["b<|im_end|>"]
        assert "hello" in sft.tokenizer.decode(columns(sft)["input_ids"])
        assert sft.receipts[0].changed == {"an assistant's turn that begins a chat not trained": 1}


def test_the_answer_at_the_end_of_a_chat_is_no_part_of_a_prompt_and_counted(data):
    row, bare = chat("Write.", "The film is good."), chat("Write.")
    prompts = data(CHATML, PromptData, [row, bare])
    assert columns(prompts, 0)["input_ids"].tolist() == columns(prompts, 1)["input_ids"].tolist()
    assert prompts.receipts[0].changed == {"a chat's answer left out of its prompt": 1}
    pair = {"chosen": "The film is good.", "rejected": "No."}
    ranked = data(CHATML, PreferenceData, [{**row, **pair}, {**bare, **pair}])
    first, second = (columns(ranked, number)["replies"] for number in (0, 1))
    assert [ids.tolist() for ids in first] == [ids.tolist() for ids in second]
    assert ranked.tokenizer.decode(first[0]).count("The film is good.") == 1
    assert ranked.receipts[0].changed == {"a chat's answer left out of its prompt": 1}
    alone = {"messages": [{"role": "assistant", "content": "Good."}]}
    with pytest.raises(UserError, match="an answer to nothing"):
        data(CHATML, PromptData, [alone])


def test_replies_as_chats_of_one_message_answer_the_rows_prompt(data):
    good, bad = ([{"role": "assistant", "content": text}] for text in ("Good.", "Bad."))
    expected = {"replies": ["Good.", "Bad."]}
    for asked in ({"instruction": "Write."}, chat("Write.")):
        ranked = data(
            CHATML, PreferenceData, [{**asked, "chosen": good, "rejected": bad}, {**asked, **expected}]
        )
        one, other = (columns(ranked, number)["replies"] for number in (0, 1))
        assert [ids.tolist() for ids in one] == [ids.tolist() for ids in other]


# --- one policy for all three


def test_two_bos_are_one_policy_for_all_three(data):
    twice = "{{ bos_token }}" + GEMMA
    contents = {
        InstructionData: {**chat("Is it good?", "Yes.")},
        PreferenceData: {**chat("Is it good?"), "replies": ["Yes.", "Yes!"]},
        PromptData: chat("Is it good?"),
    }
    for module, row in contents.items():
        with pytest.raises(
            UserError, match=r"two <s> at the beginning \(data.policies.double_bos is error\)"
        ):
            data(twice, module, [row])
        one = data(twice, module, [row], policies=Policies(double_bos="truncate_left"))
        once = data(GEMMA, module, [row])
        key = "replies" if module is PreferenceData else "input_ids"
        assert np.array_equal(np.ravel(columns(one)[key]), np.ravel(columns(once)[key]))
        assert one.receipts[0].changed == {"one of two bos removed": 1}
        with pytest.raises(UserError, match="two <s> at the beginning"):
            data(twice, module, [row], policies=Policies(double_bos="drop"))


def test_long_and_empty_are_one_policy_for_replies_and_prompts(data):
    asked = chat("one two three four five six seven")
    pair = [{**asked, "replies": ["Yes.", "No.", " "]}]
    length = len(columns(data(GEMMA, PreferenceData, pair))["replies"][0])
    full = columns(data(GEMMA, PreferenceData, pair))
    cut = data(
        GEMMA, PreferenceData, pair, max_length=length - 1, policies=Policies(long_reply="truncate_left")
    )
    whole, shorter = full["replies"], columns(cut)["replies"]
    lost = max(map(len, whole)) - (length - 1)
    assert [ids.tolist() for ids in shorter] == [[ids[0], *ids[1 + lost :]] for ids in whole]
    assert columns(cut)["prompt_length"] == full["prompt_length"] - lost
    assert cut.receipts[0].changed == {"too long or blank replies left out": 1, "prompt cut from the left": 1}
    for policies, reason in (
        (Policies(empty_reply="error"), "empty reply .data.policies.empty_reply is error"),
        (Policies(long_reply="error"), "data.policies.long_reply is error"),
    ):
        with pytest.raises(UserError, match=reason):
            data(GEMMA, PreferenceData, pair, max_length=length - 1, policies=policies)
    prompt = columns(data(GEMMA, PromptData, [asked]))["input_ids"].tolist()
    options = {"max_prompt_length": 5, "policies": Policies(long_prompt="truncate_left")}
    assert columns(data(GEMMA, PromptData, [asked], **options))["input_ids"].tolist() == [
        prompt[0],
        *prompt[-4:],
    ]
    with pytest.raises(UserError, match="data.policies.long_prompt is error"):
        data(GEMMA, PromptData, [asked], max_prompt_length=5, policies=Policies(long_prompt="error"))


# --- the date


def test_a_template_that_writes_the_date_has_a_cache_for_each_day(tokenizer):
    def key(template, date):
        tokenizer.chat_template = template
        return InstructionEncoder(tokenizer, ChatTemplate(date=date), [], 64, Policies()).key

    assert key(DATED, "2026-01-31") != key(DATED, "2026-02-01")
    assert key(DATED, None) == key(DATED, datetime.date.today().isoformat())  # fails at midnight only
    assert key(LLAMA3, "2026-01-31") == key(LLAMA3, "2026-02-01")


def test_the_date_is_todays_or_the_one_that_is_given(data):
    row = [chat("a", "b")]
    for date, day in ((None, datetime.date.today().strftime("%d %b %Y")), ("2026-01-31", "31 Jan 2026")):
        sft = data(DATED, InstructionData, row, template=ChatTemplate(date=date))
        assert f"Today: {day}<|eot|>" in sft.tokenizer.decode(columns(sft)["input_ids"])
    assert ChatTemplate(date="31.1.").config_errors() == [
        "data.template.date is '31.1.': give a day as 2026-01-31"
    ]
    computed = DATED.replace('"%d %b %Y"', '"%d" + " %b"')
    with pytest.raises(UserError, match=r"rows\.jsonl:1: the chat template writes the time in a format"):
        data(computed, InstructionData, row)


# --- templates that fail


@pytest.mark.parametrize("fault", ["messages[9].content.x", "(1 / 0)", "'a'.index('b')"])
def test_a_template_that_fails_is_told_with_the_row_or_skipped(data, fault):
    template = CHATML.replace(
        "{{ '<|im_start|>'", "{% if m.content == 'x' %}{{ " + fault + " }}{% endif %}{{ '<|im_start|>'"
    )
    content = [chat("a", "b"), chat("x", "b")]
    for module in (InstructionData, PromptData):
        with pytest.raises(UserError, match=r"rows\.jsonl:2: |has no element 9"):
            data(template, module, content, max_dropped=0.0)
        assert data(template, module, content, on_bad_row="skip").receipts[0].kept == 1


def test_turns_end_with_the_templates_own_token_everywhere(data):
    sft = data(GEMMA, InstructionData, [chat("a", "b", "c", "d")])
    assert trained(sft) == ["b<end_of_turn>", "d<end_of_turn>"]
    ranked = data(GEMMA, PreferenceData, [{**chat("a"), "replies": ["b", "c"]}])
    assert {ids[-1] for ids in columns(ranked)["replies"]} == {turn_end(ranked.tokenizer)}
