"""The token that ends an assistant's turn is found in the chat template, not assumed to be the eos."""

import logging

import pytest

from datamodules.rendering.chat_template import turn_end
from datamodules.rendering.tokenizer import load_tokenizer

TURN = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + END }}{% endfor %}"


@pytest.fixture
def tokenizer(tiny_tokenizer):
    tokenizer = load_tokenizer(tiny_tokenizer)  # its eos is </s>
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (TURN.replace("END", "'<|im_end|>\n'"), "<|im_end|>"),
        (TURN.replace("END", "'<|im_end|>\n'") + "{{ eos_token }}", "<|im_end|>"),  # as Phi 3 closes a chat
        (TURN.replace("END", "'\n<|im_end|>'").replace("m.content", "m.content | trim"), "<|im_end|>"),
        (TURN.replace("END", "eos_token + '\n'"), None),
        (TURN.replace("END", "'<end>\n'"), None),  # text, no token
        (TURN.replace("END", "'\n'"), None),
        ("<|im_end|>", None),  # the answer is nowhere
        ("{{ raise_exception('never') }}", None),
        (None, None),
    ],
)
def test_the_turns_end_is_the_first_token_after_an_answer(tokenizer, template, end):
    tokenizer.chat_template = template
    assert turn_end(tokenizer) == (None if end is None else tokenizer.convert_tokens_to_ids(end))


def test_a_turns_end_that_is_not_eos_is_told_once(tokenizer, caplog):
    tokenizer.chat_template = TURN.replace("END", "'<|im_end|>\n'")
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        for _ in range(3):
            turn_end(tokenizer)
    assert len([r for r in caplog.records if "<|im_end|> (eos is </s>)" in r.getMessage()]) == 1
    tokenizer.eos_token = "<|im_end|>"
    assert turn_end(tokenizer) is None
