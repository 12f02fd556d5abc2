"""A Trainer's strategy as the plan reads it, what a rank needs under it, and which one is chosen."""

import json
from dataclasses import replace

import pytest
import yaml

from experiments.plan.advice import choose, most_helpful
from experiments.plan.config import read_run
from experiments.plan.estimate import candidates, estimate_memory, resting_bytes
from experiments.plan.network_sizes import read_config
from experiments.plan.strategies_memory import (
    DDP,
    FSDP2,
    STRATEGIES,
    TensorParallel,
    ZeRO2,
    ZeRO3,
    parallelism_of,
)
from experiments.plan.units import size
from tests.conftest import CONFIGS
from tests.networks import NETWORKS, SEVEN, gpt2, llama


def big(tmp_path, **options) -> str:
    """A run of LLaMA 7B on 2048 tokens, in YAML."""
    run = {
        "trainer": {"precision": "bf16-true", **options},
        "model": {"class_path": "modules.CausalLM", "init_args": {"config": SEVEN}},
        "data": {
            "class_path": "datamodules.MixedCorpusData",
            "init_args": {
                "sources": {"a": {"train": "a.jsonl"}},
                "tokenizer": "nowhere",
                "sequence_length": 2048,
                "micro_batch_size": 1,
            },
        },
    }
    file = tmp_path / "big.yaml"
    file.write_text(yaml.safe_dump(run))
    return str(file)


def test_the_simplest_strategy_that_fits_is_chosen(tmp_path):
    """8 bytes a parameter are 53.9 GB on every rank; a block keeps 0.38 GB of 2048 tokens, 32 of them 12."""
    run = read_run([big(tmp_path)], [], 8)
    peaks = {name: estimate_memory(run, STRATEGIES[name](8)).peak for name in ("ddp", "fsdp")}
    assert peaks["ddp"] > 66e9
    assert choose(run, 80 * 10**9).strategy == "ddp"
    assert "nothing is simpler" in choose(run, 80 * 10**9).reason
    small = choose(run, 24 * 10**9)
    assert (small.strategy, small.checkpointing) == ("fsdp", False)
    assert "what is simpler needs more: ddp" in small.reason
    tight = choose(run, peaks["fsdp"] - 10**9)
    assert tight.checkpointing
    nothing = choose(run._replace(devices=1, parallelism=DDP(1)), 24 * 10**9)
    assert nothing.strategy is None
    assert "fits on 8 devices" in nothing.reason or "fits on 4 devices" in nothing.reason


@pytest.mark.parametrize(
    ("given", "strategy", "data", "tensor"),
    [
        ("auto", "ddp", 8, 1),
        ("ddp_spawn", "ddp", 8, 1),
        ("strategies.ddp", "ddp", 8, 1),
        ("strategies.fsdp", "fsdp", 8, 1),
        ("deepspeed_stage_3_offload", "zero3", 8, 1),
        ({"class_path": "strategies.deepspeed", "init_args": {"stage": 1}}, "zero1", 8, 1),
        ({"class_path": "strategies.tensor_parallel", "init_args": {}}, "tensor_parallel", 1, 8),
        (
            {"class_path": "strategies.tensor_parallel", "init_args": {"tensor_parallel": 2}},
            *("tensor_parallel", 4, 2),
        ),
        (
            {"class_path": "strategies.tensor_parallel", "init_args": {"data_parallel": 2}},
            *("tensor_parallel", 2, 4),
        ),
        ({"class_path": "lightning.pytorch.strategies.ModelParallelStrategy"}, "fsdp", 8, 1),
    ],
)
def test_a_trainers_strategy_is_recognised(given, strategy, data, tensor):
    notes: list[str] = []
    read = parallelism_of(given, 8, notes)
    assert (read.name, read.data, read.tensor, notes) == (strategy, data, tensor, [])


def test_a_strategy_nobody_knows_is_planned_as_ddp_and_said_so():
    notes: list[str] = []
    assert parallelism_of("xla", 8, notes) == DDP(8)
    assert notes == ["strategy xla holds everything on every rank, as ddp does"]


def strategy(name, **options):
    return {"class_path": f"strategies.{name}", "init_args": options}


def test_options_that_change_memory_are_read():
    def read(given):
        return parallelism_of(given, 8, [])

    assert read("strategies.deepspeed") == ZeRO2(8)  # the function's defaults are the plan's
    assert read("strategies.fsdp") == FSDP2(8)
    assert read("deepspeed_stage_3_offload").offload == "parameters"
    assert read("deepspeed_stage_2_offload").offload == "optimizer"
    zero = strategy("deepspeed", stage=3, offload="optimizer", nvme_path="/fast", bucket_megabytes=50)
    assert read(zero) == ZeRO3(8, offload="optimizer", to_disk=True, bucket=50 * 10**6)
    assert read(strategy("deepspeed", persistent_elements=7)).persistent == 7
    fsdp = strategy("fsdp", cpu_offload=True, parameters="bf16", reshard_after_forward=False)
    assert read(fsdp) == FSDP2(8, offload="parameters", gathered_width=2, reshard=False)
    assert read(strategy("fsdp", gather_to_sample=False)) == FSDP2(8, gather_to_sample=False)
    assert read(strategy("deepspeed", gather_to_sample=False)) == ZeRO2(8, gather_to_sample=False)
    for lightnings in ("deepspeed_stage_3", "fsdp", "lightning.pytorch.strategies.ModelParallelStrategy"):
        assert not read(lightnings).gather_to_sample


def test_tensor_parallelism_over_all_ranks_has_none_of_fsdps_options():
    options = {"cpu_offload": True, "parameters": "bf16", "reshard_after_forward": False}
    alone = parallelism_of(strategy("tensor_parallel", **options), 8, [])
    assert alone == TensorParallel(1, 8)
    groups = parallelism_of(strategy("tensor_parallel", data_parallel=2, **options), 8, [])
    assert groups == TensorParallel(2, 4, offload="parameters", gathered_width=2, reshard=False)


@pytest.mark.parametrize(
    ("optimizer", "options", "moments_kept", "notes"),
    [
        ("AdamW", {"amsgrad": True}, 3, ()),
        ("SGD", {"momentum": 0.9}, 1, ()),
        ("SGD", {}, 0, ()),
        # refuses parameters of one dimension, which every network has in its norms
        ("Muon", {}, 2, ("torch.optim.Muon keeps two numbers a parameter, as Adam does",)),
    ],
)
def test_the_optimizer_of_a_config_says_what_is_kept(optimizer, options, moments_kept, notes, tmp_path):
    given = {"class_path": f"torch.optim.{optimizer}", "init_args": {"lr": 0.1, **options}}
    run = read_run([big(tmp_path)], [f"--model.init_args.optimizer={json.dumps(given)}"], 8)
    assert (run.moments, run.notes) == (moments_kept, notes)


@pytest.mark.parametrize(
    ("name", "options", "on_device"),
    [
        ("EMAWeightAveraging", {}, 0),  # made before the stage is on the GPU
        ("WeightAveraging", {"device": "cuda:0"}, 1),
        ("StochasticWeightAveraging", {"swa_lrs": 0.1}, 0),
        ("StochasticWeightAveraging", {"swa_lrs": 0.1, "device": None}, 1),
        ("ModelCheckpoint", {}, None),
    ],
)
def test_an_average_is_a_copy_of_the_networks_where_it_is(name, options, on_device, tmp_path):
    callback = {"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": options}
    file = big(tmp_path, callbacks=[callback], max_epochs=2)
    run = read_run([file], [], 1)._replace(on_cpu=False)
    plain = estimate_memory(run._replace(averages=0, averages_on_device=0), DDP(1))
    estimate = estimate_memory(run, DDP(1))
    copy = 0 if on_device is None else 2 * run.networks[0].sizes.parameters + run.networks[0].sizes.buffers
    assert estimate.weights - plain.weights == copy * (on_device or 0)
    assert estimate.host == copy - copy * (on_device or 0)
    assert estimate.peak - plain.peak == copy * (on_device or 0)
    on_cpu = estimate_memory(run._replace(on_cpu=True), DDP(1))
    assert (on_cpu.weights - plain.weights, on_cpu.host) == (copy, 0)
    assert ("zero2" in candidates(run._replace(devices=8))) == (on_device is None)
    few = choose(run, 24 * 10**9).reason
    assert ("more devices do not help" in few) == (on_device is not None)


def ppo(folder, actor, reward, given, devices=8):
    """PPO of two networks under a strategy, 128 prompts an iteration, in bf16."""
    for name, config in (("actor", actor), ("reward", reward)):
        read_config(config, None, "x").save_pretrained(folder / name)
    options = [f"--model.init_args.{name}={folder / name}" for name in ("actor", "reward")]
    options += [f"--trainer.strategy={json.dumps(given)}", "--trainer.precision=bf16-true"]
    return read_run([str(CONFIGS / "ppo.yaml")], options, devices)


def test_a_rank_holds_the_whole_actor_while_it_samples_or_block_by_block(tmp_path):
    """LLaMA 7B: 32 blocks of 202 M parameters; whole, the 31 beyond the two in use by block are there too."""
    run = ppo(tmp_path, SEVEN, SEVEN, strategy("fsdp"))
    block = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    whole, by_block = (
        estimate_memory(run, run.parallelism),
        estimate_memory(run, run.parallelism.sampling_by_block),
    )
    assert whole.sampling - by_block.sampling == 2 * 31 * block
    assert whole.kv_cache == 2 * 32 * 4096 * 112 * 16 * 2
    assert whole.absent == whole.gradients
    assert whole.rollout == whole.kv_cache + whole.sampling - whole.gradients
    given = ppo(tmp_path, SEVEN, SEVEN, strategy("fsdp", gather_to_sample=False))
    assert estimate_memory(given, given.parallelism) == by_block
    ddp = estimate_memory(run, DDP(8))
    assert ddp.sampling == 3 * 16 * 32000 * 4 + resting_bytes(run, DDP(8))


def test_the_largest_of_the_four_networks_is_whole_too(tmp_path):
    """LLaMA 13B as reward model: its parameters but for the head, and a block that arrives; the gradients of
    the last update are gone."""
    run = ppo(tmp_path, llama(64, 64, 2, 8, 100), llama(5120, 13824, 40, 40), strategy("fsdp"))
    estimate = estimate_memory(run, run.parallelism)
    block = 4 * 5120**2 + 3 * 5120 * 13824 + 2 * 5120
    scalar = 13_015_864_320 - 32000 * 5120 + 5120
    assert estimate.rollout - resting_bytes(run, run.parallelism) == 2 * (scalar + block) - estimate.gradients


def test_tensor_parallel_ranks_gather_their_part(tmp_path):
    run = ppo(tmp_path, SEVEN, SEVEN, strategy("tensor_parallel", tensor_parallel=4))
    whole, by_block = (
        estimate_memory(run, run.parallelism),
        estimate_memory(run, run.parallelism.sampling_by_block),
    )
    assert whole.sampling - by_block.sampling == 2 * 31 * ((4 * 4096**2 + 3 * 4096 * 11008) // 4 + 2 * 4096)


def test_ppo_that_fits_only_block_by_block_is_told_so(tmp_path):
    """GPT-2 XL, which tensor parallelism has no plan for, in small batches: whole it is more than the states
    that are left of it on 64 ranks."""
    fsdp = strategy("fsdp", parameters="bf16")
    run = ppo(tmp_path, gpt2(1600, 48, 25), gpt2(1600, 48, 25), fsdp, 64)._replace(rows=1, micro_batch_size=1)
    peaks = [
        estimate_memory(run, each, True).peak for each in (run.parallelism, run.parallelism.sampling_by_block)
    ]
    assert peaks[0] - peaks[1] > 1.4e9
    between = sum(peaks) // 2
    choice = choose(run, between)
    assert (choice.strategy, choice.checkpointing, choice.gather_to_sample) == ("fsdp", True, False)
    assert f"fsdp with checkpointing {size(peaks[0])}" in choice.reason
    assert choose(run, peaks[0]).gather_to_sample
    few = run._replace(devices=2, parallelism=FSDP2(2))
    assert "; fsdp with checkpointing and gather_to_sample false fits on " in choose(few, between).reason
    change = most_helpful(run._replace(checkpointing=True))
    prefix = "--trainer.strategy '"
    assert change.text.startswith(prefix)
    advised = json.loads(change.text.removeprefix(prefix).removesuffix("'"))
    assert advised == strategy("fsdp", parameters="bf16", gather_to_sample=False)
    assert change.peak == peaks[1]


def test_fsdp_over_fewer_ranks_has_replicas():
    parallelism = parallelism_of(strategy("fsdp", shards=2), 8, [])
    assert (parallelism.data, parallelism.shards, parallelism.replicas) == (8, 2, 4)


@pytest.mark.parametrize(
    ("given", "on_device", "away"),
    [  # bytes a parameter, of which a rank has an eighth of what is split: 2 + 2 + 12, offloaded in fp32 too
        (strategy("deepspeed", stage=2), 2 + 14 / 8, 0),
        (strategy("deepspeed", stage=2, offload="optimizer"), 2, (2 + 4 + 12) / 8),
        (strategy("deepspeed", stage=3, offload="optimizer", persistent_elements=0), 2 / 8, 18 / 8),
        (strategy("deepspeed", stage=3, offload="parameters", persistent_elements=0), 0, 20 / 8),
        (strategy("fsdp"), 8 / 8, 0),
        (strategy("fsdp", shards=2), 8 / 2, 0),
        (strategy("fsdp", cpu_offload=True), 0, 8 / 8),
    ],
)
def test_what_is_offloaded_is_not_on_the_device(given, on_device, away, tmp_path):
    run = read_run([big(tmp_path)], [f"--trainer.strategy={json.dumps(given)}"], 8)
    estimate = estimate_memory(run, run.parallelism)
    assert estimate.states == pytest.approx(on_device * NETWORKS[0][2], abs=100)
    assert estimate.host == pytest.approx(away * NETWORKS[0][2], abs=100)
    assert estimate.peak < estimate_memory(run, replace(run.parallelism, offload="none")).peak or not away
    on_cpu = estimate_memory(run._replace(on_cpu=True), run.parallelism)
    assert (on_cpu.states > on_device * NETWORKS[0][2] + 1e9) == bool(away)


def test_a_run_that_checkpoints_activations_is_planned_so(tmp_path):
    run = read_run([big(tmp_path)], [], 8)
    again = run._replace(checkpointing=True)
    assert estimate_memory(again, run.parallelism) == estimate_memory(run, run.parallelism, True)
    assert (
        estimate_memory(again, run.parallelism).activations
        < estimate_memory(run, run.parallelism).activations / 5
    )
