"""Copies of a tokenizer's backend for whole texts: special tokens as tokens or as text, texts that go on
where another was cut."""

import json
import re
from bisect import bisect_left
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

from tokenizers import Encoding, Tokenizer

from datamodules.rendering.special_tokens import special_tokens

Offsets = list[tuple[int, int]]
"""where each token is in the text, in characters"""
MARKS = "\ue000{}:{}\ue001"  # in place of a special token: of Unicode's private use, with what numbers it


def probe(prompt: str) -> str:
    """What stands for a reply, to see how a prompt is read in front of one: a letter where it ends with white
    space, of which some tokenizers read the last character apart if something follows."""
    return "Ж" if prompt[-1:].isspace() else ""  # a letter that no tokenizer joins to it


class Backend:
    """One way to read special tokens, with settings of its own that no other use can disturb.

    Args:
        description: the tokenizer's, as JSON.
        special: matches what is a special token in the texts that it is given.
    """

    def __init__(self, description: dict[str, Any], special: re.Pattern[str]):
        self.description, self.special = description, special
        self.whole = self._loaded(description)

    @cached_property
    def continuing(self) -> Tokenizer:
        """The same, but it puts no space in front of a text."""
        return self._loaded({**self.description, **_without_prefix(self.description)})

    def ids(self, texts: list[str]) -> list[list[int]]:
        """The ids of every text, nothing added; safe to call from several threads."""
        return [encoding.ids for encoding in self.whole.encode_batch_fast(texts, add_special_tokens=False)]

    def encodings(self, texts: list[str]) -> list[Encoding]:
        """The same with offsets in characters."""
        return self.whole.encode_batch(texts, add_special_tokens=False)

    def prompt_ids(self, prompts: list[str]) -> list[list[int]]:
        """The ids that each has in front of a reply; where even a letter is joined to it, those that it has
        alone."""
        found = []
        for prompt, encoding in zip(prompts, self.encodings([p + probe(p) for p in prompts]), strict=True):
            ids, offsets = encoding.ids, encoding.offsets
            place = bisect_left(offsets, (len(prompt), -1))
            joined = place and offsets[place - 1][1] > len(prompt)
            found.append(self.ids([prompt])[0] if joined else ids[:place])
        return found

    def in_pieces(self, text: str, cuts: list[int], reply_follows: bool) -> tuple[list[int], Offsets]:
        """Ids and offsets of a text that is cut where replies begin, each piece with the ids that it has in
        front of a reply where one follows. Nothing is put in front of what goes on after a cut; what follows
        a special token there is read as in the whole text."""
        ids: list[int] = []
        offsets: Offsets = []
        for start, end in pairwise([0, *cuts, len(text)]):
            for reply in (probe(text[start:end]), "") if end < len(text) or reply_follows else ("",):
                more, places = self._piece(text[start:end], reply, start > 0)
                kept = bisect_left(places, (end - start, -1))
                if not kept or places[kept - 1][1] <= end - start:  # else the letter is joined to it
                    break
            ids += more[:kept]
            offsets += [(start + first, start + last) for first, last in places[:kept]]
        return ids, offsets

    def _piece(self, text: str, reply: str, goes_on: bool) -> tuple[list[int], Offsets]:
        match = self.special.search(text)
        middle = match.start() if match else len(text) + len(reply)  # where a tokenizer begins anew
        text += reply
        parts = [(self.continuing, 0, middle), (self.whole, middle, len(text))]
        ids: list[int] = []
        offsets: Offsets = []
        for tokenizer, start, end in parts if goes_on else [(self.whole, 0, len(text))]:
            encoding = tokenizer.encode(text[start:end], add_special_tokens=False)
            ids += encoding.ids
            offsets += [(start + first, start + last) for first, last in encoding.offsets]
        return ids, offsets

    def _loaded(self, description: dict[str, Any]) -> Tokenizer:
        # its post-processor adds nothing here, but would cut white space off the offsets
        copy = Tokenizer.from_str(json.dumps({**description, "post_processor": None}))
        copy.no_truncation()
        copy.no_padding()
        return copy


def special_backend(tokenizer: Any) -> Backend:
    """Special tokens in a text are tokens, whoever wrote them."""
    return _special(tokenizer, len(tokenizer))


def marked_backend(tokenizer: Any, salt: int) -> Backend:
    """Marks in a text are special tokens, and special tokens in it plain text, also to models that have them
    in their vocabulary."""
    return _marked(tokenizer, len(tokenizer), salt)


def marks(tokenizer: Any, salt: int) -> dict[str, str]:
    """The mark of every special token."""
    tokens = sorted(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return {token: MARKS.format(salt, number) for number, token in enumerate(tokens)}


# By the tokenizer's size, too, since tokens may have been added.


@lru_cache(maxsize=8)
def _special(tokenizer: Any, size: int) -> Backend:
    return Backend(_description(tokenizer), special_tokens(tokenizer))


@lru_cache(maxsize=8)
def _marked(tokenizer: Any, size: int, salt: int) -> Backend:
    description, names = _description(tokenizer), marks(tokenizer, salt)
    for token in description["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = description["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): i for token, i in vocabulary.items()}
    else:  # a Unigram model's
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if model.get("unk_token"):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if model.get("merges"):  # one that makes a special token of text
        model["merges"] = [pair for pair in model["merges"] if not {*pair, "".join(pair)} & names.keys()]
    backend = Backend(description, re.compile(MARKS.format(salt, r"\d+")))
    assert all(
        backend.whole.token_to_id(mark) == tokenizer.convert_tokens_to_ids(t) for t, mark in names.items()
    )
    return backend


def _description(tokenizer: Any) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())


def _without_prefix(description: dict[str, Any]) -> dict[str, Any]:
    return {part: _spaceless(description[part]) for part in ("normalizer", "pre_tokenizer")}


def _spaceless(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer that puts nothing in front of a text."""
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Sequence":
        (name,) = part.keys() - {"type"}
        return {**part, name: [kept for kept in map(_spaceless, part[name]) if kept]}
    off = {"prepend_scheme": "never", "add_prefix_space": False}
    return {**part, **{key: value for key, value in off.items() if key in part}}
