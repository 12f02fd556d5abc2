"""Replies in the shapes that OpenAI's clients read: a chat's and a text's, whole and in chunks."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from experiments.chat.engine import Piece
from experiments.chat.writing import Written

LEAST = -9999.0
"""what OpenAI writes for a log-probability that JSON cannot hold"""


class Usage(NamedTuple):
    """Tokens of a request."""

    prompt: int
    completion: int

    def body(self) -> dict[str, int]:
        """As OpenAI names them."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


class Shape:
    """How a kind of answer looks.

    Args:
        number: of the answer.
        model: its name.
        created: seconds since 1970.
        tokenizer: names the tokens.
        logprobs: whether log-probabilities are told.
    """

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def __init__(self, number: str, model: str, created: int, tokenizer: Any, logprobs: bool):
        self.head = {"id": f"{self.prefix}-{number}", "created": created, "model": model}
        self.tokenizer, self.logprobs = tokenizer, logprobs

    def answer(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        """The whole answer, from the whole reply of each choice."""
        choices = [self._choice(index, piece) for index, piece in enumerate(pieces)]
        return {**self.head, "object": self.whole, "choices": choices, "usage": usage.body()}

    def beginning(self, index: int) -> dict[str, Any] | None:
        """The chunk before a choice's first piece, where there is one."""
        return None

    def part(self, index: int, piece: Piece) -> dict[str, Any]:
        """A chunk with what has been added to a choice."""
        return self._chunk([self._choice(index, piece)])

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The chunk at the end that tells the tokens."""
        return {**self._chunk([]), "usage": usage.body()}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.head, "object": self.chunk, "choices": choices}

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        logprobs = None
        if self.logprobs:
            told = [*piece.tokens, *([piece.last] if piece.last else [])]  # as OpenAI, with what ended it
            logprobs = {
                "tokens": [self._name(written.token) for written in told],
                "token_logprobs": [finite(written.logprob) for written in told],
                "top_logprobs": [self._likeliest(written) for written in told],
                "text_offset": [written.start for written in told],
            }
        return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}

    def _likeliest(self, written: Written) -> dict[str, float | None] | None:
        """The likeliest tokens and, as OpenAI has it, the token itself besides."""
        if written.logprob is None:
            return None
        likeliest: dict[str, float | None] = {}
        for token, logprob in [*written.top, (written.token, written.logprob)]:
            likeliest.setdefault(self._name(token), finite(logprob))  # of halves of characters the first
        return likeliest

    def _name(self, token: int) -> str:
        return token_name(self.tokenizer, token)[0]


class ChatShape(Shape):
    """A chat's answer."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def beginning(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return self._chunk([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def part(self, index: int, piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text or piece.tokens else {}
        choice = {"index": index, "delta": delta, "logprobs": self._logprobs(piece.tokens)}
        return self._chunk([{**choice, "finish_reason": piece.finish}])

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        choice = {"index": index, "message": message, "logprobs": self._logprobs(piece.tokens)}
        return {**choice, "finish_reason": piece.finish}

    def _logprobs(self, tokens: Sequence[Written]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        content = [
            {
                **self._likelihood(written.token, written.logprob),
                "token_id": written.token,  # OpenAI's has none; the page sends it back to have it judged
                "top_logprobs": [self._likelihood(token, logprob) for token, logprob in written.top],
            }
            for written in tokens
        ]
        return {"content": content, "refusal": None}

    def _likelihood(self, token: int, logprob: float | None) -> dict[str, Any]:
        name, raw = token_name(self.tokenizer, token)
        return {"token": name, "logprob": finite(logprob), "bytes": list(raw)}


def finite(logprob: float | None) -> float | None:
    """A log-probability that JSON can hold."""
    return None if logprob is None else max(logprob, LEAST)


def token_name(tokenizer: Any, token: int) -> tuple[str, bytes]:
    """A token as text, and its bytes, of which characters may have several tokens."""
    raw = token_bytes(tokenizer, token)
    return raw.decode("utf-8", "replace"), raw


@lru_cache(maxsize=2**16)
def token_bytes(tokenizer: Any, token: int) -> bytes:
    """What a token adds to a text."""
    text = tokenizer.convert_ids_to_tokens(token)
    if text is None:  # a row of the embedding that is no token's
        return b""
    if token in tokenizer.added_tokens_decoder:
        return text.encode()
    table = _byte_table()
    if is_byte_level(tokenizer) and all(character in table for character in text):
        return bytes(table[character] for character in text)
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):  # a byte of SentencePiece's
        return bytes([int(text[3:5], 16)])
    return text.replace("\u2581", " ").encode("utf-8", "replace")


@lru_cache(maxsize=16)
def is_byte_level(tokenizer: Any) -> bool:
    """Whether the characters of tokens stand for bytes, as in GPT-2."""
    decoder = json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder")
    return '"ByteLevel"' in json.dumps(decoder)


@lru_cache(maxsize=1)
def _byte_table() -> dict[str, int]:
    """Character → byte: printable bytes are written as they are, the others, in their order, from U+0100 on
    (encoder.py of github.com/openai/gpt-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
