"""The probe finds a fault that is planted in how a network is computed, and what it lets through is exact in
gradients too."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from modules import attention
from modules import probe as probe_module
from modules.backbone import LanguageModel
from modules.causal_lm import CausalLM
from modules.documents import Route
from modules.errors import UserError
from modules.head import Head
from modules.hf_config import new_config
from modules.hf_load import new_causal_lm
from modules.probe import (
    _probe,
    _tell,
    alone,
    compare,
    compare_decoding,
    documents,
    language_model,
    network_errors,
    probe,
    small_network,
)
from modules.probe_config import small_configs
from modules.specs import NetworkSpec
from modules.training_data import check_model
from tests.test_networks import faults

LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}

FALCON_40B = {"hidden_size": 8192, "num_attention_heads": 128, "num_kv_heads": 8}
FALCON_40B["new_decoder_architecture"] = True


def config(model_type, **options):
    return AutoConfig.for_model(model_type, **options)


@pytest.mark.parametrize(
    ("model_type", "options", "rows"),
    [
        ("mistral", {"sliding_window": 16}, "flat"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 16}, "flat"),
        ("phi", {}, "flat"),  # its head has a bias
        ("gemma2", {"head_dim": 8}, "flat"),
        ("granite", {"logits_scaling": 8.0, "attention_multiplier": 0.5, "residual_multiplier": 0.2}, "flat"),
        ("cohere", {"logit_scale": 0.0625}, "flat"),
        ("gpt_oss", {}, "flat"),
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}, "flat"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "flat"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "flat"),
        ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}, "flat"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "flat"),
        ("falcon", {"alibi": True}, "documents"),
        ("falcon", FALCON_40B, "documents"),
        ("mpt", {}, "documents"),
        ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 512}, "flat"),
        ("qwen3_next", {}, "documents"),
    ],
)
def test_a_network_with_this_option_is_exact(model_type, options, rows):
    route = probe(config(model_type, **options))
    assert route.rows == rows
    assert not faults(config(model_type, **options), route)


def losing(name):
    """The attention function without one of the things that layers hand over."""
    whole = attention.documents_attention

    def attend(*args, **kwargs):
        return whole(*args, **{**kwargs, name: None})

    return attend


@pytest.mark.parametrize(
    ("model_type", "lost"),
    [("mistral", "sliding_window"), ("gemma2", "softcap"), ("gpt_oss", "s_aux"), ("granite", "scaling")],
)
@torch.no_grad()
def test_attention_that_loses_something_is_found(monkeypatch, model_type, lost):
    torch.manual_seed(0)
    model, texts = small_network(config(model_type)), documents()
    plain = [alone(model, ids, scalar=False) for ids in texts]
    assert compare(model, Route(), texts, plain) is None
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, losing(lost))
    assert compare(model, Route(), texts, plain).nats > 2e-3


@pytest.mark.parametrize(
    ("model_type", "situation"), [("phi", "at temperature 0.5"), ("gemma2", "on a document alone")]
)
@torch.no_grad()
def test_a_head_that_loses_something_is_found(monkeypatch, model_type, situation):
    torch.manual_seed(0)
    model, texts = small_network(config(model_type)), documents()
    plain = [alone(model, ids, scalar=False) for ids in texts]
    whole = Head.losses

    def losses(self, hidden, weight, bias, labels, temperature):
        if model_type == "phi":  # the bias is not divided
            return whole(self, hidden / temperature, weight, bias, labels, 1.0)
        return whole(Head(), hidden, weight, bias, labels, temperature)

    monkeypatch.setattr(Head, "losses", losses)
    assert compare(model, Route(), texts, plain).situation == situation


@torch.no_grad()
def test_decoding_that_reads_padding_is_found():
    torch.manual_seed(0)
    model, texts = small_network(config("openai-gpt")), documents()
    plain = [alone(model, ids, scalar=False) for ids in texts]
    assert compare_decoding(model, Route("documents", decoding="cached"), texts, plain)
    assert compare_decoding(model, Route("documents", decoding="recomputed"), texts, plain) is None


def test_the_probe_leaves_generators_and_defaults_as_they_were():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    probe(config("llama", hidden_size=96, num_attention_heads=6))
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            assert probe(config("llama", hidden_size=80, num_attention_heads=5)) == Route()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"model_type": "bert"}, "`bert` is no causal language model with this config: its logits change by"),
        ({"model_type": "doge"}, "`doge` is no causal language model with this config: its logits change by"),
    ],
)
def test_a_network_that_is_not_exact_is_named_with_its_argument(options, line):
    spec = NetworkSpec("model", "config", options, head="language", trained=True)
    (found,) = network_errors([spec, spec])
    assert found.startswith(f"model.config: {line}")
    assert "\n" not in found


def test_a_stage_refuses_its_network_before_anything_is_built():
    (line,) = CausalLM(config={"model_type": "doge"}).config_errors()
    assert line.startswith("model.config: `doge` is no causal language model with this config")
    assert CausalLM(config={"model_type": "gemma2", "head_dim": 8}).config_errors() == []


def test_a_network_is_probed_once_before_it_is_built():
    options = {"model_type": "llama", "hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 2}
    assert CausalLM(config={**options, "intermediate_size": 64}).config_errors() == []
    probed = _probe.cache_info().misses
    ids = {"pad_token_id": 5, "bos_token_id": None, "eos_token_id": 6}
    language_model(new_causal_lm({**options, "intermediate_size": 64}, 330, ids))
    assert _probe.cache_info().misses == probed


def test_a_network_without_a_scalar_head_cannot_be_a_reward_model():
    spec = NetworkSpec("reward", "pretrained", {"model_type": "cohere"}, head="scalar", trained=True)
    assert network_errors([spec]) == [
        "model.pretrained: transformers has no sequence classifier for `cohere`, with which rewards and "
        "values are read: give another network"
    ]


def test_a_balance_loss_is_refused_and_without_one_experts_are_exact():
    with pytest.raises(
        UserError, match=r"^model.config: `mixtral` has output_router_logits true and router_aux"
    ):
        new_config({"model_type": "mixtral", "output_router_logits": True}, 97, "model.config")
    options = {"output_router_logits": True, "router_aux_loss_coef": 0.0}
    assert probe(new_config({"model_type": "mixtral", **options}, 97, "model.config")) == Route()


def test_the_log_tells_the_route_once(monkeypatch):
    _tell.cache_clear()  # another test of this process may have built one
    told: list[str] = []  # a logger is not asked: other tests of this process may have silenced it
    monkeypatch.setattr(probe_module, "rank_zero_info", told.append)
    model = AutoModelForCausalLM.from_config(next(small_configs(config("bloom")))())
    networks = [language_model(model), language_model(model)]
    assert {network.route.rows for network in networks} == {"documents"}
    assert told == ["`bloom` is exact here with documents rows, linear head, cached decoding"]


@pytest.mark.parametrize(("switch", "fits"), [(32, True), (16, False)])
def test_rows_that_would_switch_a_longrope_are_refused(switch, fits):
    factors = [1.0] * 8
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors, "long_factor": factors}
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    phi3 = config(
        "phi3",
        **{**small, "num_key_value_heads": 4, "vocab_size": 97, "pad_token_id": 0},
        rope_parameters={**rope, "original_max_position_embeddings": switch},
        max_position_embeddings=64,
        original_max_position_embeddings=switch,
    )
    data = SimpleNamespace(vocabulary=97, tokenizer_path="tokenizer", longest_row=20)
    model = AutoModelForCausalLM.from_config(phi3)
    if fits:
        check_model(model, data, "model.pretrained")
        return
    line = (
        r"^model.pretrained has other positions \(longrope\) in a text of more than 16 tokens, but the long"
    )
    with pytest.raises(UserError, match=line):
        check_model(model, data, "model.pretrained")


def test_the_small_copy_keeps_what_makes_a_network_special():
    large = config("gemma3_text")
    small = next(small_configs(large))()
    assert set(small.layer_types) == set(large.layer_types)
    assert small.sliding_window == 4
    assert small.rope_parameters["full_attention"]["rope_theta"] == 1_000_000
    small = next(
        small_configs(config("llama", num_attention_heads=2, hidden_size=32, num_key_value_heads=2))
    )()
    assert (small.num_attention_heads, small.num_key_value_heads, small.hidden_size) == (2, 2, 32)
    parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(small).parameters())
    assert parameters < 1_000_000
    assert json.loads(small.to_json_string())["model_type"] == "llama"


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma2", "gpt_oss", "qwen3_moe", "phi", "gpt2"])
def test_gradients_in_flat_rows_are_those_of_each_document_alone(model_type):
    torch.manual_seed(0)
    with torch.no_grad():
        plain, texts = small_network(config(model_type)), documents()
    ours = LanguageModel(copy.deepcopy(plain), route=probe(config(model_type)))
    assert ours.route.rows == "flat"
    tokens = sum(len(ids) - 1 for ids in texts)
    for ids in texts:
        logits = plain(input_ids=ids[None], use_cache=False).logits[0, :-1]
        (F.cross_entropy(logits, ids[1:], reduction="sum") / tokens).backward()
    row = torch.cat(texts)[None]
    positions = torch.cat([torch.arange(len(ids)) for ids in texts])[None]
    owners = torch.cat([torch.full_like(ids, number) for number, ids in enumerate(texts)])[None]
    labels = torch.where(positions > 0, row, -100)
    (ours(row, labels, positions, owners).sum() / tokens).backward()
    for (name, right), found in zip(plain.named_parameters(), ours.model.parameters(), strict=True):
        if right.grad is not None:
            torch.testing.assert_close(found.grad, right.grad, atol=1e-5, rtol=1e-4, msg=name)
