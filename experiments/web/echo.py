"""A prompt that stands before its own reply (`echo`), with how likely each of its tokens was."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from experiments.chat.engine import Piece
from experiments.chat.writing import Writing, Written
from experiments.evaluation.engine import Model


class Echo(NamedTuple):
    """What stands before a reply."""

    text: str = ""
    tokens: Sequence[Written] = ()

    def piece(self) -> Piece:
        """It, as what is told first."""
        return Piece(self.text, list(self.tokens))

    def behind(self, piece: Piece) -> Piece:
        """A piece of the reply whose tokens begin behind it."""
        tokens = [self._moved(token) for token in piece.tokens]
        return piece._replace(tokens=tokens, last=piece.last and self._moved(piece.last))

    def _moved(self, token: Written) -> Written:
        return token._replace(start=token.start + len(self.text))


def echo_of(model: Model, prompt: str | list[int], ids: Sequence[int], top_logprobs: int | None) -> Echo:
    """A prompt as text, and its tokens.

    Args:
        model: that reads it.
        prompt: as it was given.
        ids: the same as the model reads it.
        top_logprobs: how many likeliest tokens are told at each place; None = no tokens are told.
    """
    text = prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt, skip_special_tokens=True)
    if top_logprobs is None:
        return Echo(text)
    own: list[float] = []
    likeliest: list[list[tuple[int, float]]] = []
    if len(ids) > 1:
        row = torch.tensor(ids, device=model.device)
        logprobs, values, tokens = (part.tolist() for part in model.network.likeliest(row, top_logprobs))
        own = logprobs
        likeliest = [list(zip(*place, strict=True)) for place in zip(tokens, values, strict=True)]
    told = zip(ids, [None, *own], [[], *likeliest], starts_of(model, prompt, ids), strict=True)
    return Echo(text, [Written(*parts) for parts in told])


def starts_of(model: Model, prompt: str | list[int], ids: Sequence[int]) -> list[int]:
    """Where the text of each token begins in the prompt's, in characters."""
    if isinstance(prompt, str):
        offsets = model.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        return [start for start, _ in offsets] or [0] * len(ids)
    writing = Writing(model.tokenizer)
    for token in ids:
        writing.add(token)
    return [token.start for token in writing.take(finished=True)[1]]
