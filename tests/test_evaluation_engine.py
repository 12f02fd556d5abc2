"""The engine that asks models: its likelihoods are lm-eval's, its replies are transformers' own, and what
cannot be asked is refused in one line."""

import json
from pathlib import Path

import pytest
import torch

from experiments.cli.program import main
from experiments.cli.user_errors import UserError
from experiments.evaluation.engine import Model, NoRoom, batches, check_path, digest
from modules.backbone import LanguageModel
from modules.documents import Route
from modules.hf_load import load_causal_lm
from tests.evaluated import save_model

REQUESTS = [
    ("the film is", " good"),
    ("the film is", " bad and dull"),  # a context that two share
    ("the film is ", "good"),  # its space goes to the continuation
    ("", "the story"),  # no context
    ("电影", "很好"),
    ("the music is great and the plot is very slow and the acting is not bad but", " the story is fun"),
    ("the music is great and the plot is very slow and the acting is not bad but", " sad"),
    ("a", "\nb\n"),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tiny_tokenizer):
    return save_model(tmp_path_factory.mktemp("model"), tiny_tokenizer)


@pytest.fixture(scope="module")
def model(directory):
    return Model.load(directory, "tiny")


def adds_bos(folder: Path) -> None:
    """Has a saved tokenizer begin every text with its bos by itself, as LLaMA's does."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    bos = next(token for token in content["added_tokens"] if token["content"] == "<s>")
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {"<s>": {"id": "<s>", "ids": [bos["id"]], "tokens": ["<s>"]}}
    content["post_processor"] = {
        "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special
    }  # fmt: skip
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("with_bos", [False, True])
def test_log_likelihoods_equal_those_of_lm_eval(tmp_path, tiny_tokenizer, with_bos):
    from lm_eval.api.instance import Instance

    from experiments.evaluation.harness import language_model

    save_model(tmp_path, tiny_tokenizer)
    if with_bos:
        adds_bos(tmp_path)
    ours = Model.load(str(tmp_path), "ours")
    assert (ours.tokenizer("a")["input_ids"][0] == ours.tokenizer.bos_token_id) is with_bos
    context, continuation = REQUESTS[0]
    first = ours.loglikelihoods([(context, continuation)])[0]
    likeliest = int(ours.network.model(torch.tensor([ours._encode(context)])).logits[0, -1].argmax())
    greedy = (context, ours.tokenizer.decode([likeliest]))
    requests = [*REQUESTS, greedy, (f"<s>{context}", continuation)]
    found = ours.loglikelihoods(requests)
    wanted = language_model(str(tmp_path)).loglikelihood(
        [Instance("loglikelihood", {}, request, i) for i, request in enumerate(requests)], disable_tqdm=True
    )
    for request, ours_, (logprob, is_greedy) in zip(requests, found, wanted, strict=True):
        assert ours_.logprob == pytest.approx(logprob, abs=1e-4), request  # the bar
        assert ours_.greedy == is_greedy, request
    assert found[0].logprob == pytest.approx(first.logprob, abs=1e-5)  # whatever else is in the batch: fp32
    assert {each.greedy for each in found} >= {False}
    assert [each.tokens for each in found[:4]] == [len(ours.request_ids(r)[1]) for r in REQUESTS[:4]]


def test_a_likelihood_is_the_sum_that_the_plain_network_gives(model):
    context, continuation = REQUESTS[5]
    before, after = model.request_ids((context, continuation))
    logprobs = model.network.model(torch.tensor([before + after]), use_cache=False).logits[0].log_softmax(-1)
    wanted = sum(float(logprobs.detach()[len(before) + i - 1, token]) for i, token in enumerate(after))
    assert model.loglikelihoods([(context, continuation)])[0].logprob == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("rows", ["flat", "documents"])
@pytest.mark.parametrize("head", ["linear", "own"])
def test_every_route_judges_as_the_plain_network(directory, rows, head):
    network = LanguageModel(load_causal_lm(directory).float(), False, Route(rows, head)).eval()
    ids = torch.randint(10, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(9) > 4, ids, -100)
    owners = torch.arange(2)[:, None].expand(2, 9)
    losses, greedy = network.judge(ids, labels, torch.arange(9).expand(2, 9), owners)
    plain = load_causal_lm(directory).float().eval()(ids, use_cache=False).logits[:, 4:-1]
    wanted = torch.nn.functional.cross_entropy(plain.flatten(0, 1), ids[:, 5:].flatten(), reduction="none")
    assert torch.allclose(losses, wanted, atol=1e-4)  # fp32 sums in another order
    assert torch.equal(greedy, (plain.argmax(-1) == ids[:, 5:]).flatten())


def test_replies_are_those_of_the_plain_network_prompt_by_prompt(model, monkeypatch):
    from transformers import GenerationConfig

    from experiments.evaluation import engine

    prompts = ["the film", "the film is good", "电影", "a very long story " * 8]
    monkeypatch.setattr(engine, "TOKENS", 100)  # several batches
    found = model.replies(prompts, 12)
    options = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=model.stops, pad_token_id=0)
    for prompt, reply in zip(prompts, found, strict=True):
        (ids,) = model.context_ids([prompt], instruction=True)
        written = model.network.model.generate(torch.tensor([ids]), generation_config=options)
        new = written[0, len(ids) :].tolist()
        assert reply.text == model.tokenizer.decode(new, skip_special_tokens=True)
        assert reply.ended == (new[-1] in model.stops)


def test_a_reply_ends_before_a_stop_text(model):
    (whole,) = model.replies(["the film"], 12)
    stop = whole.text[3:5]
    (cut,) = model.replies(["the film"], 12, [stop, "never"])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.ended


def test_an_instruction_goes_through_the_chat_template_where_there_is_one(model):
    (chat,) = model.context_ids(["Say it."], instruction=True)
    assert "### Instruction:\nSay it." in model.tokenizer.decode(chat)
    template, model.tokenizer.chat_template = model.tokenizer.chat_template, None
    try:
        (plain,) = model.context_ids(["Say it."], instruction=True)
        assert model.tokenizer.decode(plain) == "Say it.\n"
    finally:
        model.tokenizer.chat_template = template


def test_batches_keep_the_order_and_stay_below_the_bound(monkeypatch):
    monkeypatch.setattr("experiments.evaluation.engine.TOKENS", 10)
    assert list(batches([2, 0, 1, 3], [4, 5, 6, 20])) == [[2], [0, 1], [3]]


def test_a_digest_is_of_what_computes_and_not_of_its_place(tmp_path, tiny_tokenizer):
    one, other, third = (
        save_model(tmp_path / name, tiny_tokenizer, seed) for name, seed in zip("abc", (0, 0, 1), strict=True)
    )
    Path(other, "provenance.json").write_text('{"stage": "sft"}')
    assert digest(one) == digest(other) != digest(third)


def test_what_cannot_be_evaluated_is_refused_in_one_line(tmp_path, tiny_tokenizer, capsys):
    bare = Path(save_model(tmp_path / "bare", tiny_tokenizer))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    reward = save_model(tmp_path / "reward", tiny_tokenizer, reward=True)
    capsys.readouterr()
    for path, words in (
        (str(bare), "has no tokenizer"),
        (reward, "is a reward model or a critic (LlamaForSequenceClassification)"),
        (str(tmp_path / "nothing"), "is no directory"),
    ):
        output = tmp_path / "output"
        assert main(["evaluate", path, "--output", str(output)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("trivium: evaluate: ")
        assert words in line
        assert not output.exists()
    Path(reward, "provenance.json").write_text('{"stage": "reward"}')
    with pytest.raises(UserError, match="is the result of stage `reward`"):
        check_path(reward)


def test_a_prompt_without_room_is_refused(tmp_path, tiny_tokenizer):
    small = Model.load(save_model(tmp_path, tiny_tokenizer, positions=32), "small")
    with pytest.raises(NoRoom, match="8 to be written do not fit into the 32 positions of small"):
        small.replies(["a " * 40], 8)
    with pytest.raises(NoRoom, match="do not fit into the 32 positions"):
        small.loglikelihoods([("a " * 40, "b")])
