"""The benchmark of the stages measures the work that it says."""

import statistics

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.rendering.tokenizer import load_tokenizer
from experiments.benchmarks import fixed_work
from experiments.benchmarks.stages import BLOCK, PLAIN, Clock, Work, measure

SMALLEST = {**fixed_work.MODELS["narrow"], "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64}
SMALLEST |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}


def run(stage, **options):
    return measure(Work(stage, SMALLEST, steps=1, **{"rows": 2, **options}), Clock())


@pytest.fixture
def computed(monkeypatch):
    """A list of how many tokens each forward embeds."""
    for stage in ("sft", "reward"):
        run(stage)  # so that the networks are probed before
    tokens = []

    def count(module, inputs):
        if isinstance(module, nn.Embedding):
            tokens.append(inputs[0].numel())

    hook = nn.modules.module.register_module_forward_pre_hook(count)
    yield tokens
    hook.remove()


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 1}, {"rows": 1, "packing": 2 * BLOCK}])
def test_a_step_of_pretraining_has_the_tokens_of_its_rows(options):
    result = run("pretrain", **options)
    assert result["tokens_per_step"] == 2 * BLOCK
    assert result["value"] == pytest.approx(2 * BLOCK / result["step_s"], rel=0.01)
    assert result["loss"] == pytest.approx(np.log(64), rel=0.1)  # nothing is learned in two steps


@pytest.mark.parametrize("packing", [None, 2048])
def test_sft_and_reward_count_no_padding(packing, computed):
    rows = 1 if packing else 4
    for stage in ("sft", "reward"):
        computed.clear()
        result = run(stage, rows=rows, packing=packing, replies=3, separate=True)
        steps = computed[:2]  # what the reward model's offset is measured on comes after
        assert result["tokens_per_step"] == steps[1]


def test_separate_replies_compute_their_prompt_again_to_the_same_loss(computed):
    shared = run("reward", replies=4, prompt_tokens=100)
    first = computed[0]
    computed.clear()
    separate = run("reward", replies=4, prompt_tokens=100, separate=True)
    # two prompts of 100 tokens, of which all but what the first reply needs is saved, and maybe a few more
    # tokens that replies begin with alike
    assert 600 <= computed[0] - first <= 620
    assert shared["tokens_per_step"] == separate["tokens_per_step"]
    assert shared["loss"] == pytest.approx(separate["loss"], abs=1e-4)
    assert shared["metric"] == "prompts/s"


def test_ppo_splits_an_iteration_into_its_parts():
    result = run("ppo", new_tokens=4)
    parts = [result[f"{name}_s"] for name in ("sampling", "scoring", "update")]
    assert all(part > 0 for part in parts)
    # of the same iteration, beside which nothing else takes long
    assert sum(parts) == pytest.approx(result["step_s"], rel=0.3)
    assert result["value"] == pytest.approx(2 / result["step_s"], rel=0.01)


def test_fixed_rows_have_the_lengths_that_they_say(tmp_path):
    tokenizer = load_tokenizer(fixed_work.write_tokenizer(tmp_path, 64))
    rows = list(fixed_work.instructions(64, 400))
    segments = [PLAIN.prompt(row, 0, tokenizer) for row in rows]
    prompts = [len(tokenizer("".join(s.text for s in parts))["input_ids"]) for parts in segments]
    replies = [len(row["output"].split()) + 1 for row in rows]
    for lengths, (fewest, most, median, _) in (
        (prompts, fixed_work.PROMPT_LENGTHS),
        (replies, fixed_work.REPLY_LENGTHS),
    ):
        assert fewest <= min(lengths)
        assert max(lengths) <= most
        assert statistics.median(lengths) == pytest.approx(median, rel=0.1)  # of 400: σ of 4 % for 0.7
    words = fixed_work.Text(np.random.default_rng(0), 64).words(20_000).split()
    # the shares of the two commonest words are as 1 / 3.7 to 1 / 4.7
    assert words.count("w3") / words.count("w4") == pytest.approx(4.7 / 3.7, rel=0.1)
    assert {int(word[1:]) for word in words} == set(range(3, 64))


def test_a_fixed_network_is_the_same_every_time(tmp_path):
    from transformers import AutoModelForCausalLM

    folders = [fixed_work.write_network(tmp_path / name, SMALLEST) for name in "ab"]
    first, second = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
