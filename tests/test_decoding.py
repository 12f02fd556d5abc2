"""Sequences that join and leave a running batch are continued as each would be alone."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from modules.backbone import LanguageModel
from modules.decoding import _Apart, _Recomputed, _Together, running_batch
from modules.documents import Route
from modules.generation import nucleus
from modules.probe import probe, randomize

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
NETWORKS = {
    "llama": ({}, _Together),
    "gemma3_text": (
        {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 8},
        _Together,
    ),
    "mistral": ({"sliding_window": 4}, _Together),
    "gpt2": ({"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}, _Together),
    "mamba": ({"state_size": 8}, None),
    "bloom": ({"n_layer": 2, "n_head": 4}, None),
}


def network_of(kind, options, seed=0):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **{**SIZES, **options})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        randomize(model)
    return LanguageModel(copy.deepcopy(model), False, probe(config)), model


def alone(plain, ids):
    """(V,) logits after a text, from one forward of the plain network."""
    with torch.no_grad():
        return plain(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]


@pytest.mark.parametrize("kind", NETWORKS)
def test_rows_that_join_and_leave_are_computed_as_alone(kind, quiet_transformers):
    options, way = NETWORKS[kind]
    network, plain = network_of(kind, options)
    batch = running_batch(network)
    assert way is None or isinstance(batch, way)
    generator = torch.Generator().manual_seed(1)

    def text(length):
        return torch.randint(10, 60, (length,), generator=generator).tolist()

    rows = []
    joins = [[text(n) for n in lengths] for lengths in ([3, 9, 1], [], [], [], [14, 2], [], [], [], [7], [])]
    leaves = [[], [], [], [1], [], [0, 1], [], [0, 1], [], []]
    with torch.no_grad():
        for new, gone in zip(joins, leaves, strict=True):
            kept = [i for i in range(len(rows)) if i not in gone]
            if gone:
                batch.keep(kept)
                rows = [rows[i] for i in kept]
            if new:
                batch.join(new)
                rows += [list(ids) for ids in new]
            for row, ids in enumerate(rows):
                torch.testing.assert_close(batch.logits[row], alone(plain, ids), atol=1e-4, rtol=0)
            if rows:
                tokens = text(len(rows))
                batch.step(torch.tensor(tokens))
                for ids, token in zip(rows, tokens, strict=True):
                    ids.append(token)


@pytest.mark.parametrize("way", [_Apart, _Recomputed])
def test_every_way_of_decoding_is_the_same(way):
    network, plain = network_of("llama", {})
    slow, fast = way(network), _Together(network)
    with torch.no_grad():
        for batch in (slow, fast):
            batch.join([[11, 12, 13], [14]])
            batch.step(torch.tensor([15, 16]))
            batch.join([[17, 18]])
            batch.keep([2, 0])
            batch.step(torch.tensor([19, 20]))
    torch.testing.assert_close(slow.logits, fast.logits, atol=1e-5, rtol=0)  # fp32, other shapes
    torch.testing.assert_close(fast.logits[0], alone(plain, [17, 18, 19]), atol=1e-5, rtol=0)


def test_a_network_whose_positions_turn_with_the_longest_row_is_decoded_row_by_row():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    config = AutoConfig.for_model("llama", **SIZES, rope_parameters=rope)
    assert isinstance(
        running_batch(LanguageModel(AutoModelForCausalLM.from_config(config), False, Route())), _Apart
    )


def test_a_nucleus_is_the_fewest_tokens_with_so_much_probability():
    logits = torch.tensor([0.1, 0.5, 0.05, 0.35]).log().expand(5, 4)
    kept = nucleus(logits, torch.tensor([0.0, 0.5, 0.51, 0.9, 1.0])) > -torch.inf
    assert kept.int().tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]]
