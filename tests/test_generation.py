"""Sampling: what comes out depends on the prompt and the seed alone, and scores as it was drawn."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from modules.backbone import LanguageModel, ScalarModel
from modules.generation import generate, uniforms
from modules.rollout import Rollout, join, logprobs, values
from tests.checkpoints import TYPES

EOS, PAD, VOCABULARY = 2, 0, 40


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.4,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


def padded(prompts):
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts])
    return ids, mask


PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]


def test_left_padding_changes_neither_tokens_nor_log_probs(model):
    together, mask = generate(LanguageModel(model), *padded(PROMPTS), 12, [EOS], PAD, VOCABULARY)
    rows = join(*padded(PROMPTS), together, mask)
    scored = logprobs(LanguageModel(model), rows, 12, 1.0)
    for index, prompt in enumerate(PROMPTS):
        alone, alone_mask = generate(LanguageModel(model), *padded([prompt]), 12, [EOS], PAD, VOCABULARY)
        assert torch.equal(together[index], alone[0])
        single = logprobs(LanguageModel(model), join(*padded([prompt]), alone, alone_mask), 12, 1.0)
        torch.testing.assert_close(scored[index], single[0], atol=1e-5, rtol=0)  # fp32, other batch shapes


def test_greedy_equals_hugging_faces_generate(model):
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        found, mask = generate(LanguageModel(model), ids, ids >= 0, 12, [EOS], PAD, VOCABULARY)
        expected = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=EOS, pad_token_id=PAD)
        assert found[0][mask[0]].tolist() == expected[0, len(prompt) :].tolist()


def test_a_response_ends_with_its_eos_and_nothing_after(model):
    noise = uniforms(0, 0, list(range(64)), 20)
    ids, mask = generate(
        LanguageModel(model), *padded([[5, 6]] * 64), 20, [EOS], PAD, VOCABULARY, noise=noise
    )
    ended = (ids == EOS).any(1)
    assert ended.sum() > 0
    for row, kept, stops in zip(ids, mask, ended, strict=True):
        length = int(kept.sum())
        assert kept[:length].all()
        assert (row[length:] == PAD).all()
        assert EOS not in row[: length - 1]
        assert (row[length - 1] == EOS) if stops else length == 20


def test_a_response_ends_with_whichever_stop_token_comes_first(model):
    noise, stops = uniforms(0, 0, list(range(64)), 20), [EOS, 17, 30]
    ids, mask = generate(
        LanguageModel(model), *padded([[5, 6]] * 64), 20, stops, PAD, VOCABULARY, noise=noise
    )
    ended = Rollout.sampled(*padded([[5, 6]] * 64), ids, mask).ended(stops)
    last = {int(row[kept][-1]) for row, kept in zip(ids, mask, strict=True)}
    assert last >= set(stops)
    for row, kept, stopped in zip(ids, mask, ended, strict=True):
        reply = row[kept].tolist()
        assert not set(stops) & set(reply[:-1])
        assert (reply[-1] in stops) == bool(stopped)
        assert stopped or len(reply) == 20


def test_a_stop_token_that_only_pads_has_ended_nothing():
    ids = torch.tensor([[9, 9, 0], [9, 7, 0], [9, 9, 9]])
    mask = torch.tensor([[True, True, False], [True, True, False], [True, True, True]])
    rollout = Rollout.sampled(*padded([[5], [5], [5]]), ids, mask)
    assert rollout.ended((0, 7)).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_response_ends_where_the_positions_do(kind):
    """Each row by its own prompt, and what it says until then is what transformers says."""
    sizes = TYPES[kind]
    torch.manual_seed(2)
    config = AutoConfig.for_model(kind, vocab_size=40, max_position_embeddings=9, pad_token_id=None, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids, mask = generate(LanguageModel(model), *padded(PROMPTS), 12, [], PAD, VOCABULARY, max_positions=9)
    assert mask.sum(1).tolist() == [9 - len(prompt) + 1 for prompt in PROMPTS]
    for row, kept, prompt in zip(ids, mask, PROMPTS, strict=True):
        tokens = torch.tensor([prompt])
        plain = model.generate(tokens, max_new_tokens=int(kept.sum()), do_sample=False, eos_token_id=None)
        assert row[kept].tolist() == plain[0, len(prompt) :].tolist()


@pytest.mark.parametrize("sampled", [True, False])
def test_rows_beyond_the_vocabulary_are_never_chosen(sampled):
    """They are made the likeliest by far, as rows that no training has ever touched may be."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[50:] *= 100
    logits = model(torch.tensor([[5, 6]])).logits[0, -1]
    assert logits.argmax() >= 50
    noise = uniforms(0, 0, list(range(256)), 6) if sampled else None
    ids, mask = generate(LanguageModel(model), *padded([[5, 6]] * 256), 6, [63, EOS], PAD, 50, noise=noise)
    assert ids[mask].max() < 50
    if sampled:  # those below keep their own proportions
        expected = logits[:50].softmax(-1)
        counts = torch.bincount(ids[:, 0], minlength=50) / 256
        assert (counts - expected).abs().max() < 5 * 0.5 / 16  # five standard errors at most
    else:
        assert (ids[:, 0] == logits[:50].argmax()).all()


def test_samples_depend_on_seed_iteration_and_prompt_not_on_the_batch(model):
    together, _ = generate(
        LanguageModel(model),
        *padded(PROMPTS),
        10,
        [EOS],
        PAD,
        VOCABULARY,
        noise=uniforms(3, 1, [0, 1, 2], 10),
    )
    turned, _ = generate(
        LanguageModel(model),
        *padded(PROMPTS[::-1]),
        10,
        [EOS],
        PAD,
        VOCABULARY,
        noise=uniforms(3, 1, [2, 1, 0], 10),
    )
    assert torch.equal(together, turned.flip(0))
    other, _ = generate(
        LanguageModel(model),
        *padded(PROMPTS),
        10,
        [EOS],
        PAD,
        VOCABULARY,
        noise=uniforms(3, 2, [0, 1, 2], 10),
    )
    assert not torch.equal(together, other)


def test_frequencies_follow_the_softmax_at_the_temperature(model):
    size = 4000
    ids, _ = generate(
        LanguageModel(model),
        *padded([[5, 6]] * size),
        1,
        [EOS],
        PAD,
        VOCABULARY,
        1.7,
        uniforms(0, 0, list(range(size)), 1),
    )
    expected = (model(torch.tensor([[5, 6]])).logits[0, -1] / 1.7).softmax(-1)
    counts = torch.bincount(ids[:, 0], minlength=VOCABULARY) / size
    error = (expected * (1 - expected) / size).sqrt()
    assert (
        (counts - expected).abs() < 4.5 * error + 1e-4
    ).all()  # 40 tokens: one in 3700 samples fails by chance


def test_log_probs_are_the_log_softmax_of_logits_over_temperature(model):
    response, mask = generate(LanguageModel(model), *padded(PROMPTS), 6, [EOS], PAD, VOCABULARY)
    found = logprobs(LanguageModel(model), join(*padded(PROMPTS), response, mask), 6, 0.7)
    for index, prompt in enumerate(PROMPTS):
        reply = response[index][mask[index]].tolist()
        logits = model(torch.tensor([prompt + reply])).logits[0] / 0.7
        expected = [logits[len(prompt) - 1 + t].log_softmax(-1)[token] for t, token in enumerate(reply)]
        torch.testing.assert_close(found[index, : len(reply)], torch.stack(expected), atol=1e-4, rtol=0)
        assert (found[index, len(reply) :] == 0).all()


def test_the_value_of_a_token_is_read_before_it():
    class Position(torch.nn.Module):
        """A critic whose value at a place is the place."""

        def forward(self, input_ids, position_ids, document_ids, groups):
            return position_ids.float()

    ids, mask = padded([[5, 6, 7], [8]])
    response = torch.tensor([[9, 2], [9, 9]])
    rows = join(ids, mask, response, torch.ones(2, 2, dtype=torch.bool))
    model: ScalarModel = Position()  # type: ignore[assignment]
    assert values(model, rows, 2).tolist() == [[2, 3], [0, 1]]
    assert rows.at_end(rows.position_ids).tolist() == [4, 2]


def test_random_numbers_are_below_one_in_fp32_too(monkeypatch):
    """1 would be above every cumulative probability and draw the last token, however improbable it is."""
    highest = type("Highest", (), {"random": lambda self, size: np.full(size, 1 - 2**-53)})
    monkeypatch.setattr(np.random, "default_rng", lambda seed: highest())
    assert uniforms(0, 0, [0], 3).max() < 1
