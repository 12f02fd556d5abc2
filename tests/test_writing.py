"""A reply's text as it is given out: whole characters, no stop text, and the same as decoding at the end."""

from hypothesis import given
from hypothesis import strategies as st

from datamodules.rendering.tokenizer import load_tokenizer
from experiments.chat.writing import Writing
from experiments.web.openai_answers import token_bytes


def written(tokenizer, ids, stops=()):
    """What was given out, bit by bit, and the tokens with it."""
    writing, texts, tokens = Writing(tokenizer, stops), [], []
    for token in ids:
        writing.add(token)
        for given_out, more in zip((texts, tokens), writing.take(finished=False), strict=True):
            given_out.append(more)
        if writing.stopped:
            break
    text, rest = writing.take(finished=True)
    return [*texts, text], [token.token for part in [*tokens, rest] for token in part]


@given(st.text(), st.lists(st.integers(0, 329), max_size=8))
def test_pieces_are_whole_characters_and_together_what_decoding_gives(tiny_tokenizer, text, noise):
    tokenizer = load_tokenizer(tiny_tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    pieces, tokens = written(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True) == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)
    assert tokens == ids
    assert b"".join(token_bytes(tokenizer, token) for token in ids) == text.encode()
    broken = ids + noise  # bytes that are no characters
    assert "".join(written(tokenizer, broken)[0]) == tokenizer.decode(broken, skip_special_tokens=True)


@given(
    st.text("ab好\n", max_size=30), st.lists(st.text("ab好", min_size=1, max_size=4), min_size=1, max_size=4)
)
def test_a_reply_ends_before_the_stop_text_that_is_complete_first_and_gives_no_part_of_it(
    tiny_tokenizer, text, stops
):
    tokenizer = load_tokenizer(tiny_tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces, tokens = written(tokenizer, ids, stops)
    # character by character, the first that is complete, and of several the longest
    places = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert "".join(pieces) == (text[: min(places)[1]] if places else text)
    assert tokens == ids[: len(tokens)]
    assert len(tokens) == len(ids) or places
