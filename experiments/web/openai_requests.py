"""What OpenAI's clients may ask, checked: every option is heeded or refused by its name, none passed over."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from experiments.chat.engine import SEEDS, Settings
from experiments.chat.shift import BIAS
from experiments.web.replies import Refusal

CHOICES = 16  # replies to one prompt, and prompts of one request, at most
STOPS = 4  # as OpenAI has it
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MEANS_NOTHING: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "store": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
}
"""options of OpenAI's that are not supported, and the values with which they ask for nothing"""
ABOUT_THE_CLIENT = ("user", "metadata", "safety_identifier", "prompt_cache_key")
PARTS_OF_A_REPLY = ("refusal", "annotations", "audio", "function_call", "tool_calls", "reasoning_content")
"""what OpenAI's clients send back with a reply; empty, since none came"""
TOKEN = re.compile("0|[1-9][0-9]{0,17}")


class StreamOptions(BaseModel):
    """What a stream has besides."""

    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False


class Wanted(BaseModel):
    """What both kinds of requests have."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())
    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=CHOICES)
    presence_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    logit_bias: dict[str, float] | None = None
    seed: int | None = Field(None, ge=-SEEDS, lt=2 * SEEDS)
    stop: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def check(self) -> None:
        """Refuses what is not supported.

        Raises:
            Refusal: the first such option.
        """
        for name, value in (self.model_extra or {}).items():
            if value is None or name in ABOUT_THE_CLIENT:
                continue
            if name not in MEANS_NOTHING:
                raise Refusal(f"`{name}` is no option here: leave it out", param=name, code="unknown_option")
            if value not in MEANS_NOTHING[name]:
                raise Refusal(f"`{name}` is not supported here: leave it out", param=name, code="unsupported")
        if self.stream_options and not self.stream:
            raise Refusal("`stream_options` is about streams: set `stream`", param="stream_options")

    def settings(self, default_tokens: int, top_logprobs: int | None) -> Settings:
        """How it is to be sampled.

        Args:
            default_tokens: the limit where none is given.
            top_logprobs: how many likeliest tokens are told; None = no log-probabilities.
        """
        return Settings(
            max_tokens=default_tokens if self.max_tokens is None else self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stops=stops_of(self.stop),
            top_logprobs=top_logprobs,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=bias_of(self.logit_bias or {}),
        )


class ChatRequest(Wanted):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def check(self) -> None:
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise Refusal("`top_logprobs` needs `logprobs: true`", param="top_logprobs")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise Refusal("`max_tokens` and `max_completion_tokens` differ: give one", param="max_tokens")
        self.max_tokens = limits.pop() if limits else None

    def conversation(self) -> tuple[list[dict[str, str]], str]:
        """The messages, role and content each, and the given start of the reply: an assistant's message at
        the end is what the reply goes on from.

        Raises:
            Refusal: there is none, or one is something else.
        """
        messages = [message_of(message, number) for number, message in enumerate(self.messages)]
        prefix = messages.pop()["content"] if messages and messages[-1]["role"] == "assistant" else ""
        if not messages:
            raise Refusal("`messages` has no message to reply to", param="messages")
        return messages, prefix


class CompletionRequest(Wanted):
    """`POST /v1/completions`: a text is continued as it is."""

    prompt: Any
    max_tokens: int | None = Field(None, ge=0)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    suffix: str | None = None

    def check(self) -> None:
        super().check()
        if self.suffix:
            raise Refusal("`suffix` is not supported here: leave it out", param="suffix", code="unsupported")
        if self.max_tokens == 0 and not self.echo:
            raise Refusal("`max_tokens` is 0: give 1 or more, or `echo` besides", param="max_tokens")

    def prompts(self) -> list[str | list[int]]:
        """The texts, or lists of token ids.

        Raises:
            Refusal: it is something else.
        """
        prompt = self.prompt
        several = prompt if isinstance(prompt, list) and not all(_is_token(x) for x in prompt) else [prompt]
        for each in several:
            if not (isinstance(each, str) or (isinstance(each, list) and each and all(map(_is_token, each)))):
                raise Refusal("`prompt` is no text, list of token ids, or list of these", param="prompt")
        if not 1 <= len(several) <= CHOICES:
            raise Refusal(f"`prompt` has {len(several)} prompts: give 1 to {CHOICES}", param="prompt")
        return several


def bias_of(given: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """Token ids, and what is added to their logits.

    Raises:
        Refusal: a key is no token id, or a value beyond ± 100.
    """
    for token, value in given.items():
        if not TOKEN.fullmatch(token):
            raise Refusal(f"`logit_bias` has {token!r}, which is no token id", param="logit_bias")
        if not -BIAS <= value <= BIAS:
            message = f"`logit_bias` is {value} for token {token}: give −100 to 100"
            raise Refusal(message, param="logit_bias")
    return tuple((int(token), value) for token, value in given.items())


def stops_of(stop: Any) -> tuple[str, ...]:
    """The texts that end a reply.

    Raises:
        Refusal: they are none, or too many.
    """
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not (isinstance(stops, list) and all(isinstance(each, str) and each for each in stops)):
        raise Refusal("`stop` is no text and no list of texts with a character each", param="stop")
    if len(stops) > STOPS:
        raise Refusal(f"`stop` has {len(stops)} texts: give {STOPS} or fewer", param="stop")
    return tuple(stops)


def message_of(message: dict[str, Any], number: int) -> dict[str, str]:
    """Role and content of a message.

    Raises:
        Refusal: it has another role, no text, or something besides.
    """
    where = f"messages.{number}"
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise Refusal(f"{where}: the role is {role!r}: give {', '.join(ROLES)}", param=f"{where}.role")
    for key, value in message.items():
        if key not in ("role", "content", "name") and not (key in PARTS_OF_A_REPLY and not value):
            raise Refusal(f"{where}: `{key}` is not supported here: leave it out", param=f"{where}.{key}")
    if isinstance(content, list):
        content = _joined(content, where)
    if not isinstance(content, str):
        kind = "missing" if content is None else f"{type(content).__name__}, not text"
        raise Refusal(f"{where}: the content is {kind}", param=f"{where}.content")
    return {"role": ROLES[role], "content": content}


def _joined(parts: Sequence[Any], where: str) -> str:
    for part in parts:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise Refusal(f"{where}: the content has a part that is no text", param=f"{where}.content")
    return "".join(part["text"] for part in parts)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
