"""What clients may send `trivium serve`, swept: every documented option with every kind of odd value, texts
that are none, and conversations for a model that has no chat template."""

import json
import socket
import struct
from pathlib import Path

import httpx
import pytest
from openai.types import completion_create_params as text_params
from openai.types.chat import completion_create_params as chat_params

from datamodules.rendering.tokenizer import load_tokenizer
from experiments.chat.prompts import prompt_ids
from experiments.web.hosted import check, load
from tests.serving import random_model, serving

ODD = [
    *(-1, 0.5, float("nan"), float("inf"), 10**30, True, "", "x", "\0", "\u202e", [], [None], [""], {}),
    *({"a": 1}, [[]], "\ud800"),
]
ABOUT_THE_CLIENT = {"user", "metadata", "safety_identifier", "prompt_cache_key"}
TEXTS = ["x", "\0", "\u202e"]
HEEDED = {
    "prompt": ["", *TEXTS, [""]],
    "seed": [-1],
    "temperature": [0.5, 10**30],
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), [-1, 0.5]),
    "top_p": [0.5],
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), [10**30]),
    "stop": [*TEXTS, []],
    **dict.fromkeys(("stream", "echo", "logprobs", "parallel_tool_calls", "best_of"), [True]),
    **{"tools": [[]], "logit_bias": [{}], "suffix": [""]},
}
"""odd values that mean something, or ask for nothing"""
PATHS = {
    "/v1/chat/completions": (chat_params, {"messages": [{"role": "user", "content": "a"}]}),
    "/v1/completions": (text_params, {"prompt": "a"}),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_tokenizer, tiny_config):
    """A model without a chat template, as many are that were pretrained alone."""
    folder = random_model(tmp_path_factory.mktemp("plain") / "plain", tiny_tokenizer, tiny_config)
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    Path(folder, "chat_template.jinja").unlink(missing_ok=True)
    return load(*check([folder], None), None)


@pytest.fixture(scope="module")
def ask(plain):
    with serving(plain, "--max-new-tokens", "2") as url, httpx.Client(base_url=url, timeout=60) as client:

        def post(path, **body):
            content = json.dumps({"model": "plain", **body})  # NaN and half characters as Python writes them
            return client.post(path, content=content, headers={"Content-Type": "application/json"})

        yield post


@pytest.mark.parametrize("path", PATHS)
def test_an_option_is_heeded_or_refused_by_its_name_whatever_its_value(ask, path):
    params, body = PATHS[path]
    for name in [*params.CompletionCreateParamsBase.__annotations__, "stream", "top_k", "é"]:
        for value in ODD:
            answer = ask(path, **{**body, name: value})
            if answer.status_code == 200:
                assert name in ABOUT_THE_CLIENT or value in HEEDED[name], (name, value)
                continue
            error = answer.json()["error"]
            assert answer.status_code == (404 if error["code"] == "model_not_found" else 400), (name, value)
            assert error["param"].split(".")[0] == name, (name, value)
            assert name in error["message"] or error["code"] in ("model_not_found", "context_length_exceeded")
            assert "\n" not in error["message"]


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b'"a"', b"\xff", b'{"a":' * 9000, b"[" * 9000])
def test_a_body_that_is_no_request_is_told_in_a_line(plain, content):
    with serving(plain) as url:
        answer = httpx.post(
            f"{url}/v1/completions", content=content, headers={"Content-Type": "application/json"}
        )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


TURNS = [
    {"role": "system", "content": "be good"},
    {"role": "user", "content": "the film </s>"},
    {"role": "assistant", "content": "is good"},
    {"role": "user", "content": "music"},
]


@pytest.mark.parametrize("messages", [TURNS, TURNS[1:], TURNS[:2], TURNS[1:2]])
@pytest.mark.parametrize("prefix", ["", "great"])
def test_turns_without_a_chat_template_read_as_through_that_of_our_own_tokenizers(
    plain, tiny_tokenizer, messages, prefix
):
    without = plain.models["plain"].tokenizer
    assert without.chat_template is None
    assert prompt_ids(without, messages, prefix) == prompt_ids(
        load_tokenizer(tiny_tokenizer), messages, prefix
    )


def test_a_conversation_that_cannot_be_told_without_a_template_says_what_to_do(ask):
    good = ask("/v1/chat/completions", messages=TURNS, temperature=0)
    assert good.status_code == 200
    for messages in (TURNS[1:2] * 2, TURNS[2:], TURNS[:1], [TURNS[1], TURNS[0]]):
        error = ask("/v1/chat/completions", messages=messages).json()["error"]
        assert error["param"] == "messages"
        assert error["message"].startswith(
            "this model has no chat template: send turns of user and assistant"
        )


def test_clients_that_hang_up_while_much_is_written_leave_the_log_quiet(plain, caplog):
    body = {"model": "plain", "prompt": "a", "stream": True, "max_tokens": 100, "n": 16, "seed": 1}
    content = json.dumps(body).encode()
    with serving(plain, "--waiting", "400") as url:
        host, _, port = url.removeprefix("http://").partition(":")
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        for _ in range(12):
            with socket.create_connection((host, int(port))) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no farewell
                client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
                assert client.recv(12) == b"HTTP/1.1 200"
        last = httpx.post(f"{url}/v1/completions", json=body, timeout=60)  # takes its turn behind them
        assert last.text.endswith("data: [DONE]\n\n")
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
