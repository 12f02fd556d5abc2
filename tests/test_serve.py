"""`trivium serve` for OpenAI's own client: what it says, how it is asked, what is refused."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import openai
import pytest
import torch

from experiments.chat.engine import Engine, Request, Settings, reply
from experiments.chat.prompts import prompt_ids
from experiments.cli.program import main
from experiments.web.hosted import Hosted, check, load
from tests.serving import random_model, serving

ASK = [{"role": "user", "content": "the film is"}]


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tiny_tokenizer, tiny_config):
    return random_model(tmp_path_factory.mktemp("served") / "tiny", tiny_tokenizer, tiny_config)


@pytest.fixture(scope="module")
def hosted(directory):
    return load(*check([directory], None), None)


@pytest.fixture(scope="module")
def url(hosted):
    with serving(hosted, "--max-new-tokens", "24") as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def model(hosted):
    return hosted.models["tiny"]


def chat(client, **options):
    return client.chat.completions.create(**{"model": "tiny", "messages": ASK, "temperature": 0, **options})


def streamed(client, **options):
    """Text, finish reason, the tokens' log-probabilities and the last chunk's usage of a streamed chat."""
    chunks = list(chat(client, stream=True, **options))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    text = "".join(choice.delta.content or "" for choice in choices)
    assert choices[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in choices[:-1]] == [None] * (len(choices) - 1)
    return text, choices[-1].finish_reason, tokens, chunks[-1].usage


def test_a_stream_says_what_trivium_chat_says(client, directory, capsys):
    line = ["chat", directory, "--prompt", ASK[0]["content"], "--temperature", "0", "--max-new-tokens", "24"]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert len(said) > 24
    assert streamed(client, max_tokens=24)[0] + "\n" == said
    assert chat(client).choices[0].message.content + "\n" == said


def test_models_are_listed(client):
    assert [each.id for each in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "trivium"
    with pytest.raises(openai.NotFoundError, match="there is no model `gpt` here: ask for tiny"):
        client.models.retrieve("gpt")


def test_a_stop_text_ends_a_reply_wherever_tokens_are_cut(client):
    whole = chat(client, max_tokens=12, logprobs=True).choices[0]
    text, pieces = whole.message.content, [token.token for token in whole.logprobs.content]
    assert "".join(pieces) == text
    for place in range(2, 14):
        stop = text[place : place + 4]
        at = text.index(stop)
        answer = chat(client, max_tokens=12, stop=["no such text", stop], logprobs=True).choices[0]
        assert (answer.message.content, answer.finish_reason) == (text[:at], "stop")
        told = [token.token for token in answer.logprobs.content]
        assert told == pieces[: len(told)]
        assert len("".join(told[:-1])) < at <= len("".join(told))
        if place % 4 == 0:
            assert streamed(client, max_tokens=12, stop=stop)[:2] == (text[:at], "stop")


def test_what_is_drawn_depends_on_seed_and_prompt_whoever_else_asks(client):
    def draw(seed):
        return chat(client, temperature=1.0, seed=seed, max_tokens=20).choices[0].message.content

    alone = [draw(seed) for seed in range(12)]
    assert len(set(alone)) > 6
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(draw, range(12))) == alone
    assert draw(-1) == draw(-1)
    both = chat(client, temperature=1.0, seed=3, max_tokens=20, n=2).choices
    assert both[0].message.content == alone[3] != both[1].message.content


def test_a_nucleus_of_nothing_is_greedy_and_unseeded_draws_differ(client):
    greedy = chat(client).choices[0].message.content
    assert chat(client, temperature=2.0, top_p=0.0, seed=1).choices[0].message.content == greedy
    assert chat(client, temperature=1e-30, seed=1).choices[0].message.content == greedy
    assert len({chat(client, temperature=1.0).choices[0].message.content for _ in range(4)}) > 1


def test_log_probabilities_are_those_of_one_forward_also_while_streaming(client, model):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model.network.model.name_or_path)
    whole = chat(client, logprobs=True, top_logprobs=3, temperature=1.0, seed=5)
    tokens = whole.choices[0].logprobs.content
    ids = prompt_ids(model.tokenizer, ASK, "")
    written = [token.token_id for token in tokens]
    with torch.no_grad():
        logits = plain(input_ids=torch.tensor([ids + written])).logits[0, len(ids) - 1 : -1]
    expected = logits.log_softmax(-1)
    for row, token in zip(expected, tokens, strict=True):
        assert token.logprob == pytest.approx(float(row[token.token_id]), abs=1e-4)  # fp32, in another order
        best = row.topk(3)
        assert [top.logprob for top in token.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert bytes(token.bytes).decode("utf-8", "replace") == token.token
    joined = b"".join(bytes(token.bytes) for token in tokens).decode("utf-8", "replace")
    assert joined == whole.choices[0].message.content
    again = streamed(client, logprobs=True, top_logprobs=3, temperature=1.0, seed=5)[2]
    assert [token.model_dump() for token in again] == [token.model_dump() for token in tokens]
    assert chat(client).choices[0].logprobs is None


def test_usage_counts_tokens_and_comes_last_in_a_stream_that_asks(client, model):
    usage = chat(client, max_tokens=7).usage
    prompt = len(prompt_ids(model.tokenizer, ASK, ""))
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (prompt, 7, prompt + 7)
    text, finish, _, told = streamed(client, max_tokens=7, stream_options={"include_usage": True})
    assert (finish, told) == ("length", usage)
    assert streamed(client, max_tokens=7)[3] is None


def test_a_reply_ends_with_a_stop_token_or_where_the_positions_do(client, model):
    ids = prompt_ids(model.tokenizer, ASK, "")
    engine, last = Engine(together=64), {}
    for seed in range(64):
        told = partial(last.__setitem__, seed)
        engine.submit([Request(model, ids, Settings(64, 1.5, seed=seed), tell=told)])
    while engine.busy:
        engine.advance()
    ended = {seed: piece.written for seed, piece in last.items() if piece.finish == "stop"}
    assert {piece.written for seed, piece in last.items() if seed not in ended} == {64}
    seed, written = next(iter(ended.items()))
    answer = chat(client, temperature=1.5, seed=seed, max_tokens=64)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("stop", written)
    full = chat(client, max_tokens=100_000)
    assert (full.choices[0].finish_reason, full.usage.total_tokens) == ("length", model.positions)


def test_an_assistants_message_at_the_end_is_gone_on_from(client, directory, capsys):
    line = ["chat", directory, "--prompt", ASK[0]["content"], "--prefix", "great", "--temperature", "0"]
    assert main([*line, "--max-new-tokens", "24"]) == 0
    begun = [*ASK, {"role": "assistant", "content": "great"}]
    assert "great" + chat(client, messages=begun).choices[0].message.content + "\n" == capsys.readouterr().out


def test_contents_in_parts_and_what_clients_send_back_are_read(client):
    parts = [{"role": "user", "content": [{"type": "text", "text": part} for part in ("the film", " is")]}]
    first = chat(client)
    assert chat(client, messages=parts).choices == first.choices
    more = [*ASK, first.choices[0].message.model_dump(), {"role": "user", "content": "good"}]
    assert chat(client, messages=[{"role": "developer", "content": "a"}, *more]).choices[0].message.content


# --- texts


def test_a_text_is_continued_with_the_old_form_of_log_probabilities(client, model):
    def complete(**options):
        return client.completions.create(model="tiny", temperature=0, max_tokens=12, **options)

    ids = model.tokenizer.encode("the film")
    answer = complete(prompt="the film", logprobs=2).choices[0]
    said = "".join(piece.text for piece in reply(model, ids, Settings(12, 0.0)))
    assert answer.text == said
    told = answer.logprobs
    assert "".join(told.tokens) == said
    assert [
        said[a:b] for a, b in zip(told.text_offset, [*told.text_offset[1:], None], strict=True)
    ] == told.tokens
    assert [max(top, key=top.get) for top in told.top_logprobs] == told.tokens
    assert [
        top[token] for top, token in zip(told.top_logprobs, told.tokens, strict=True)
    ] == told.token_logprobs
    chunks = list(complete(prompt="the film", logprobs=2, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == said
    assert [n for chunk in chunks for n in chunk.choices[0].logprobs.text_offset] == told.text_offset
    several = complete(prompt=["the film", ids, "a"], echo=True, n=2).choices
    assert [choice.index for choice in several] == list(range(6))
    assert {choice.text for choice in several[:4]} == {"the film" + said}
    assert complete(prompt="").choices[0].text


@pytest.mark.parametrize("text", ["the film is good", "the 好 film", "a"])
def test_an_echoed_prompt_is_as_likely_as_one_forward_says(client, model, text):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model.network.model.name_or_path)
    ids = model.tokenizer.encode(text)
    with torch.no_grad():
        expected = plain(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)

    def echoed(**options):
        return client.completions.create(model="tiny", echo=True, logprobs=3, temperature=0, **options)

    answer = echoed(prompt=text, max_tokens=0)
    choice, told = answer.choices[0], answer.choices[0].logprobs
    assert (choice.text, choice.finish_reason, answer.usage.completion_tokens) == (text, "length", 0)
    assert (told.token_logprobs[0], told.top_logprobs[0]) == (None, None)
    own = expected.gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)
    assert told.token_logprobs[1:] == pytest.approx(own.tolist(), abs=1e-4)  # fp32, in another order
    best = [max(top.values()) for top in told.top_logprobs[1:]]
    assert best == pytest.approx(expected.max(-1).values.tolist(), abs=1e-4)
    if text.isascii():
        ends = [*told.text_offset[1:], len(text)]
        assert [text[a:b] for a, b in zip(told.text_offset, ends, strict=True)] == told.tokens
    # a reply stands behind it, by text or ids, whole or streamed
    more = echoed(prompt=text, max_tokens=5).choices[0]
    assert (
        more.text
        == text
        + client.completions.create(model="tiny", prompt=text, max_tokens=5, temperature=0).choices[0].text
    )
    assert more.logprobs.tokens[: len(ids)] == told.tokens
    assert (len(more.logprobs.tokens), more.logprobs.text_offset[len(ids)]) == (len(ids) + 5, len(text))
    assert echoed(prompt=[ids], max_tokens=5).choices == [more]
    chunks = [chunk.choices[0] for chunk in echoed(prompt=text, max_tokens=5, stream=True)]
    assert "".join(chunk.text for chunk in chunks) == more.text
    offsets = [offset for chunk in chunks for offset in chunk.logprobs.text_offset]
    assert offsets == more.logprobs.text_offset


def test_the_token_that_ends_a_text_is_told_with_its_log_probability(client, model):
    """Clients that cut the last token off, since they asked for one, must not cut off the prompt's."""
    ids = model.tokenizer.encode("the film")
    for seed in range(400):
        wanted = {"prompt": [ids], "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 2.0}
        choice = client.completions.create(model="tiny", seed=seed, **wanted).choices[0]
        assert len(choice.logprobs.tokens) == len(ids) + 1
        if choice.finish_reason == "stop":
            break
    assert (choice.text, choice.logprobs.tokens[-1]) == ("the film", model.tokenizer.eos_token)
    assert choice.logprobs.text_offset[-1] == len("the film")


# --- what is refused

LONG = "the film is good " * 100
BAD_CHATS = [
    ({"temperature": -0.1}, "temperature: ", "temperature"),
    ({"temperature": "warm"}, "temperature: ", "temperature"),
    ({"top_p": 1.5}, "top_p: ", "top_p"),
    ({"max_tokens": 0}, "max_tokens: ", "max_tokens"),
    (
        {"max_tokens": 3, "max_completion_tokens": 4},
        "`max_tokens` and `max_completion_tokens` differ",
        "max_tokens",
    ),
    ({"n": 0}, "n: ", "n"),
    ({"n": 1000}, "n: ", "n"),
    ({"seed": 1.5}, "seed: ", "seed"),
    ({"seed": 2**70}, "seed: ", "seed"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "`stop` has 5 texts: give 4 or fewer", "stop"),
    ({"stop": ""}, "`stop` is no text", "stop"),
    ({"stop": [1]}, "`stop` is no text", "stop"),
    ({"logprobs": 3}, "logprobs: ", "logprobs"),
    ({"top_logprobs": 3}, "`top_logprobs` needs `logprobs: true`", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs: ", "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, "`stream_options` is about streams", "stream_options"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x: ", "stream_options.x"),
    ({"tools": [{"type": "function"}]}, "`tools` is not supported here: leave it out", "tools"),
    ({"response_format": {"type": "json_object"}}, "`response_format` is not supported", "response_format"),
    ({"logit_bias": {"x": 1}}, "`logit_bias` has 'x', which is no token id", "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "`logit_bias` has '-1', which is no token id", "logit_bias"),
    ({"logit_bias": {"9" * 17: 1}}, "`logit_bias` has token 99", "logit_bias"),
    ({"logit_bias": {"5": 101}}, "`logit_bias` is 101.0 for token 5: give −100 to 100", "logit_bias"),
    ({"logit_bias": {"5": "much"}}, "logit_bias.5: ", "logit_bias.5"),
    ({"presence_penalty": 2.5}, "presence_penalty: ", "presence_penalty"),
    ({"frequency_penalty": "x"}, "frequency_penalty: ", "frequency_penalty"),
    ({"top_k": 5}, "`top_k` is no option here: leave it out", "top_k"),
    ({"messages": []}, "`messages` has no message to reply to", "messages"),
    ({"messages": "hi"}, "messages: ", "messages"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0: the role is 'tool'", "messages.0.role"),
    ({"messages": [{"content": "a"}]}, "messages.0: the role is None", "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0: the content is missing", "messages.0.content"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages.0: the content is int", "messages.0.content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages.0: the content has a part that is no text",
        "messages.0.content",
    ),
    (
        {"messages": [*ASK, {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]},
        "messages.1: `tool_calls` is not supported",
        "messages.1.tool_calls",
    ),
    ({"messages": [{"role": "user", "content": LONG}]}, "the prompt's ", "messages"),
]


@pytest.mark.parametrize(("options", "message", "param"), BAD_CHATS)
def test_what_cannot_be_meant_is_told_by_name_in_a_line(url, options, message, param):
    body = {"model": "tiny", "messages": ASK, **options}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["message"].startswith(message)
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": [[]]}, "`prompt` is no text"),
        ({"prompt": {"a": 1}}, "`prompt` is no text"),
        ({"prompt": [10**6]}, "`prompt` has ids outside 0 to "),
        ({"prompt": ["a"] * 17}, "`prompt` has 17 prompts: give 1 to 16"),
        ({"prompt": "a", "suffix": "b"}, "`suffix` is not supported here"),
        ({"prompt": "a", "max_tokens": 0}, "`max_tokens` is 0: give 1 or more, or `echo` besides"),
        ({"prompt": "a", "logprobs": 6}, "logprobs: "),
        ({"prompt": "a", "best_of": 3}, "`best_of` is not supported here"),
        ({"prompt": LONG}, "the prompt's "),
    ],
)
def test_texts_that_cannot_be_continued_are_told_too(url, options, message):
    answer = httpx.post(f"{url}/v1/completions", json={"model": "tiny", **options})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)


def test_options_that_ask_for_nothing_are_no_mistake(client):
    nothing = {"presence_penalty": 0, "logit_bias": {}, "tools": [], "response_format": {"type": "text"}}
    asked = chat(client, user="me", metadata={"a": "b"}, extra_body={**nothing, "stop": None, "seed": None})
    assert asked.choices == chat(client).choices


def test_an_unknown_model_is_openais_404(client):
    with pytest.raises(openai.NotFoundError) as error:
        chat(client, model="gpt-4")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


# --- hang-ups and the queue


def until_taken(client, url, body, **options):
    """The first answer that is not that the queue is full: a hang-up takes a moment to be noticed."""
    while True:
        answer = client.post(f"{url}/v1/chat/completions", json=body, **options)
        if answer.status_code != 429:
            return answer


def endless(url, client):
    """A stream whose first token has come and whose reply would take long."""
    body = {"model": "slow", "messages": ASK, "max_tokens": 100_000, "stream": True, "seed": 1}
    return client.stream("POST", f"{url}/v1/chat/completions", json=body)


@pytest.fixture(scope="module")
def slow(tmp_path_factory, tiny_tokenizer, tiny_config):
    """A model whose replies have no end for a long time."""
    folder = tmp_path_factory.mktemp("served") / "slow"
    config = {**tiny_config, "max_position_embeddings": 20_000}
    (model,) = load(*check([random_model(folder, tiny_tokenizer, config)], None), None).models.values()
    model.stops = []
    return Hosted({"slow": model}, {}, {}, None)


def test_a_client_that_hangs_up_stops_its_reply_and_a_full_queue_says_when_to_come(slow):
    short = {"model": "slow", "messages": ASK, "max_tokens": 2}
    with serving(slow, "--together", "1", "--waiting", "0") as url, httpx.Client(timeout=60) as client:
        with endless(url, client) as stream:
            lines = stream.iter_lines()  # kept: httpx hangs up when it is forgotten
            next(lines)
            refused = client.post(f"{url}/v1/chat/completions", json=short)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error"]["code"] == "queue_full"
            assert refused.json()["error"]["type"] == "rate_limit_error"
        with pytest.raises(httpx.ReadTimeout):  # one that waits for the whole reply hangs up too
            until_taken(client, url, {**short, "max_tokens": 100_000}, timeout=1)
        answer = until_taken(client, url, short)
        assert answer.json()["usage"]["completion_tokens"] == 2  # it alone may write: the others have ended
