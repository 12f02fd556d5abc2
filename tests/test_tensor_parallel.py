"""A network cut over two tensor-parallel ranks computes what the whole one does, for every way that
transformers' plans cut, and what cannot be cut is refused."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from modules.backbone import LanguageModel, full_tensor
from strategies.tensor import parallelize
from tests.ranks import run_code

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 97,
}
# llama: cut by column and row; qwen3: norms of heads, whose gradients are summed; olmo2: gathered between;
# phi3: all gathered; gpt_neox: cut biases and an embedding in its plan; gemma: a buffer beside the embedding
FAMILIES = {
    "llama": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
    "olmo2": {},
    "phi3": {"pad_token_id": 0},
    "gpt_neox": {},
    "gemma": {"head_dim": 8},
}

CODE = """
import json, sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from tests.test_tensor_parallel import FAMILIES, gradients, network
from strategies.tensor import parallelize

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tensor_parallel",))
found = {}
for family in FAMILIES:
    expected, cut = network(family), network(family)
    parallelize(cut, mesh, cut.tp_plan(mesh.size()))
    (loss, grads), (right_loss, right_grads) = gradients(cut), gradients(expected)
    local = [p.to_local() for p in cut.parameters()]
    found[family] = {
        "loss": [float(loss), float(right_loss)],
        "gradients": {
            name: [float((grads[name] - right).abs().max()), float(right.abs().max())]
            for name, right in right_grads.items()
        },
        "parameters": [sum(p.numel() for p in local), sum(p.numel() for p in expected.parameters())],
        "bytes": sum(p.untyped_storage().nbytes() for p in local),
    }
json.dump(found, open(sys.argv[1] + str(dist.get_rank()), "w"))
"""


def network(family: str) -> LanguageModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SIZES, **FAMILIES.get(family, {}))
    return LanguageModel(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa"))


def gradients(model: LanguageModel) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch of two documents a row, and every parameter's whole gradient."""
    ids = torch.randint(1, 97, (2, 20), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(10).repeat(2, 2)
    documents = torch.arange(2).repeat_interleave(10).repeat(2, 1)
    loss = model(ids, ids, positions, documents).sum()
    loss.backward()
    return loss.detach(), {name: full_tensor(p.grad) for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensor_parallel")
    run_code(folder, CODE, 2, str(folder / "found."))
    return [json.loads((folder / f"found.{rank}").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_the_whole_network(found, family):
    for rank in found:
        loss, expected = rank[family]["loss"]
        # fp32: sums in another order, some 1e-7 of their size each
        assert loss == pytest.approx(expected, rel=1e-5)
        assert rank[family]["gradients"]
        for name, (difference, size) in rank[family]["gradients"].items():
            assert difference <= 1e-5 * max(1, size), name


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_rank_holds_half_of_what_is_cut_and_no_more_memory(found, family):
    for rank in found:
        part, whole = rank[family]["parameters"]
        assert 0.5 * whole < part < 0.75 * whole  # embeddings and norms stay whole
        assert rank[family]["bytes"] == 4 * part


def test_a_network_without_a_plan_is_refused():
    config = AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=4, vocab_size=97)
    model = LanguageModel(AutoModelForCausalLM.from_config(config))
    with pytest.raises(ValueError, match=r"trainer\.strategy: .* no tensor-parallel plan for `gpt2`: use"):
        model.tp_plan(2)


def test_heads_that_cannot_be_shared_evenly_are_refused():
    assert network("llama").tp_plan(2)
    with pytest.raises(ValueError, match=r"tensor_parallel is 4, but the model's num_key_value_heads is 2"):
        network("llama").tp_plan(4)


def test_a_plan_with_an_unknown_way_to_cut_is_refused_before_anything_is_cut():
    model = network("llama")
    with pytest.raises(
        ValueError, match=r"plan asks for `moe_tp_experts`, which strategies\.tensor_parallel"
    ):
        parallelize(model, None, {**model.tp_plan(2), "model.x": "moe_tp_experts"})
    assert all(type(parameter) is torch.nn.Parameter for parameter in model.parameters())
