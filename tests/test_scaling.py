"""Token budgets, the parametric scaling law at published points, FLOPs and time."""

import json

import pytest

from experiments.cli.program import main
from experiments.plan.scaling import (
    FITS,
    forward_flops_per_token,
    loss,
    low_rank_parameters,
    optimal_tokens,
    optimum,
    rules_of_thumb,
    seconds,
    training_flops,
)

GOPHER = 5.76e23  # FLOPs, the budget of Gopher and of Chinchilla


def test_budgets_by_rule_of_thumb():
    assert rules_of_thumb(7_500_000_000)["1.7x"] == 12_750_000_000
    assert rules_of_thumb(70_000_000_000)["20x"] == 1_400_000_000_000
    assert rules_of_thumb(3)["1.7x"] == 5


@pytest.mark.parametrize(
    ("fit", "parameters", "tokens", "ratio"),
    [
        ("chinchilla", "3.219e10", "2.982e12", "92.65"),
        ("chinchilla-unrounded", "4.036e10", "2.379e12", "58.9"),
        ("epoch", "7.235e10", "1.327e12", "18.3"),
    ],
)
def test_the_optimum_for_gophers_compute(fit, parameters, tokens, ratio):
    best = optimum(FITS[fit], GOPHER)
    assert f"{best.parameters:.3e}".replace("e+", "e") == parameters
    assert f"{best.tokens:.3e}".replace("e+", "e") == tokens
    assert f"{best.tokens_per_parameter:.{len(ratio) - 3}f}" == ratio
    assert 6 * best.parameters * best.tokens == pytest.approx(GOPHER, rel=1e-12)


@pytest.mark.parametrize("fit", FITS)
def test_no_neighbour_of_the_same_compute_is_better_than_the_optimum(fit):
    best = optimum(FITS[fit], 1e21)
    for factor in (0.9, 1.1):
        assert loss(FITS[fit], best.parameters * factor, best.tokens / factor) > best.loss
    assert optimal_tokens(FITS[fit], best.parameters) == pytest.approx(best.tokens, rel=1e-9)


def test_the_loss_of_chinchilla_and_of_gopher_with_the_published_constants():
    assert round(loss(FITS["chinchilla"], 70e9, 1.4e12), 4) == 1.9366
    assert round(loss(FITS["chinchilla"], 280e9, 300e9), 4) == 1.9933


def test_twenty_tokens_a_parameter_are_epochs_and_not_the_published_constants():
    ratios = {name: optimum(fit, GOPHER).tokens_per_parameter for name, fit in FITS.items()}
    assert abs(ratios["epoch"] - 20) < 2
    assert ratios["chinchilla"] > 4 * 20


def test_training_takes_six_flops_a_parameter_and_token():
    assert training_flops(70e9, 1.4e12) == pytest.approx(5.88e23, rel=1e-12)


def test_forward_flops_by_hand():
    """Two layers of 10 × 10 and a head of 10 × 7: 2 · 270 a token; scores and values 4 · 3 · 10 a layer."""
    assert forward_flops_per_token(270, layers=2, attention_width=10, sequence=3) == 540 + 2 * 120


def test_time_is_flops_over_what_the_devices_reach():
    assert seconds(1e18, devices=4, peak_flops=1e15, utilisation=0.25) == 1000.0


def test_lora_trains_rank_times_in_and_out():
    assert low_rank_parameters({"a": (10, 3), "b": (4, 5)}, 2) == 2 * 13 + 2 * 9


def test_forward_flops_are_those_that_torch_counts():
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    from experiments.plan.network_sizes import read_config, sizes
    from experiments.plan.work import forward_flops

    for config in (
        {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
        | {
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": 100,
            "tie_word_embeddings": True,
        },
        {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100},
    ):
        read = read_config(config, None, "model.config")
        model = AutoModelForCausalLM.from_config(read).eval()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(input_ids=torch.zeros(2, 16, dtype=torch.int64), use_cache=False)
        # older transformers multiply a rotary embedding's angles as matrices: 2·2·16·8 more
        assert counter.get_total_flops() == pytest.approx(2 * 16 * forward_flops(sizes(read), 16), rel=1e-4)


def test_the_command_tells_the_optimum(capsys):
    assert main(["plan", "--compute", "5.76e23", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["compute"] == GOPHER
    assert set(planned["optimum"]) == {"chinchilla", "chinchilla-unrounded", "epoch"}
    assert planned["optimum"]["epoch"]["tokens_per_parameter"] == pytest.approx(18.3, abs=0.05)
    assert main(["plan", "--compute", "5.76e23"]) == 0
    out = capsys.readouterr().out
    assert "92.6 tokens a parameter" in out
    assert "20 tokens a parameter follow from Epoch's fit" in out


@pytest.mark.parametrize("compute", ["0", "-1", "much", "nan"])
def test_a_compute_that_is_no_number_is_one_line(compute, capsys):
    assert main(["plan", "--compute", compute]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line == f"trivium: --compute is '{compute}': give a number above 0, FLOPs such as 5.76e23"
    assert printed.out == ""
