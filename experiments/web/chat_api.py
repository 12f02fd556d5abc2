"""What the page asks beside OpenAI's routes: a prompt as the model sees it, passages, judgements, a saved
conversation."""

import json
import os
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from experiments.chat.prompts import prompt_ids
from experiments.cli.user_errors import UserError
from experiments.commands.chat_documents import Reading, TooLong, shared_words
from experiments.evaluation.engine import Model
from experiments.web.completions import Completions, chat_ids
from experiments.web.hosted import Hosted
from experiments.web.judge import reply_logprobs
from experiments.web.openai_requests import message_of
from experiments.web.page import Page
from experiments.web.replies import Refusal

Messages = Annotated[list[dict[str, Any]], Field(min_length=1)]


class Asked(BaseModel):
    """A conversation of a model."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())
    model: str
    messages: Messages

    def conversation(self) -> list[dict[str, str]]:
        """Role and content of each message."""
        return [message_of(message, number) for number, message in enumerate(self.messages)]


class Judged(Asked):
    """A reply to it."""

    tokens: list[int]
    reply: str
    passages: list[str] = []


class Question(BaseModel):
    """A question that is asked beside passages."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())
    model: str
    question: str
    restrict: bool
    max_tokens: int = Field(ge=1)


class Compared(BaseModel):
    """Models that are compared blind."""

    model_config = ConfigDict(strict=True, extra="forbid")
    models: Annotated[list[str], Field(min_length=2, max_length=16)]


class Hidden(BaseModel):
    """The names that they were given."""

    model_config = ConfigDict(strict=True, extra="forbid")
    names: list[str]


class ChatApi:
    """Answers the page.

    Args:
        hosted: what is loaded.
        completions: OpenAI's routes, whose engine's thread computes here too.
        reading: the documents, if any.
        file: where conversations are saved, if anywhere.
    """

    def __init__(self, hosted: Hosted, completions: Completions, reading: Reading | None, file: str | None):
        self.hosted, self.completions, self.reading, self.file = hosted, completions, reading, file

    def add_routes(self, app: FastAPI, default_tokens: int) -> None:
        """Lets an application answer the page, and show it."""
        page = Page("chat", self._data(default_tokens))
        app.get("/")(page.response)
        app.post("/api/prompt")(self.prompt)
        app.post("/api/judge")(self.judge)
        app.post("/api/blind")(self.hide)
        app.post("/api/reveal")(self.reveal)
        if self.reading:
            app.post("/api/passages")(self.passages)
        if self.file:
            app.post("/api/save")(self.save)

    def _data(self, default_tokens: int) -> dict[str, Any]:
        return {
            "models": list(self.hosted.models),
            "critics": list(self.hosted.critics),
            "scorers": list(self.hosted.scorers),
            "reference": self.hosted.reference is not None,
            "documents": self.reading is not None,
            "restrict": self.reading is not None and self.reading.restrict,
            "saves": self.file is not None,
            "max_tokens": default_tokens,
        }

    async def prompt(self, asked: Asked) -> dict[str, Any]:
        """What the model is given, with its special tokens."""
        model, messages = self.completions.model(asked.model), asked.conversation()

        def rendered() -> dict[str, Any]:
            ids = chat_ids(model, messages, "")
            return {"text": model.tokenizer.decode(ids), "tokens": len(ids)}

        return await self.completions.compute(rendered)

    async def hide(self, compared: Compared) -> dict[str, Any]:
        """Names for models, by which they reply and which do not tell who is who."""
        for name in compared.models:
            self.completions.model(name)
        return {"names": self.completions.blind.hide(compared.models)}

    async def reveal(self, hidden: Hidden) -> dict[str, Any]:
        """Who is who."""
        return {"models": self.completions.blind.reveal(hidden.names)}

    async def judge(self, judged: Judged) -> dict[str, Any]:
        """What others say of a reply: by token `kl`, the log-probability less the reference's, and `values`;
        `scores` of the whole; `shared`, how many of its words each passage has."""
        model, messages = self.completions.model(judged.model), judged.conversation()
        if not all(0 <= token < model.vocabulary for token in judged.tokens):
            raise Refusal(f"`tokens` has ids outside 0 to {model.vocabulary - 1}", param="tokens")
        return await self.completions.compute(lambda: self._judge(model, messages, judged))

    def _judge(self, model: Model, messages: list[dict[str, str]], judged: Judged) -> dict[str, Any]:
        prompt, tokens = chat_ids(model, messages, ""), judged.tokens
        if model.positions is not None and len(prompt) + len(tokens) > model.positions:
            raise Refusal("the conversation has more tokens than the model positions", param="tokens")
        kl = values = None
        if self.hosted.reference and tokens:
            own = reply_logprobs(model, prompt, tokens)
            theirs = reply_logprobs(self.hosted.reference, prompt, tokens)
            kl = [ours - other for ours, other in zip(own, theirs, strict=True)]
        if (critic := self.hosted.critics.get(judged.model)) and tokens:
            values = critic.values(prompt, tokens)
        scores = {
            name: _told(lambda scorer=scorer: scorer.score(messages, judged.reply))  # type: ignore[misc]
            for name, scorer in self.hosted.scorers.items()
        }
        shared = shared_words(judged.passages, judged.reply) if judged.passages else []
        return {"kl": kl, "values": values, "scores": scores, "shared": shared}

    async def passages(self, question: Question) -> dict[str, Any]:
        """A question with the best passages that fit, as `trivium chat --documents` asks it."""
        model = self.completions.model(question.model)
        assert self.reading is not None
        reading = Reading(self.reading.retriever, self.reading.count, question.restrict)

        def room(text: str) -> int:
            ids = prompt_ids(model.tokenizer, [{"role": "user", "content": text}], "")
            return model.room(len(ids)) - question.max_tokens

        try:
            asked = await self.completions.compute(lambda: reading.ask(question.question, room))
        except TooLong as error:
            raise Refusal(str(error), param="question", code="passages_too_long") from error
        hits = [
            {"source": hit.passage.source, "text": hit.passage.text, "score": float(hit.score)}
            for hit in asked.hits
        ]
        return {"text": asked.text, "passages": hits}

    async def save(self, asked: Asked) -> dict[str, Any]:
        """Adds a conversation to the file, as a row that `InstructionData` reads with `ChatTemplate`."""
        self.completions.model(asked.model)
        assert self.file is not None
        append(self.file, {"messages": asked.conversation(), "model": asked.model})
        return {"saved": True}


def append(file: str, row: dict[str, Any]) -> None:
    """Adds a row to JSON lines, on the disk when this returns.

    Raises:
        UserError: the file cannot be written.
    """
    line = json.dumps(row, ensure_ascii=False) + "\n"
    try:
        with open(file, "ab") as lines:
            lines.write(line.encode("utf-8", "replace"))
            lines.flush()
            os.fsync(lines.fileno())
    except OSError as error:
        raise UserError(f"--save {file}: {error.strerror}: give a file that can be written") from error


def _told(score: Callable[[], float]) -> float | str:
    """A score, or why there is none."""
    try:
        return score()
    except ValueError as error:  # each folder's UserError
        return str(error)
