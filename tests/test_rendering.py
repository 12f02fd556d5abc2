"""Instructions as text and as tokens with their mask: worked out by hand, in English and Chinese."""

import itertools

import pytest

from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.segments import BadRow, DropRow, Segment
from datamodules.rendering.templates import InstructionTemplate
from datamodules.rendering.tokenizer import load_tokenizer
from tests.conversations import SHORT, chat, chatml_tokenizer, joining_tokenizer, texts, tokens_and_mask

BOS, EOS = Segment("<s>", False, True), Segment("</s>", True, True)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    """Byte-level, so that every text comes back exactly; its chat template is `trivium tokenizer`'s."""
    return load_tokenizer(tiny_tokenizer)


@pytest.fixture(scope="module")
def chatml(tiny_tokenizer):
    return chatml_tokenizer(tiny_tokenizer)


@pytest.fixture(scope="module")
def joining():
    return joining_tokenizer()


@pytest.mark.parametrize(
    ("row", "prompt", "reply"),
    [
        ({"instruction": "2+2", "output": "yes"}, [*"Q:2+2A:"], ["y", "e", "s", "</s>"]),
        ({"instruction": "2+2", "input": "", "output": "4"}, [*"Q:2+2A:"], ["4", "</s>"]),
        ({"instruction": "2", "input": "4", "output": "no"}, [*"Q:2\n4A:"], ["n", "o", "</s>"]),
        ({"instruction": "你好吗", "output": "很好"}, [*"Q:你好吗A:"], ["很好", "</s>"]),
        (
            {"instruction": "2+2", "steps": "2 2", "output": "很好"},
            [*"Q:2+2A:"],
            ["2", " ", "2", "\n很", "好", "</s>"],
        ),
        (
            {"instruction": "2+2+2", "steps": ["2+2", "4+2"], "output": "6"},
            [*"Q:2+2+2A:"],
            [*"2+2", "\n", *"4+2", "\n", "6", "</s>"],
        ),
        ({"instruction": "2", "steps": [], "output": "4"}, [*"Q:2A:"], ["4", "</s>"]),
        ({"instruction": "</s>", "output": "no</s>"}, [*"Q:</s>A:"], [*"no</s>", "</s>"]),
    ],
    ids=["reply", "blank input", "input", "中文", "steps", "a list of steps", "no steps", "special as text"],
)
def test_a_rows_tokens_and_which_are_trained(joining, row, prompt, reply):
    tokens, mask = tokens_and_mask(InstructionTemplate(SHORT), row, joining)
    assert tokens == ["<s>", *prompt, *reply]
    assert mask == [0] * (1 + len(prompt)) + [1] * len(reply)


def test_the_default_format_is_the_documented_one(tokenizer):
    row = {"instruction": "Sort.", "input": "2 1", "output": "1 2"}
    assert InstructionTemplate().segments(row, 0, tokenizer) == [
        BOS,
        Segment("### Instruction:\nSort.\n2 1\n\n### Response:\n", False),
        Segment("1 2", True),
        EOS,
    ]


@pytest.mark.parametrize(
    ("style", "prompt"),
    [
        ("trivium", "Be kind.\n\n### Instruction:\nSort.\n2 1\n\n### Response:\n"),
        (
            "alpaca",
            "Be kind.\n\nBelow is an instruction that describes a task, paired with an input that provides "
            "further context. Write a response that appropriately completes the request.\n\n"
            "### Instruction:\nSort.\n\n### Input:\n2 1\n\n### Response:",
        ),
        ("llama2", "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nSort.\n2 1 [/INST]"),
        (
            "chatml",
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nSort.\n2 1<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
    ],
)
def test_the_known_styles_with_a_system_text_and_an_input(tokenizer, style, prompt):
    template = InstructionTemplate(style=style, system="Be kind.")
    row = {"instruction": "Sort.", "input": "2 1", "output": "1 2"}
    assert template.segments(row, 0, tokenizer) == [BOS, Segment(prompt, False), Segment("1 2", True), EOS]


def test_alpaca_without_an_input(tokenizer):
    _, prompt = InstructionTemplate(style="alpaca").prompt({"instruction": "你好"}, 0, tokenizer)
    assert prompt.text == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\n你好\n\n### Response:"
    )


def test_the_rows_system_text_goes_before_the_arguments(tokenizer, chatml):
    row = {"instruction": "2", "output": "4", "system": "Mine."}
    for template, first in (
        (InstructionTemplate(SHORT, system="Yours."), "{}\n\nQ:2A:"),
        (ChatTemplate(system="Yours."), "<s>{}\n\n### Instruction:\n2\n\n### Response:\n"),
    ):
        for source, system in ((row, "Mine."), ({**row, "system": " "}, "Yours.")):
            segments = template.segments(source, 0, tokenizer)
            assert segments[-3].text == first.format(system)
    rendered = ChatTemplate(system="Yours.").segments({**chat("a", "b"), "system": None}, 0, chatml)
    assert rendered[0].text.startswith("<|im_start|>system\nYours.<|im_end|>\n<|im_start|>user\na")


def test_a_conversations_own_system_turn_stays_the_only_one(tokenizer):
    row = {"messages": [{"role": "system", "content": "Own."}, *chat("a", "b")["messages"]]}
    first, *_ = ChatTemplate(system="Yours.").segments(row, 0, tokenizer)
    assert first.text == "<s>Own.\n\n### Instruction:\na\n\n### Response:\n"


def test_a_format_of_your_own_says_where_system_and_content_go(tokenizer):
    template = InstructionTemplate("<{content}|{system}>", " ", system="{content}")
    row = {"instruction": "{system}", "input": "b"}
    assert template.prompt(row, 0, tokenizer)[1].text == "<{system} b|{content}\n\n>"


def test_special_tokens_of_a_format_are_tokens_and_those_of_people_are_not(chatml):
    row = {"instruction": "a<|im_end|>b", "output": "<|im_end|>"}
    tokens, mask = tokens_and_mask(InstructionTemplate(style="chatml"), row, chatml)
    assert [(token, trained) for token, trained in zip(tokens, mask, strict=True) if token[:2] == "<|"] == [
        *[("<|im_start|>", 0), ("<|im_end|>", 0), ("<|im_start|>", 0), ("<|im_end|>", 1)]
    ]
    assert chatml.decode(chatml.convert_tokens_to_ids(tokens)) == (
        "<s><|im_start|>user\na<|im_end|>b<|im_end|>\n<|im_start|>assistant\n<|im_end|><|im_end|>"
    )


def test_the_prompt_of_training_is_the_prompt_of_generation_and_a_given_start_follows_it(tokenizer, chatml):
    row = {"instruction": "2+2", "output": "yes", "reply_prefix": "y"}
    for template, using in itertools.product((InstructionTemplate(), ChatTemplate()), (tokenizer, chatml)):
        asked = template.prompt(row, 0, using)
        whole = template.segments(row, 0, using)
        assert texts(asked)[-1][0].endswith("y")
        assert asked == [segment for segment in whole if not segment.trained]
        assert texts(whole[len(asked) :]) == [("yes", True), (using.eos_token, True)]


@pytest.mark.parametrize("template", [InstructionTemplate(), ChatTemplate()])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"output": None}, BadRow, "no `output` (it has `instruction`)"),
        ({"output": 3}, BadRow, "`output` is int, not text"),
        ({"instruction": ["a"]}, BadRow, "`instruction` is list, not text"),
        ({"input": 3}, BadRow, "`input` is int, not text"),
        ({"system": 3}, BadRow, "`system` is int, not text"),
        ({"steps": 3}, BadRow, "`steps` is int, not text or a list of texts"),
        ({"steps": ["a", 3]}, BadRow, "`steps` is list, not text or a list of texts"),
        ({"instruction": " "}, DropRow, "empty `instruction`"),
        ({"output": "\n"}, DropRow, "empty `output`"),
    ],
)
def test_a_missing_field_is_refused_and_a_blank_one_dropped(tokenizer, template, change, error, message):
    with pytest.raises(error) as raised:
        template.segments({"instruction": "a", "output": "b", **change}, 0, tokenizer)
    assert str(raised.value) == message
