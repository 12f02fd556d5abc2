"""Replies to many at once: one engine for all models, in rounds of one token for each reply that is being
written; what a reply says depends on its prompt and settings, never on who else is answered."""

import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from experiments.chat.shift import Shift
from experiments.chat.writing import Writing, Written
from experiments.cli.user_errors import UserError
from experiments.evaluation.engine import Model
from modules.decoding import RunningBatch, running_batch
from modules.generation import draw, nucleus, uniforms

TOGETHER = 32
"""replies that are written at the same time"""
PREFILL = 2048
"""tokens of prompts, padded to the longest, that one round reads: replies being written wait no longer"""
SEEDS = 2**63


class Settings(NamedTuple):
    """How a reply is sampled."""

    max_tokens: int
    temperature: float = 1.0
    """0 takes the likeliest token"""
    top_p: float = 1.0
    seed: int | None = None
    """None draws one"""
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None
    """how many of the likeliest tokens are told at each place; None = no log-probabilities at all"""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """these three as `Shift` has them"""

    def shift(self, model: Model) -> Shift | None:
        """What is added to the logits of a reply; None where nothing is."""
        if not (self.presence_penalty or self.frequency_penalty or self.logit_bias):
            return None
        bias = dict(self.logit_bias)
        device = model.network.model.device
        return Shift(self.presence_penalty, self.frequency_penalty, bias, model.vocabulary, device)


class Piece(NamedTuple):
    """What has been added to a reply."""

    text: str
    tokens: list[Written]
    finish: str | None = None
    """`stop`: a stop token or text; `length`: the limit, or the model's positions; `error`: a bug"""
    written: int = 0
    """tokens sampled so far"""
    last: Written | None = None
    """the stop token, which is no part of the text"""


class Request:
    """A reply that is wanted.

    Args:
        model: whose.
        prompt: ids that it continues; one at least, and one position is left.
        settings: of the sampling.
        choice: which of several replies to the same prompt; each is drawn for itself.
        tell: called, from the engine's thread, with each piece.
    """

    def __init__(
        self,
        model: Model,
        prompt: Sequence[int],
        settings: Settings,
        choice: int = 0,
        tell: Callable[[Piece], Any] = lambda piece: None,
    ):
        self.model, self.prompt, self.settings, self.tell = model, list(prompt), settings, tell
        room = settings.max_tokens
        if model.positions is not None:
            room = min(room, model.positions - len(prompt))
        assert self.prompt
        assert room > 0
        self.room = room
        self.cancelled = False
        self.writing = Writing(model.tokenizer, settings.stops)
        self.shift = settings.shift(model)
        self.noise: Tensor | None = None
        if settings.temperature > 0:
            seed = secrets.randbelow(SEEDS) if settings.seed is None else settings.seed % (2 * SEEDS)
            self.noise = uniforms(seed, 0, [choice], room)[0]

    def take(self, token: int, logprob: float, top: Sequence[tuple[int, float]]) -> bool:
        """Adds a token, tells what it adds; whether the reply has ended with it."""
        written = len(self.writing.ids) + 1
        if token in self.model.stops:
            text, tokens = self.writing.take(finished=True)
            last = Written(token, logprob, list(top), len(self.writing.text))
            self.tell(Piece(text, tokens, "stop", written, last))
            return True
        self.writing.add(token, logprob, top)
        if self.shift is not None:
            self.shift.count(token)
        ended = self.writing.stopped or written == self.room
        finish = None if not ended else "stop" if self.writing.stopped else "length"
        text, tokens = self.writing.take(finished=ended)
        if ended and self.writing.stopped:
            finish = "stop"  # the last characters may have been a stop text too
        if text or tokens or ended:
            self.tell(Piece(text, tokens, finish, written))
        return ended


class Full(Exception):
    """More replies are waiting than the engine takes."""


class Engine:
    """Writes replies; `advance` does a round.

    Args:
        together: replies written at the same time, of all models.
        waiting: further ones that may wait.
    """

    def __init__(self, together: int = TOGETHER, waiting: int | None = None):
        self.together, self.limit = together, waiting
        self.waiting: deque[Request] = deque()
        self.running: dict[int, tuple[RunningBatch, list[Request]]] = {}  # by the model's id
        self.active = 0
        """replies that are being written; read by other threads"""

    def submit(self, requests: Sequence[Request]) -> None:
        """Lets replies wait for their turn, all or none.

        Raises:
            Full: there is no room.
        """
        places = self.together - self.active - len(self.waiting)
        if self.limit is not None and len(requests) > self.limit + places:
            raise Full
        self.waiting.extend(requests)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.running)

    @torch.no_grad()
    def advance(self) -> None:
        """Takes in those who wait, as far as there is room, and adds a token to every reply."""
        for key, requests in self._joining().items():
            if key not in self.running:
                self.running[key] = running_batch(requests[0].model.network), []
            batch, before = self.running[key]
            before.extend(requests)
            with self._told(key):
                batch.join([request.prompt for request in requests])
        self.active = sum(len(requests) for _, requests in self.running.values())
        for key, (batch, requests) in list(self.running.items()):
            with self._told(key):
                kept = self._write(batch, requests)
                self.running[key] = batch, kept
                if not kept:
                    del self.running[key]
        self.active = sum(len(requests) for _, requests in self.running.values())

    @contextmanager
    def _told(self, key: int) -> Iterator[None]:
        """Tells a model's replies when a bug has ended them; the other models go on."""
        try:
            yield
        except BaseException:
            for request in self.running.pop(key)[1]:
                request.tell(Piece("", [], "error", len(request.writing.ids)))
            raise

    def _joining(self) -> dict[int, list[Request]]:
        """Those whose turn it is, by their model: first come, first served."""
        free, longest, count = self.together - self.active, 0, 0
        joining: dict[int, list[Request]] = {}
        while self.waiting and free > count:
            request = self.waiting[0]
            gone, width = request.cancelled, max(longest, len(request.prompt))
            if not gone and count and width * (count + 1) > PREFILL:
                break
            self.active += 1  # before it is waiting no more: who counts both in between counts enough
            self.waiting.popleft()
            if not gone:
                joining.setdefault(id(request.model), []).append(request)
                longest, count = width, count + 1
        return joining

    def _write(self, batch: RunningBatch, requests: list[Request]) -> list[Request]:
        """Adds a token to each; those that go on."""
        chosen = choose(batch.logits, requests)
        scored = likelihoods(batch.logits, chosen, requests)
        tokens = chosen.tolist()
        kept = [
            row
            for row, request in enumerate(requests)
            if not request.cancelled and not request.take(tokens[row], *scored[row])
        ]
        if len(kept) < len(requests):
            batch.keep(kept)
        if kept:
            batch.step(chosen[kept])
        return [requests[row] for row in kept]


def choose(logits: Tensor, requests: Sequence[Request]) -> Tensor:
    """The next token (B,) of each row of logits (B, V)."""
    known = logits[:, : requests[0].model.vocabulary].float()
    shifts = {row: request.shift.values for row, request in enumerate(requests) if request.shift is not None}
    if shifts:
        known = known.clone()  # the log-probabilities that are told are the model's own
        known[list(shifts)] += torch.stack(list(shifts.values()))
    drawn = [row for row, request in enumerate(requests) if request.noise is not None]
    chosen = known.argmax(-1)
    if drawn:
        settings = [requests[row].settings for row in drawn]
        # from the largest on, in double precision: or a small temperature gives ∞
        part = known[drawn].double()
        part -= part.max(-1, keepdim=True).values
        part /= part.new_tensor([each.temperature for each in settings])[:, None]
        if any(each.top_p < 1 for each in settings):
            part = nucleus(part, part.new_tensor([each.top_p for each in settings]))
        noise = [requests[row].noise[len(requests[row].writing.ids)] for row in drawn]  # type: ignore[index]
        chosen[drawn] = draw(part.float(), torch.stack(noise).to(logits.device))
    return chosen


def likelihoods(
    logits: Tensor, chosen: Tensor, requests: Sequence[Request]
) -> list[tuple[float, list[tuple[int, float]]]]:
    """The log-probability of each row's token among all rows of the embedding, as it is trained, and of the
    likeliest ones, where they are asked for."""
    asked = [row for row, request in enumerate(requests) if request.settings.top_logprobs is not None]
    scored: list[tuple[float, list[tuple[int, float]]]] = [(0.0, [])] * len(requests)
    if asked:
        logprobs = logits[asked].float().log_softmax(-1)
        own = logprobs.gather(1, chosen[asked, None]).squeeze(1).tolist()
        count = max(requests[row].settings.top_logprobs or 0 for row in asked)
        values, tokens = (part.tolist() for part in logprobs.topk(min(count, logprobs.shape[1])))
        for place, row in enumerate(asked):
            wanted = requests[row].settings.top_logprobs
            top = list(zip(tokens[place], values[place], strict=True))[:wanted]
            scored[row] = own[place], top
    return scored


def reply(model: Model, prompt: Sequence[int], settings: Settings) -> Iterator[Piece]:
    """One reply, as it is written, where nobody else is answered."""
    pieces: deque[Piece] = deque()
    engine = Engine()
    engine.submit([Request(model, prompt, settings, tell=pieces.append)])
    while engine.busy:
        engine.advance()
        while pieces:
            yield pieces.popleft()


def check_room(model: Model, prompt: Sequence[int]) -> None:
    """Refuses a prompt after which no position is left.

    Raises:
        UserError: there is none.
    """
    if model.positions is not None and len(prompt) >= model.positions:
        raise UserError(
            f"chat: the conversation's {len(prompt)} tokens fill the {model.positions} positions of the model"
        )
