"""Any text, whatever is in it: its tokens decode to it, and are those that the tokenizer gives alone."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.segments import Segment
from datamodules.rendering.templates import InstructionTemplate
from datamodules.rendering.tokenizer import double_bos, load_tokenizer, missing_eos
from datamodules.rendering.whole_text import Tokens, encode_batch
from tests.conversations import chat, chatml_tokenizer, joining_tokenizer


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


PIECES = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "\ue000",
    "\ue001",
    "{content}",
    "{system}",
    "好",
    "\n",
    " ",
]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=6).map("".join)
FILLED = TEXT.filter(str.strip)
ANY_TEXT = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def decoded(encoded: Tokens, tokenizer):
    """(text, trained) of every run of tokens of one kind."""
    runs = itertools.groupby(zip(encoded.trained, encoded.ids.tolist(), strict=True), lambda pair: pair[0])
    return [(tokenizer.decode([token for _, token in run]), bool(flag)) for flag, run in runs]


@given(rows=st.lists(st.tuples(FILLED, TEXT, FILLED, st.lists(TEXT, max_size=2)), min_size=1, max_size=4))
@ANY_TEXT
def test_any_instruction_row_decodes_to_its_prompt_and_reply(tokenizer, chatml, rows):
    for using, template in (
        (tokenizer, InstructionTemplate()),
        (chatml, InstructionTemplate(style="chatml")),
    ):
        before, after = template.format.split("{content}")
        segments, expected = [], []
        for instruction, extra, output, steps in rows:
            row = {"instruction": instruction, "input": extra, "output": output, "steps": steps}
            segments.append(template.segments(row, 0, using))
            content = instruction + ("\n" + extra if extra else "")
            reply = "\n".join([*steps, output] if "".join(steps).strip() else [output])
            expected.append([("<s>" + before + content + after, False), (reply + using.eos_token, True)])
        encoded = encode_batch(using, segments)
        assert [decoded(row, using) for row in encoded] == expected
        assert all(not len(missing_eos(row, using)) and not double_bos(row.ids, using) for row in encoded)


@given(turns=st.lists(st.tuples(TEXT, FILLED), min_size=1, max_size=3), system=FILLED)
@ANY_TEXT
def test_any_chat_decodes_to_its_turns(chatml, turns, system):
    row = {**chat(*itertools.chain(*turns)), "system": system}
    (encoded,) = encode_batch(chatml, [ChatTemplate().segments(row, 0, chatml)])
    expected, lead = [], f"<|im_start|>system\n{system}<|im_end|>\n"
    for user, reply in turns:
        given_text = f"{lead}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
        expected += [(given_text, False), (reply + "<|im_end|>", True)]
        lead = "\n"
    assert decoded(encoded, chatml) == expected
    for token in ("<|im_start|>", "<|im_end|>"):  # one a turn, whatever people wrote
        assert (encoded.ids == chatml.convert_tokens_to_ids(token)).sum() == 1 + 2 * len(turns)
    assert not np.isin(encoded.ids, chatml.convert_tokens_to_ids(["<s>", "</s>"])).any()


@given(rows=st.lists(st.tuples(st.lists(TEXT, max_size=4), st.booleans()), max_size=4))
@ANY_TEXT
def test_a_rows_ids_are_those_of_its_whole_text(tokenizer, chatml, joining, rows):
    """Whatever pieces it comes in, in one batch with others."""
    for using in (tokenizer, chatml, joining):
        encoded = encode_batch(
            using, [[Segment(text, True, special) for text in row] for row, special in rows]
        )
        for (row, special), (ids, trained) in zip(rows, encoded, strict=True):
            options = {"add_special_tokens": False, "split_special_tokens": not special}
            assert ids.tolist() == using("".join(row), **options)["input_ids"]
            assert trained.all()
            assert (ids.dtype, trained.dtype) == (np.int32, bool)


@given(row=st.lists(st.tuples(TEXT, st.booleans(), st.booleans()), max_size=4))
@ANY_TEXT
def test_special_tokens_of_plain_segments_are_text_and_those_of_others_tokens(tokenizer, chatml, row):
    for using in (tokenizer, chatml):
        (tokens,) = encode_batch(using, [[Segment(*segment) for segment in row]])
        assert using.decode(tokens.ids) == "".join(text for text, *_ in row)
        written = using("".join(text for text, _, special in row if special), add_special_tokens=False)
        for place in using.all_special_ids:
            assert (tokens.ids == place).sum() <= written["input_ids"].count(place)


def test_the_tokenizers_settings_come_back(tiny_tokenizer):
    tokenizer = load_tokenizer(tiny_tokenizer)
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(3)
    backend.enable_padding(pad_id=0, pad_token="<pad>", length=8)
    before = backend.to_str()
    row = [Segment("a film that is not slow", True)]
    for split in (False, True):
        backend.encode_special_tokens = split
        assert len(encode_batch(tokenizer, [row])[0].ids) > 3
        assert (backend.to_str(), backend.encode_special_tokens) == (before, split)
    with pytest.raises(TypeError):
        encode_batch(tokenizer, [[Segment(3, True)]])  # type: ignore[arg-type]
    assert (backend.to_str(), backend.encode_special_tokens) == (before, True)


def test_two_bos_and_a_missing_eos_are_seen(joining):
    assert double_bos([1, 1, 5], joining)
    assert not double_bos([1, 5, 1, 1], joining)
    assert not double_bos([1], joining)
    for trained, ends in (([0, 1, 1, 0, 1], True), ([0, 1, 0, 0, 1], False), ([0, 0, 0, 1, 0], False)):
        row = Tokens(np.array([1, 5, 2, 6, 2], np.int32), np.array(trained, bool))
        assert (len(missing_eos(row, joining)) == 0) is ends
