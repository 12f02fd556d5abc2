"""`logit_bias`, `presence_penalty` and `frequency_penalty` of `trivium serve` are OpenAI's: added to the
logits before a token is sampled, for each request by itself."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import torch

from experiments.chat.engine import Request, Settings, choose
from experiments.chat.prompts import prompt_ids
from experiments.chat.shift import Shift
from experiments.web.hosted import check, load
from tests.serving import random_model, serving

ASK = [{"role": "user", "content": "the film is"}]
LENGTH = 16
ASKED = [
    {"presence_penalty": 2.0},
    {"frequency_penalty": 1.5},
    {"presence_penalty": -2.0, "frequency_penalty": -2.0},
    {"frequency_penalty": 0.7, "presence_penalty": 0.9, "logit_bias": {"300": 3.5, "40": -7.0}},
]


@pytest.fixture(scope="module")
def hosted(tmp_path_factory, tiny_tokenizer, tiny_config):
    folder = random_model(tmp_path_factory.mktemp("shifted") / "tiny", tiny_tokenizer, tiny_config)
    return load(*check([folder], None), None)


@pytest.fixture(scope="module")
def client(hosted):
    with serving(hosted) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def model(hosted):
    return hosted.models["tiny"]


@pytest.fixture(scope="module")
def logits_of(model):
    """The logits after the prompt and the tokens of a reply, from plain transformers."""
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model.network.model.name_or_path)
    prompt = prompt_ids(model.tokenizer, ASK, "")

    @torch.no_grad()
    def logits(reply):
        return plain(torch.tensor([prompt + reply])).logits[0, -1, : model.vocabulary]

    return logits


def chat(client, **options):
    given = {"model": "tiny", "messages": ASK, "temperature": 0, "max_tokens": LENGTH, "logprobs": True}
    return client.chat.completions.create(**{**given, **options})


def tokens(choice):
    return [token.token_id for token in choice.logprobs.content]


def by_definition(logits_of, asked):
    """The greedy reply, with mu[j] − count[j] · frequency − 1[count[j] > 0] · presence + bias[j]."""
    reply = []
    for _ in range(LENGTH):
        logits, count = logits_of(reply), Counter(reply)
        for token in count:
            logits[token] -= asked.get("presence_penalty", 0)
            logits[token] -= count[token] * asked.get("frequency_penalty", 0)
        for token, value in asked.get("logit_bias", {}).items():
            logits[int(token)] += value
        reply.append(int(logits.argmax()))
    return reply


def test_the_shift_is_the_sum_worked_out_by_hand():
    shift = Shift(0.4, 0.3, {2: 0.5, 3: -100}, 5, torch.device("cpu"))
    for token in (0, 0, 1, 0):
        shift.count(token)
    # −0.4 − 3 · 0.3, −0.4 − 0.3, the bias, a ban, nothing
    assert shift.values.tolist() == pytest.approx([-1.3, -0.7, 0.5, -torch.inf, 0.0])


def test_greedy_replies_are_those_of_the_definition_streamed_or_not(client, logits_of):
    plain = by_definition(logits_of, {})
    assert tokens(chat(client).choices[0]) == plain
    expected = [by_definition(logits_of, asked) for asked in ASKED]
    assert plain not in expected
    for asked, reply in zip(ASKED, expected, strict=True):
        first, second = chat(client, n=2, **asked).choices
        assert tokens(first) == tokens(second) == reply
        chunks = chat(client, stream=True, **asked)
        told = [t.token_id for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
        assert told == reply


def test_replies_that_are_written_together_are_shifted_each_by_its_own_request(client, logits_of):
    every = [{}, *ASKED, {}, {"logit_bias": {"300": 100}}, *ASKED]
    with ThreadPoolExecutor(len(every)) as pool:
        replies = list(pool.map(lambda asked: tokens(chat(client, **asked).choices[0]), every))
    expected = [by_definition(logits_of, asked) for asked in every]
    assert replies[6] == [300] * LENGTH
    assert replies[:6] + replies[7:] == expected[:6] + expected[7:]


def test_a_bias_of_100_samples_these_alone_and_of_minus_100_never(client, model):
    hot = {"temperature": 50.0, "max_tokens": 64}  # all tokens much alike
    for seed in range(4):
        drawn = tokens(
            chat(client, seed=seed, logit_bias={"300": 100, "301": 100, "302": -100}, **hot).choices[0]
        )
        assert set(drawn) == {300, 301}
    every = {str(token): -100 for token in range(model.vocabulary)}
    others = {token: ban for token, ban in every.items() if token not in ("300", "301", "302")}
    assert set(tokens(chat(client, seed=1, logit_bias=others, **hot).choices[0])) == {300, 301, 302}
    with pytest.raises(openai.BadRequestError, match="`logit_bias` bans every token"):
        chat(client, logit_bias=every)


def test_how_often_a_token_is_drawn_is_its_biased_probability(model):
    # two tokens with equal logits, one with ln 3 added: three draws of four
    settings = Settings(4000, seed=7, logit_bias=((300, float(torch.tensor(3.0).log())), (5, -100)))
    request = Request(model, [1], settings)
    logits = torch.full((1, model.vocabulary), -1000.0)
    logits[0, [5, 300, 301]] = 0.0
    drawn = Counter()
    request.writing.ids = ids = []
    for _ in range(request.room):
        drawn[int(choose(logits, [request]))] += 1
        ids.append(0)
    assert set(drawn) == {300, 301}
    share, error = 0.75, (0.75 * 0.25 / request.room) ** 0.5
    assert drawn[300] / request.room == pytest.approx(share, abs=4 * error)
    assert logits[0, 5] == 0.0  # the model's own are left as they are


def test_log_probabilities_stay_the_models_own(client, logits_of):
    (choice,) = chat(client, logit_bias={"300": 100}, top_logprobs=2).choices
    reply = []
    for token in choice.logprobs.content:
        own = logits_of(reply).log_softmax(-1)
        assert token.logprob == pytest.approx(float(own[300]), abs=1e-3)
        assert token.top_logprobs[0].logprob == pytest.approx(float(own.max()), abs=1e-3)
        reply.append(300)


def test_a_reply_can_be_made_to_end_or_kept_from_ending(client, model):
    end = str(model.stops[0])
    (choice,) = chat(client, logit_bias={end: 100}).choices
    assert (choice.message.content, choice.finish_reason) == ("", "stop")
    text = client.completions.create(
        model="tiny",
        prompt="the film is",
        max_tokens=LENGTH,
        temperature=50.0,
        seed=3,
        logit_bias={end: -100},
    )
    assert (text.choices[0].finish_reason, text.usage.completion_tokens) == ("length", LENGTH)


def test_a_request_without_them_takes_the_path_that_it_took(model):
    assert Request(model, [1], Settings(4)).shift is None
    assert Request(model, [1], Settings(4, presence_penalty=0.0, logit_bias=())).shift is None
