"""Conversations through the tokenizer's own chat template: which turns are trained, and that nobody can write
a special token."""

import pytest

from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.segments import BadRow, DropRow, Segment
from datamodules.rendering.tokenizer import load_tokenizer, missing_eos
from datamodules.rendering.whole_text import encode_batch
from tests.conversations import CHATML, chat, chatml_tokenizer, joining_tokenizer, texts, tokens_and_mask


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


def test_every_assistant_turn_or_the_last_alone_is_trained(tokenizer):
    row = chat("2+2", "yes", "你好吗", "很好")
    first = "<s>### Instruction:\n2+2\n\n### Response:\n"
    second = "### Instruction:\n你好吗\n\n### Response:\n"
    assert texts(ChatTemplate().segments(row, 0, tokenizer)) == [
        *[(first, False), ("yes", True), ("</s>", True)],
        *[(second, False), ("很好", True), ("</s>", True)],
    ]
    assert texts(ChatTemplate("last").segments(row, 0, tokenizer)) == [
        *[(first, False), ("yes</s>" + second, False), ("很好", True), ("</s>", True)]
    ]
    both = [
        encode_batch(tokenizer, [ChatTemplate(on).segments(row, 0, tokenizer)])[0] for on in ("all", "last")
    ]
    assert both[0].ids.tolist() == both[1].ids.tolist()


def test_what_follows_the_last_reply_is_left_out(tokenizer):
    assert ChatTemplate().segments(chat("a", "b", "c"), 0, tokenizer) == ChatTemplate().segments(
        chat("a", "b"), 0, tokenizer
    )


def test_chatml_gives_what_it_writes_after_a_turns_end(chatml):
    assert texts(ChatTemplate().segments(chat("a", "b", "c", "d"), 0, chatml)) == [
        (
            "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
            "<|im_start|>assistant\n",
            False,
        ),
        *[("b", True), ("<|im_end|>", True)],
        ("\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n", False),
        *[("d", True), ("<|im_end|>", True)],
    ]


def test_a_template_that_writes_no_eos_gives_no_segment_of_it(chatml, tiny_tokenizer):
    base = load_tokenizer(tiny_tokenizer)
    base.chat_template = CHATML
    segments = ChatTemplate().segments(chat("a", "b"), 0, base)
    assert texts(segments)[1:] == [("b<|im_end|>\n", True)]
    assert len(missing_eos(encode_batch(base, [segments])[0], base))


def test_a_template_that_changes_earlier_turns_can_still_train_the_last(tiny_tokenizer):
    """Reasoning models' templates write the thought of the last turn only."""
    tokenizer = load_tokenizer(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role[0] + ':' }}"
        "{{ m.content if loop.last else m.content.split('#')[-1] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
    )
    row = chat("q", "thought#b", "r", "thought#c")
    with pytest.raises(DropRow, match="changes earlier turns"):
        ChatTemplate().segments(row, 0, tokenizer)
    assert texts(ChatTemplate("last").segments(row, 0, tokenizer)) == [
        *[("u:q</s>a:", False), ("b</s>u:r</s>a:", False), ("thought#c", True), ("</s>", True)]
    ]


def test_special_tokens_that_people_wrote_in_a_chat_stay_plain_text(chatml):
    row = chat("</s><|im_end|>", "no<|im_start|>!", "2", "<|im_end|>4")
    segments = ChatTemplate().segments(row, 0, chatml)
    assert [segment for segment in segments if segment.text == "<|im_end|>"] == [
        *[Segment("<|im_end|>", False), Segment("<|im_end|>", True, True)],
        *[Segment("<|im_end|>", True), Segment("<|im_end|>", True, True)],
    ]
    tokens, mask = tokens_and_mask(ChatTemplate(), row, chatml)
    ends = [trained for token, trained in zip(tokens, mask, strict=True) if token == "<|im_end|>"]
    assert ends == [0, 0, 1, 0, 1]  # system, user, reply, user, reply
    assert "</s>" not in tokens
    assert tokens.count("<|im_start|>") == 5
    asked = ChatTemplate().prompt({"instruction": "<|im_end|>"}, 0, chatml)
    assert Segment("<|im_end|>", False) in asked


def test_private_use_characters_survive_beside_hidden_special_tokens(chatml):
    user, reply = "\ue000</s>\ue001\ue002", "\uf8ff<|im_end|>\ue000\U000f0000"
    segments = ChatTemplate().segments(chat(user, reply), 0, chatml)
    assert "".join(s.text for s in segments if not s.trained).endswith(
        f"user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "".join(s.text for s in segments if s.trained) == reply + "<|im_end|>"


def test_special_tokens_are_hidden_in_every_field_that_a_template_may_read(tiny_tokenizer):
    tokenizer = load_tokenizer(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.get('name', '') + m.get('tools', [''])[0] + m.content + eos_token }}"
        "{% endfor %}"
    )
    row = chat("a", "b")
    row["messages"][0] |= {"name": "</s>", "tools": ["</s>"]}
    (encoded,) = encode_batch(tokenizer, [ChatTemplate().segments(row, 0, tokenizer)])
    assert (encoded.ids == tokenizer.eos_token_id).sum() == 2


@pytest.mark.parametrize(
    ("messages", "error", "reason"),
    [
        ([("user", "a")], DropRow, "no assistant turn"),
        ([("assistant", "a"), ("user", "b")], DropRow, "begins with the assistant"),
        ([("robot", "a"), ("assistant", "b")], DropRow, "robot"),
        ([("user", "a"), ("assistant", " ")], DropRow, "empty reply"),
        ([("user", None), ("assistant", "b")], DropRow, "a message without content"),
        ([(None, "a"), ("assistant", "b")], DropRow, "a message without role"),
        ([("user", 3), ("assistant", "b")], BadRow, "`content` of a message is int, not text"),
        ([], DropRow, "empty `messages`"),
        (None, BadRow, "no `messages`"),
        ("a", BadRow, "`messages` is str, not a list"),
    ],
)
def test_a_chat_that_cannot_be_used_says_why(tokenizer, messages, error, reason):
    if isinstance(messages, list):
        messages = [{"role": role, "content": content} for role, content in messages]
    with pytest.raises(error, match=reason):
        ChatTemplate().segments({"messages": messages, "task": "x"}, 0, tokenizer)


def test_a_tokenizer_without_a_chat_template_is_refused(joining):
    with pytest.raises(BadRow, match="no chat template"):
        ChatTemplate().segments(chat("a", "b"), 0, joining)
