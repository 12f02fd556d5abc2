"""The chat's page in a real Chromium: what a person does there, what is shown, and that texts stay texts."""

import json
import math

import httpx
import pytest
import torch

from datamodules import ChatTemplate, InstructionData
from experiments.chat.prompts import prompt_ids
from experiments.commands.chat_documents import Reading
from experiments.retrieval.index import BM25
from experiments.retrieval.passages import Passage
from experiments.web.hosted import Hosted, check, load
from experiments.web.judge import reply_logprobs
from modules.hf_load import read_provenance
from tests.browsing import chromium, findings, new_page
from tests.serving import Saying, random_model, serving

EVIL = "<script>document.title='run'</script><img src=x onerror=document.title='run'>\u202e&lt;"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def hosted(tiny_stages):
    given = [tiny_stages.export(name) for name in ("sft", "ppo", "reward")]
    return load(*check(given, tiny_stages.export("sft")), tiny_stages.export("sft"))


@pytest.fixture(scope="module")
def url(hosted):
    reading = Reading(BM25([Passage("the film is good", "notes.txt:1"), Passage("music", "b:1")]), 3, False)
    with serving(hosted, "--max-new-tokens", "12", reading=reading) as address:
        yield address


@pytest.fixture
def page(browser, url):
    page = new_page(browser, locale="en-GB")
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(url)
    page.click("#settings summary")
    page.uncheck("#documents")
    page.fill("#temperature", "0")
    yield page
    page.close()
    refused = "Failed to load resource: the server responded with a status of 400"
    assert [problem for problem in problems if not problem.startswith(refused)] == []


def say(page, text, turn=0, replies=1):
    """Says something by keyboard; the replies' texts once they are there, scored."""
    page.fill("#message", text)
    page.press("#message", "Enter")
    return wait(page, turn, replies)


def wait(page, turn=0, replies=1):
    shown = page.locator(".turn").nth(turn)
    for place in range(replies):
        shown.locator(".regenerate").nth(place).wait_for()
        shown.locator(".scores").nth(place).wait_for()
    return shown.locator(".reply > .text").all_inner_texts()


def test_two_models_answer_side_by_side_in_both_languages_and_a_reload_shows_them_again(page):
    page.select_option("#model-1", "ppo")
    replies = say(page, "Write good", replies=2)
    assert page.locator(".reply .who").all_inner_texts() == ["sft", "ppo"]
    assert all(replies)
    page.click("#language")
    assert page.locator("#send").inner_text() == "发送"
    page.reload()
    assert page.locator("#send").inner_text() == "发送"
    assert page.locator(".reply > .text").all_inner_texts() == replies
    say(page, "Write bad", turn=1, replies=2)
    assert page.locator(".said .text").all_inner_texts() == ["Write good", "Write bad"]


def test_every_token_has_its_colour_and_its_numbers(page, hosted):
    page.select_option("#model-0", "ppo")
    page.select_option("#colour", "logprob")
    (text,) = say(page, "Write good")
    assert page.locator(".reply .token").count() > 1
    assert "".join(page.locator(".reply .token").all_text_contents()) == text
    page.click(".reply [data-part=tokens] summary")
    page.locator(".reply tbody tr").first.wait_for()
    head = page.locator(".reply thead th").all_inner_texts()
    assert head == ["Token", "Probability", "KL", "Value", "Likeliest"]
    rows = [row.locator("td").all_inner_texts() for row in page.locator(".reply tbody tr").all()]
    model = hosted.models["ppo"]
    prompt = prompt_ids(model.tokenizer, [{"role": "user", "content": "Write good"}], "")
    with page.expect_request("**/api/judge") as request:
        page.click(".regenerate")
    tokens = request.value.post_data_json["tokens"]
    own, theirs = (reply_logprobs(each, prompt, tokens) for each in (model, hosted.reference))
    assert [float(row[2]) for row in rows] == pytest.approx(
        [a - b for a, b in zip(own, theirs, strict=True)], abs=6e-4
    )
    shown = [float(row[1].removesuffix(" %")) for row in rows]
    assert shown == pytest.approx([100 * math.exp(value) for value in own], abs=0.06)
    wait(page)
    for kind in ("kl", "value"):
        page.select_option("#colour", kind)
        assert page.locator("#legend").inner_text().startswith("Orange: ")
        assert page.locator(".reply .token").count() > 1
    seen = page.locator(".reply [data-part=seen]")
    seen.locator("summary").click()
    wanted = model.tokenizer.decode(prompt)
    seen.locator("pre", has_text="tokens").wait_for()
    assert seen.locator("pre").inner_text() == f"{wanted}\n\n{len(prompt)} tokens"


def test_the_numbers_beside_a_reply_are_the_stages_own(hosted, tiny_stages):
    """The critic's values and the score are what transformers alone reads out of the exports."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    model, critic, scorer = hosted.models["ppo"], hosted.critics["ppo"], hosted.scorers["reward"]
    messages = [{"role": "user", "content": "Write."}]
    prompt = prompt_ids(model.tokenizer, messages, "")
    reply = model.tokenizer.encode("the film is good", add_special_tokens=False)
    ids = torch.tensor([prompt + reply])
    values = AutoModelForTokenClassification.from_pretrained(f"{tiny_stages.export('ppo')}/critic")
    expected = values(input_ids=ids).logits[0, len(prompt) - 1 : -1, 0].tolist()
    assert critic.values(prompt, reply) == pytest.approx(expected, abs=1e-5)
    reward = AutoModelForSequenceClassification.from_pretrained(tiny_stages.export("reward"))
    offset = read_provenance(tiny_stages.export("reward"))["offset"]
    whole = torch.tensor([prompt + reply + [model.tokenizer.eos_token_id]])
    expected_score = float(reward(input_ids=whole).logits[0, 0]) - offset
    assert scorer.score(messages, "the film is good") == pytest.approx(expected_score, abs=1e-4)


def test_a_turn_is_edited_and_said_again_and_what_followed_is_gone(page):
    first = say(page, "Write good")
    say(page, "Write bad", turn=1)
    page.locator(".edit").first.click()
    box = page.locator(".said textarea")
    assert box.input_value() == "Write good"
    box.fill("Write dull")
    box.press("Enter")
    page.locator(".said .text", has_text="Write dull").wait_for()
    wait(page)
    assert page.locator(".turn").count() == 1
    page.fill("#message", "x\ny")
    page.press("#message", "Shift+Enter")
    assert page.input_value("#message") == "x\ny\n"
    assert first
    page.click("#new")
    assert page.locator(".turn").count() == 0


def test_nothing_tells_whose_reply_it_is_until_the_names_are_revealed(page, url):
    sent = []
    page.on("response", lambda answer: sent.append(answer))
    page.select_option("#model-1", "ppo")
    page.select_option("#colour", "logprob")
    page.fill("#temperature", "1")  # at 0 these models say nothing but spaces
    page.fill("#seed", "1")
    page.check("#blind")
    with page.expect_response("**/api/blind"):
        page.fill("#message", "Write good")
        page.press("#message", "Enter")
    for place in range(2):
        page.locator(".reply .regenerate").nth(place).wait_for()
    assert page.locator(".reply .who").all_inner_texts() == ["Model A", "Model B"]
    texts = page.locator(".reply > .text").all_inner_texts()
    first, *asked = [answer.request for answer in sent if "/v1/" in answer.url or "/api/" in answer.url]
    told = [first.response().text(), *(request.post_data for request in asked)]
    # a browser keeps no text of a stream that a page has read: asked again
    told += [httpx.post(request.url, json=request.post_data_json, timeout=60).text for request in asked]
    assert len(told) == 5
    page.reload()
    assert page.locator(".reply > .text").all_inner_texts() == texts
    # numbers, tokens and what each model was given differ from model to model
    assert page.locator(".scores, .token, .reply details").count() == 0
    assert page.locator("#download").is_disabled()
    told += [json.dumps(page.evaluate("JSON.parse(localStorage['trivium.chat']).turns"))]
    told += [page.locator("#turns").inner_html(), page.title()]
    assert [text for text in told if "sft" in text or "ppo" in text] == []
    page.click("#reveal")
    page.locator(".scores").nth(1).wait_for()
    names = page.locator(".reply .who").all_inner_texts()
    assert sorted(names) == ["ppo", "sft"]
    for name, text in zip(names, texts, strict=True):
        said = {"model": name, "messages": [{"role": "user", "content": "Write good"}], "seed": 1}
        answer = httpx.post(f"{url}/v1/chat/completions", json={**said, "max_tokens": 12}, timeout=60)
        assert answer.json()["choices"][0]["message"]["content"] == text
    with page.expect_download() as download:
        page.click("#download")
    rows = [json.loads(line) for line in download.value.path().read_text("utf-8").splitlines()]
    assert [row["model"] for row in rows] == names
    assert all(text.strip() for text in texts)
    error = httpx.post(f"{url}/api/reveal", json={"names": ["hidden-0"]}).json()["error"]
    assert error["message"].startswith("which model is which is no longer known")


def test_passages_that_do_not_fit_are_told_in_place_of_a_reply(page):
    page.check("#documents")
    page.fill("#max_tokens", "100")
    page.fill("#message", "is the film good?")
    page.press("#message", "Enter")
    page.locator(".reply .missed", has_text="fewer tokens in the settings").wait_for()
    page.locator(".reply .note", has_text="failed").wait_for()
    assert page.is_disabled("#save") is page.is_disabled("#download") is True  # there is nothing to learn
    page.click("#language")
    page.click(".regenerate")
    page.locator(".reply .missed", has_text="回复的最大词元数").wait_for()


def test_another_model_begins_anew_and_the_conversation_before_can_be_brought_back(page):
    assert page.is_disabled("#blind")  # one model has nothing to hide
    (reply,) = say(page, "Write good")
    page.select_option("#model-1", "ppo")
    assert page.is_enabled("#blind")
    assert page.locator(".turn").count() == 0
    page.reload()
    page.click("#turns button")
    assert page.locator(".reply > .text").all_inner_texts() == [reply]
    assert page.input_value("#model-1") == ""
    say(page, "Write bad", turn=1)


def test_what_was_just_said_is_in_sight(page):
    page.set_viewport_size({"width": 390, "height": 700})
    for turn in range(4):
        say(page, f"Write {turn}", turn=turn)
        said = page.locator(".said").nth(turn).bounding_box()
        end = page.locator(".regenerate").last.bounding_box()
        assert said["y"] >= -1
        assert end["y"] + end["height"] <= page.locator("#composer").bounding_box()["y"]
    page.evaluate("scrollTo(0, 0)")
    page.locator(".regenerate").last.evaluate("button => button.click()")
    wait(page, turn=3)
    assert page.evaluate("scrollY") == 0  # who reads above is left there


def test_the_page_is_usable_by_anybody(page):
    page.select_option("#model-1", "ppo")
    page.select_option("#colour", "logprob")
    say(page, "Write good", replies=2)
    for place in range(2):
        page.locator(".reply [data-part=tokens] summary").nth(place).click()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert findings(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture(scope="module")
def sayer(tmp_path_factory, tiny_tokenizer, tiny_config):
    """A model that says `EVIL`, under a name that is a tag."""
    folder = tmp_path_factory.mktemp("says") / "model"
    models, _ = check(
        [random_model(folder, tiny_tokenizer, {**tiny_config, "max_position_embeddings": 999})], None
    )
    (model,) = load(models, {}, None).models.values()
    model.network = Saying(model, EVIL)
    return Hosted({"<b>name</b>": model}, {}, {}, None)


def test_no_text_is_ever_read_as_html(browser, sayer):
    reading = Reading(BM25([Passage(f"film {EVIL}", f"{EVIL}.txt:1")]), 1, False)
    with serving(sayer, "--max-new-tokens", "200", reading=reading) as url:
        page = new_page(browser, locale="en-GB")
        page.goto(url)
        page.click("#settings summary")
        page.select_option("#colour", "logprob")
        page.check("#restrict")
        page.fill("#message", f"film {EVIL}")
        page.press("#message", "Enter")
        page.locator(".regenerate").wait_for()
        for part in ("passages", "tokens", "seen"):
            page.click(f".reply [data-part={part}] summary")
        page.locator(".reply [data-part=passages] .who", has_text="words").wait_for()  # they were judged
        page.locator(".reply pre", has_text="Answer from the passages only").wait_for()
        assert page.locator(".reply > .text").text_content() == EVIL
        assert page.locator(".said .text").text_content() == f"film {EVIL}"
        assert page.locator(".reply .who").first.text_content() == "<b>name</b>"
        assert page.locator("[data-part=passages] .who").text_content().startswith(f"{EVIL}.txt:1, score")
        page.reload()
        assert page.title() == "Trivium chat"
        assert page.locator("main img, main b, main script").count() == 0
        page.close()


def test_a_reply_that_is_stopped_is_kept_as_far_as_it_was(browser, sayer, monkeypatch):
    (model,) = sayer.models.values()
    monkeypatch.setattr(model.network, "ids", [300] * 900)
    model.network.going_on.clear()
    with serving(sayer, "--max-new-tokens", "900") as url:
        page = new_page(browser, locale="en-GB")
        page.goto(url)
        page.fill("#message", "go")
        page.press("#message", "Enter")
        page.locator(".reply > .text:not(:empty)").wait_for()
        page.press("#message", "Escape")
        page.locator(".reply .note", has_text="stopped").wait_for()
        model.network.going_on.set()
        assert page.locator(".reply > .text").text_content()
        assert page.is_enabled("#send")
        page.close()


def test_a_saved_conversation_is_read_by_instruction_data(browser, sayer, tmp_path, tiny_tokenizer):
    file = tmp_path / "saved.jsonl"
    with serving(sayer, "--max-new-tokens", "200", "--save", str(file)) as url:
        page = new_page(browser, locale="en-GB")
        page.goto(url)
        page.click("#settings summary")
        page.fill("#system", "be good")
        for turn, text in enumerate(("film", "music")):
            page.fill("#message", text)
            page.press("#message", "Enter")
            page.locator(".turn").nth(turn).locator(".regenerate").wait_for()
        page.click("#save")
        page.locator("#live", has_text="saved").wait_for(state="attached")
        page.locator("#save", has_text="Saved").click()  # twice is once
        page.reload()
        assert page.locator("#save").inner_text() == "Saved"
        with page.expect_download() as download:
            page.click("#download")
        (row,) = map(json.loads, file.read_text("utf-8").splitlines())
        assert json.loads(download.value.path().read_text("utf-8")) == row
        page.close()
    said = [
        ("system", "be good"),
        ("user", "film"),
        ("assistant", EVIL),
        ("user", "music"),
        ("assistant", EVIL),
    ]
    assert [(message["role"], message["content"]) for message in row["messages"]] == said
    data = InstructionData(str(file), tiny_tokenizer, template=ChatTemplate())
    data.setup("fit")
    assert data.receipts[0].kept == 1
