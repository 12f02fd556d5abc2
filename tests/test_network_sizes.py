"""How large a network is, from its config alone: counts of known networks, and what it keeps, by hand."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from experiments.docs.networks_table import default_config
from experiments.plan.activations import saved_activations
from experiments.plan.network_sizes import read_config, sizes
from experiments.plan.scaling import low_rank_parameters
from experiments.plan.strategies_memory import TensorParallel
from modules.errors import UserError
from modules.probe_config import small_configs
from tests.networks import NETWORKS, SEVEN, gpt2, llama, sizes_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("name", "config", "parameters"), NETWORKS, ids=[name for name, _, _ in NETWORKS])
def test_parameters_of_known_networks_from_their_configs(name, config, parameters):
    assert sizes_of(config).parameters == parameters


def test_the_parts_of_llama_7b():
    """A block: 4 · 4096² + 3 · 4096 · 11008 matrices, 2 · 4096 in norms; outside: 2 · 32000 · 4096 + 4096."""
    network = sizes_of(SEVEN)
    assert network.block == 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert network.outside == 2 * 32000 * 4096 + 4096
    assert network.splittable == 32 * (network.block - 2 * 4096)
    assert network.matmul == network.parameters - 32000 * 4096 - 65 * 4096
    assert (network.layers, network.hidden, network.heads, network.kv_heads, network.head_size) == (
        *(32, 4096, 32, 32),
        128,
    )


def test_lora_of_llama_7b():
    linear = sizes_of(SEVEN).linear
    attention = {name: shape for name, shape in linear.items() if name.endswith(("q_proj", "v_proj"))}
    assert low_rank_parameters(attention, 8) == 4_194_304
    assert low_rank_parameters(linear, 8) == 19_988_480


def test_gpt2_has_no_plan_for_tensor_parallelism():
    assert sizes_of(gpt2(768, 12, 12)).splittable == 0
    assert TensorParallel.over(4, [sizes_of(gpt2(768, 12, 12))]) is None


def test_the_heads_say_how_far_tensors_are_cut():
    """8 key-value heads and 12 ranks: by 4; 32 heads and 64 ranks: by 8 and no more."""
    eight = sizes_of(llama(64, 64, 1, 16, 100, 8))
    assert TensorParallel.over(12, [eight]) == TensorParallel(3, 4)
    assert TensorParallel.over(64, [sizes_of(SEVEN)]) == TensorParallel(8, 8)
    assert TensorParallel.over(7, [eight]) is None


def test_what_llama_keeps_for_the_backward_pass_by_hand():
    """Floats a token: each norm keeps its input, the normed and the scaled input (3h) and 1/rms; attention q,
    k, v, its output (4h) and a log-sum for each head; the MLP gate, silu, up and their product (4i)."""
    config = read_config(llama(48, 80, 5, 6), None, "model.config")
    saved = saved_activations(config, rows=3, tokens=10)
    assert saved.block == 4 * 30 * (2 * (3 * 48 + 1) + 4 * 48 + 6 + 4 * 80)
    assert saved.block_input == 4 * 30 * 48


def test_a_field_that_a_config_does_not_have_is_named():
    with pytest.raises(ValueError, match="model.config of `llama` has no field `hidden_siez`"):
        read_config({**SEVEN, "hidden_siez": 3}, None, "model.config")


@pytest.mark.slow
def test_a_real_forward_keeps_what_the_plan_says():
    """Measured in a process of its own, within a twentieth."""
    code = (
        "import torch, json\n"
        "from modules.backbone import LanguageModel\nfrom modules.hf_load import new_causal_lm\n"
        "torch.set_num_threads(1)\n"
        "def anonymous():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(l for l in lines if l.startswith('RssAnon')).split()[1]) * 1024\n"
        f"model = LanguageModel(new_causal_lm({llama(512, 1408, 6, 8, 2000)!r}, 2000, {{}}))\n"
        "ids = torch.zeros(4, 512, dtype=torch.int64)\n"
        "positions = torch.arange(512).expand(4, -1)\n"
        "for _ in range(2):\n"
        "    before = anonymous()\n"
        "    loss = model(ids, ids, positions, torch.zeros_like(ids)).sum()\n"
        "    grown = anonymous() - before\n"
        "    loss.backward()\n"
        "    model.zero_grad()\n"
        "print(grown)"
    )
    environment = {"MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    kept = saved_activations(read_config(llama(512, 1408, 6, 8, 2000), None, "x"), 4, 512)
    assert int(done.stdout) == pytest.approx(kept.in_all(6), rel=0.05)


KINDS = {
    "experts": "mixtral",
    "experts and others": "deepseek_v3",
    "states": "mamba",
    "states and attention": "jamba",
    "positions from a mask": "opt",
    "positions from the padding": "roberta",
    "heads that differ": "gemma4_text",
    "scores with a bias": "bloom",
    "weights that are never 16 bits": "deepseek_v4",
}


@pytest.mark.parametrize("model_type", KINDS.values(), ids=KINDS)
def test_a_network_of_any_kind_is_planned(model_type, quiet_transformers):
    """A real forward of all of its blocks keeps the same, within a twentieth: two blocks of a kind need not
    be alike to the byte."""
    config = next(small_configs(default_config(model_type)))()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    kept, own = {}, {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.shape[-3:] != (1, 24, 24):
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(input_ids=torch.randint(5, 90, (3, 24)), use_cache=False)
    measured = sum(storage.nbytes() for storage in kept.values())
    planned = saved_activations(config, rows=3, tokens=24).in_all(sizes(config).layers)
    assert planned == pytest.approx(measured, rel=0.05)


def test_what_cannot_be_counted_is_told_in_a_line(quiet_transformers):
    config = next(small_configs(default_config("dbrx")))()
    with pytest.raises(UserError, match="^model: what `dbrx` keeps for its backward pass cannot be counted"):
        saved_activations(config, rows=1, tokens=8)


def test_a_network_that_cannot_run_is_refused_as_training_refuses_it():
    config = read_config({**llama(64, 64, 2, 4, 100), "num_key_value_heads": 3}, None, "model.config")
    with pytest.raises(
        UserError, match="^model: num_attention_heads is 4, no multiple of num_key_value_heads"
    ):
        saved_activations(config, rows=1, tokens=8)
