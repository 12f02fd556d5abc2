"""A batch as one row of real tokens: the losses and gradients of each document alone, whatever the rows."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from datamodules.collate import documents_in_rows, ranked_replies, token_rows
from modules import documents as layout
from modules.backbone import LanguageModel, ScalarModel
from modules.documents import SHORTEST_PREFIX, Documents

COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
NETWORKS = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "gemma2": {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, "sliding_window": 5},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
    "phi": {},  # its head has a bias
}
# fp32: sums of other shapes round differently, some 1e-7 of numbers near 5
LOSS = {"rtol": 1e-5, "atol": 1e-5}


def hf(model_type="llama", cls=AutoModelForCausalLM, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **COMMON, **NETWORKS[model_type], **more)
    model = cls.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6 / parameter.shape[-1] ** 0.5)  # logits that differ
    return model


def alone(model, ids, temperature=1.0):
    """(T,) the plain model's loss of every token of a document but the first's, which is 0."""
    logits = model(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0, :-1].float()
    losses = F.cross_entropy(logits / temperature, torch.from_numpy(ids)[1:], reduction="none")
    return torch.cat([losses.new_zeros(1), losses])


def documents(lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(3, 97, length) for length in lengths]


def inputs(batch):
    return [batch[key] for key in ("input_ids", "labels", "position_ids", "document_ids")]


@pytest.fixture(params=["in groups", "one by one"])
def calls(request, monkeypatch):
    """Whether attention calls take documents of like length together or, as they lie, one after the other."""
    monkeypatch.setattr(layout, "CALL", 0 if request.param == "one by one" else 10**6)


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("model_type", NETWORKS)
def test_documents_have_the_losses_and_gradients_they_have_alone(model_type, temperature):
    rows = [documents([11, 1, 7], 1), documents([23], 2), documents([2, 9], 3)]
    plain, model = hf(model_type), LanguageModel(hf(model_type))
    expected = [[alone(plain, ids, temperature) for ids in row] for row in rows]
    sum(losses.sum() for row in expected for losses in row).backward()
    found = model(*inputs(token_rows(rows, rows, [0] * 3, pad_id=0)), temperature)
    found.sum().backward()
    for row, losses in zip(found, expected, strict=True):
        together = torch.cat(losses)
        torch.testing.assert_close(row[: len(together)], together, **LOSS)
        assert not row[len(together) :].any()
    for mine, theirs in zip(model.model.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            limit = 1e-5 * float(theirs.grad.abs().max().clamp(min=1))
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=limit)


MODEL, PLAIN = LanguageModel(hf("mistral")), hf("mistral")


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(1, 24), min_size=1, max_size=4), min_size=1, max_size=4),
    trained=st.floats(0, 1),
    left=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_rows_have_the_losses_of_their_documents(rows, trained, left, seed):
    random = np.random.default_rng(seed)
    rows = [documents(row, seed) for row in rows]
    labels = [[np.where(random.random(len(ids)) < trained, ids, -100) for ids in row] for row in rows]
    batch = token_rows(rows, labels, [0] * len(rows), pad_id=0)
    if left:  # as prompts are padded
        padding = (batch["document_ids"] < 0).sum(1)
        places = (torch.arange(batch["input_ids"].shape[1]) - padding[:, None]) % batch["input_ids"].shape[1]
        batch = {
            key: batch[key].gather(1, places)
            for key in ("input_ids", "labels", "position_ids", "document_ids")
        }
    with torch.no_grad():
        found = MODEL(*inputs(batch))
        kept = batch["document_ids"] >= 0
        for row, losses, real, wanted in zip(rows, found, kept, batch["labels"], strict=True):
            expected = torch.cat([alone(PLAIN, ids) for ids in row]) * (wanted[real] != -100)
            torch.testing.assert_close(losses[real], expected, **LOSS)
    assert not found[~kept].any()


def test_no_matrix_product_sees_padding():
    model = LanguageModel(hf())
    seen = []
    model.model.model.layers[0].mlp.register_forward_hook(lambda module, given, out: seen.append(out.shape))
    rows = [documents([3]), documents([40])]
    model(*inputs(token_rows(rows, rows, [0, 0], pad_id=0)))
    assert seen == [(1, 43, 32)]


def test_two_layouts_in_flight_keep_their_own_documents_when_blocks_are_computed_again():
    """Activation checkpointing calls attention again in the backward pass, after another batch's forward."""
    batches = [token_rows([row], [row], [0], pad_id=0) for row in (documents([9, 4, 12]), documents([20, 5]))]

    def gradients(checkpointing):
        model = LanguageModel(hf())
        if checkpointing:
            model.enable_activation_checkpointing()
        losses = [model(*inputs(batch)).sum() for batch in batches]
        sum(losses).backward()
        return [parameter.grad for parameter in model.parameters()]

    for again, kept in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(again, kept, rtol=0, atol=1e-6)  # the same operations, in the same order


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_replies_that_share_their_prompt_score_as_if_each_had_its_own(model_type, packed):
    random = np.random.default_rng(0)
    prompts = [random.integers(3, 97, length) for length in (30, 2, 47, SHORTEST_PREFIX)]
    packs = [
        [
            {
                "replies": [np.concatenate([prompt, random.integers(3, 97, n)]) for n in lengths],
                "ratings": np.arange(len(lengths)),
                "preferred": np.zeros(len(lengths) ** 2),
            }
        ]
        for prompt, lengths in zip(prompts, [(5, 1, 20, 9), (4, 4), (3, 17), (1, 2, 3)], strict=True)
    ]
    packs[0][0]["replies"].append(packs[0][0]["replies"][0][:-2])  # all of it is the beginning of another
    packs[0][0]["ratings"], packs[0][0]["preferred"] = np.arange(5), np.zeros(25)
    batch = ranked_replies([packs[0] + packs[1], packs[2] + packs[3]], packed, pad_id=0)
    rows = batch["input_ids"], batch["position_ids"], batch["document_ids"]

    def results(groups):
        model = ScalarModel(hf(model_type, AutoModelForSequenceClassification, num_labels=1))
        scores = model(*rows, groups)[batch["reply_ends"].unbind(1)]
        (scores * torch.linspace(-1, 1, len(scores))).sum().backward()
        return scores, [parameter.grad for parameter in model.parameters()]

    (shared, shared_grads), (separate, grads) = results(batch["prompt_index"]), results(None)
    assert Documents(*rows, batch["prompt_index"]).shared
    torch.testing.assert_close(shared, separate, **LOSS)
    for found, expected in zip(shared_grads, grads, strict=True):
        limit = 1e-5 * float(expected.abs().max().clamp(min=1))
        torch.testing.assert_close(found, expected, rtol=0, atol=limit)


def test_a_prompts_tokens_are_computed_once_for_all_its_replies():
    prompt, replies = np.arange(3, 43), [np.array([50, 51]), np.array([60, 61, 62]), np.array([70])]
    batch = documents_in_rows([[np.concatenate([prompt, reply])] for reply in replies], pad_id=0)
    row = Documents(batch["input_ids"], batch["position_ids"], batch["document_ids"], torch.zeros(3))
    assert row.input_ids[0].tolist() == [*prompt, 50, 51, 60, 61, 62, 70]
    assert row.position_ids[0].tolist() == [*range(40), 40, 41, 40, 41, 42, 40]
    for places, reply in zip(row.places, replies, strict=True):
        assert row.input_ids[0][places[: 40 + len(reply)]].tolist() == [*prompt, *reply]


def attention_calls(lengths):
    rows = documents_in_rows([[ids] for ids in documents(lengths)], pad_id=0)
    return Documents(rows["input_ids"], rows["position_ids"], rows["document_ids"]).groups


def test_short_documents_of_like_length_are_computed_together():
    lengths = [3, 30, 27, 3, 4, 29, 15]
    groups = attention_calls(lengths).groups
    assert sum(group.rows * group.keys for group in groups) <= 1.12 * sum(lengths)
    assert len(groups) < len(lengths)
    assert sum(group.rows for group in groups) == len(lengths)


def test_long_documents_stay_where_they_are():
    calls = attention_calls([100, 90, 90, 95, 3])
    assert [(group.rows, group.keys) for group in calls.groups] == [(1, 100), (2, 90), (1, 95), (1, 3)]
    assert calls.queries is calls.keys is None
