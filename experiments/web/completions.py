"""OpenAI's routes: `/v1/models`, `/v1/chat/completions` and `/v1/completions`, whole or streamed."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from experiments.chat import engine as chat
from experiments.chat.engine import Piece, Settings
from experiments.chat.prompts import prompt_ids
from experiments.chat.shift import BIAS
from experiments.chat.thread import EngineThread
from experiments.cli.user_errors import USER_ERRORS
from experiments.evaluation.engine import Model
from experiments.web.blind import Blind
from experiments.web.echo import Echo, echo_of
from experiments.web.openai_answers import ChatShape, Shape, Usage
from experiments.web.openai_requests import ChatRequest, CompletionRequest, Wanted
from experiments.web.replies import Refusal, error_body

BROKEN = "the server met a bug while it wrote: its terminal says more"


class Completions:
    """Answers OpenAI's requests with models.

    Args:
        models: by the names that clients ask for.
        engine: writes the replies.
        default_tokens: of a reply, where a request gives no limit.
    """

    def __init__(self, models: dict[str, Model], engine: EngineThread, default_tokens: int):
        self.models, self.engine, self.default_tokens = models, engine, default_tokens
        self.created = int(time.time())
        self.blind = Blind()

    def add_routes(self, app: FastAPI) -> None:
        """Lets an application answer them."""
        app.get("/v1/models")(self.list_models)
        app.get("/v1/models/{name}")(self.get_model)
        app.post("/v1/chat/completions")(self.chat)
        app.post("/v1/completions")(self.complete)

    async def list_models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._card(name) for name in self.models]}

    async def get_model(self, name: str) -> dict[str, Any]:
        self.model(name)
        return self._card(name)

    def _card(self, name: str) -> dict[str, Any]:
        positions = self.models[name].positions
        card = {"id": name, "object": "model", "created": self.created, "owned_by": "trivium"}
        return card if positions is None else {**card, "max_model_len": positions}

    def model(self, name: str) -> Model:
        """The model of a name, which may be one that hides it.

        Raises:
            Refusal: there is none.
        """
        name = self.blind.model_of(name)
        if name not in self.models:
            known = ", ".join(self.models)
            message = f"there is no model `{name}` here: ask for {known}"
            raise Refusal(message, 404, param="model", code="model_not_found")
        return self.models[name]

    async def chat(self, request: Request, wanted: ChatRequest) -> Response:
        model = self.model(wanted.model)
        wanted.check()
        messages, prefix = wanted.conversation()
        top = (wanted.top_logprobs or 0) if wanted.logprobs else None
        settings = wanted.settings(self.default_tokens, top)
        prompt = await self.compute(lambda: chat_ids(model, messages, prefix))
        check_length(model, prompt, "messages")
        check_bias(model, settings)
        shape = ChatShape(*self._heading(wanted, model), top is not None)
        return await self._respond(request, wanted, model, [prompt], settings, shape)

    async def complete(self, request: Request, wanted: CompletionRequest) -> Response:
        model = self.model(wanted.model)
        wanted.check()
        settings = wanted.settings(self.default_tokens, wanted.logprobs)
        check_bias(model, settings)
        given = wanted.prompts()
        prompts = await self.compute(lambda: [text_ids(model, prompt) for prompt in given])
        shape = Shape(*self._heading(wanted, model), wanted.logprobs is not None)
        for prompt in prompts:
            check_length(model, prompt, "prompt", settings.max_tokens)
        echoes = [Echo()] * len(prompts)
        if wanted.echo:  # one between two rounds each, since it may take a forward
            tops = wanted.logprobs
            pairs = zip(given, prompts, strict=True)
            echoes = [await self.compute(partial(echo_of, model, *pair, tops)) for pair in pairs]
        return await self._respond(request, wanted, model, prompts, settings, shape, echoes)

    async def compute(self, work: Any) -> Any:
        """What the engine's thread computes: tokenizers and networks are used by one thread alone."""
        return await asyncio.wrap_future(self.engine.call(work))

    def _heading(self, wanted: Wanted, model: Model) -> tuple[str, str, int, Any]:
        return secrets.token_hex(12), wanted.model, int(time.time()), model.tokenizer

    async def _respond(
        self,
        request: Request,
        wanted: Wanted,
        model: Model,
        prompts: list[list[int]],
        settings: Settings,
        shape: Shape,
        echoes: Sequence[Echo] = (Echo(),),
    ) -> Response:
        count = wanted.n or 1
        writing = Replies(self.engine, model, prompts, settings, count)
        starts = [echo for echo in echoes for _ in range(count)]
        if not wanted.stream:
            replies = await writing.whole(request)
            pieces = [
                joined(start.piece(), start.behind(reply))
                for start, reply in zip(starts, replies, strict=True)
            ]
            return JSONResponse(shape.answer(pieces, writing.usage()))
        tells_usage = wanted.stream_options is not None and wanted.stream_options.include_usage
        return Stream(writing, chunks(writing, shape, tells_usage, starts))


class Replies:
    """The replies of one request, while they are written.

    Args:
        engine: writes them.
        model: whose.
        prompts: ids, `count` replies to each.
        settings: of the sampling.
        count: replies to each prompt.

    Raises:
        Refusal: too many others are waiting.
    """

    def __init__(
        self, engine: EngineThread, model: Model, prompts: Sequence[list[int]], settings: Settings, count: int
    ):
        loop = asyncio.get_running_loop()
        self.pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self.prompt_tokens = sum(map(len, prompts))
        self.written = [0] * (len(prompts) * count)

        def told(index: int) -> Any:
            def tell(piece: Piece) -> None:
                loop.call_soon_threadsafe(self.pieces.put_nowait, (index, piece))

            return tell

        self.requests = [
            chat.Request(model, prompt, settings, choice, told(number * count + choice))
            for number, prompt in enumerate(prompts if settings.max_tokens else ())
            for choice in range(count)
        ]
        if not self.requests:  # nothing but the prompts is asked for
            for index in range(len(self.written)):
                self.pieces.put_nowait((index, Piece("", [], "length")))
        try:
            engine.submit(self.requests)
        except chat.Full:
            raise Refusal(
                "too many are waiting for replies: ask again in a moment",
                429,
                code="queue_full",
                headers={"retry-after": "1"},
            ) from None

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        left = len(self.written)
        while left:
            index, piece = await self.pieces.get()
            self.written[index] = piece.written
            left -= piece.finish is not None
            yield index, piece

    async def whole(self, request: Request) -> list[Piece]:
        """All of each reply; nothing is written on for a client that has hung up."""
        gone = asyncio.ensure_future(hung_up(request))
        done = asyncio.ensure_future(self._whole())
        try:
            await asyncio.wait((gone, done), return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise Refusal("the client has hung up", 499)
            return done.result()
        finally:
            self.cancel()
            gone.cancel()
            done.cancel()

    async def _whole(self) -> list[Piece]:
        wholes = [Piece("", [])] * len(self.written)
        async for index, piece in self:
            if piece.finish == "error":
                raise Refusal(BROKEN, 500)
            wholes[index] = joined(wholes[index], piece)
        return wholes

    def cancel(self) -> None:
        """Writes no more."""
        for request in self.requests:
            request.cancelled = True

    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(self.prompt_tokens, sum(self.written))


async def hung_up(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Stream(StreamingResponse):
    """Server-sent events; nothing is written on when the client has hung up."""

    def __init__(self, replies: Replies, events: AsyncIterator[str]):
        super().__init__(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        self.replies = replies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_one(message: Message) -> None:
            await send(message)
            await asyncio.sleep(0)  # a hang-up is told between two writes; asyncio warns of many after it

        try:
            await super().__call__(scope, receive, send_one)
        finally:
            self.replies.cancel()


def joined(before: Piece, piece: Piece) -> Piece:
    """Two pieces of a reply as one."""
    return piece._replace(text=before.text + piece.text, tokens=before.tokens + piece.tokens)


async def chunks(
    replies: Replies, shape: Shape, tells_usage: bool, starts: Sequence[Echo]
) -> AsyncIterator[str]:
    """The events of a stream."""

    def event(body: dict[str, Any]) -> str:
        if tells_usage:
            body = {"usage": None, **body}
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"

    for index, start in enumerate(starts):
        beginning = shape.part(index, start.piece()) if any(start) else shape.beginning(index)
        if beginning:
            yield event(beginning)
    async for index, piece in replies:
        if piece.finish == "error":
            yield f"data: {json.dumps(error_body(500, BROKEN))}\n\n"
            return
        yield event(shape.part(index, starts[index].behind(piece)))
    if tells_usage:
        yield event(shape.usage(replies.usage()))
    yield "data: [DONE]\n\n"


def chat_ids(model: Model, messages: list[dict[str, str]], prefix: str) -> list[int]:
    """A conversation as the model reads it.

    Raises:
        Refusal: its template has no place for a message.
    """
    try:
        return prompt_ids(model.tokenizer, messages, prefix)
    except USER_ERRORS as error:
        raise Refusal(str(error), param="messages") from error


def text_ids(model: Model, prompt: str | list[int]) -> list[int]:
    """A text as the tokenizer reads it, or ids that are given; one token at least.

    Raises:
        Refusal: an id is none of the vocabulary's.
    """
    if isinstance(prompt, str):
        return model.tokenizer.encode(prompt) or [model.prefix]
    if not all(0 <= token < model.vocabulary for token in prompt):
        raise Refusal(f"`prompt` has ids outside 0 to {model.vocabulary - 1}", param="prompt")
    return prompt


def check_length(model: Model, prompt: Sequence[int], param: str, wanted: int = 1) -> None:
    """Refuses a prompt, the field `param`, after which no position is left although tokens are `wanted`.

    Raises:
        Refusal: there is none.
    """
    if model.positions is not None and len(prompt) + min(wanted, 1) > model.positions:
        message = f"the prompt's {len(prompt)} tokens fill the {model.positions} positions of the model"
        raise Refusal(message, param=param, code="context_length_exceeded")


def check_bias(model: Model, settings: Settings) -> None:
    """Refuses a `logit_bias` that is not for this model's tokens, or leaves none of them.

    Raises:
        Refusal: it is.
    """
    bias = dict(settings.logit_bias)
    if max(bias, default=0) >= model.vocabulary:
        message = f"`logit_bias` has token {max(bias)}: the model's are 0 to {model.vocabulary - 1}"
        raise Refusal(message, param="logit_bias")
    if list(bias.values()).count(-BIAS) == model.vocabulary:
        raise Refusal("`logit_bias` bans every token", param="logit_bias")
