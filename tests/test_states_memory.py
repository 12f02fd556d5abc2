"""The arithmetic of a rank's memory: published tables to the digit, and moments of a step by hand."""

from fractions import Fraction

import pytest

from experiments.plan.activations import SavedActivations
from experiments.plan.memory import (
    BYTES_PER_PARAM,
    BytesPerParam,
    MemoryEstimate,
    Moments,
    Params,
    kv_cache_bytes,
    logits_bytes,
)
from experiments.plan.strategies_memory import DDP, FSDP2, STRATEGIES, TensorParallel, ZeRO1, ZeRO2, ZeRO3

GIB = 2**30


# Rajbhandari et al. 2020, table 1: GB per device, stages 1, 2 and 3, as printed
ZERO = {
    (7_500_000_000, 1): "120 120 120",
    (7_500_000_000, 4): "52.5 41.25 30",
    (7_500_000_000, 16): "35.62 21.56 7.5",
    (7_500_000_000, 64): "31.41 16.64 1.875",
    (7_500_000_000, 1024): "30.09 15.10 0.117",
    (128_000_000_000, 1): "2048 2048 2048",
    (128_000_000_000, 4): "896 704 512",
    (128_000_000_000, 16): "608 368 128",
    (128_000_000_000, 64): "536 284 32",
    (128_000_000_000, 1024): "513.5 257.8 2",
    (1_000_000_000_000, 1): "16000 16000 16000",
    (1_000_000_000_000, 4): "7000 5500 4000",
    (1_000_000_000_000, 16): "4750 2875 1000",
    (1_000_000_000_000, 64): "4187.5 2218.75 250",
    (1_000_000_000_000, 1024): "4012 2014 15.6",
}


def printed_alike(exact: Fraction, printed: str) -> bool:
    """Whether a number rounds to what is printed (either way at a half)."""
    places = len(printed.partition(".")[2])
    return abs(exact - Fraction(printed)) <= Fraction(1, 2 * 10**places)


@pytest.mark.parametrize(("parameters", "ranks"), ZERO)
def test_zeros_table(parameters, ranks):
    for stage, printed in enumerate(ZERO[parameters, ranks].split(), start=1):
        states = STRATEGIES[f"zero{stage}"](ranks).states(parameters)
        assert printed_alike(Fraction(states.total, 10**9), printed), (stage, states)
    assert DDP(ranks).states(parameters).total == 16 * parameters
    assert FSDP2(ranks).states(parameters) == ZeRO3(ranks).states(parameters)


def test_states_by_part_and_layout():
    """10 parameters on 4 ranks: a rank holds at most ⌈10 · bytes / 4⌉ of what is split."""
    assert ZeRO1(4).states(10) == (20, 20, 30)
    assert ZeRO2(4).states(10) == (20, 5, 30)
    assert ZeRO3(4).states(10, BYTES_PER_PARAM["fp32"]) == (10, 10, 20)
    assert DDP(4).states(10, BYTES_PER_PARAM["bf16-autocast"]) == (40, 40, 80)


def test_tensor_parallelism_cuts_what_its_plan_names_and_shards_the_rest():
    """100 parameters of which 60 are cut in 3: 20 + 40 = 60 a rank, over 2 data-parallel ranks 30."""
    assert TensorParallel(1, 3).states(100, BYTES_PER_PARAM["fp32"], 60) == (240, 240, 480)
    assert TensorParallel(2, 3).states(100, BYTES_PER_PARAM["fp32"], 60) == (120, 120, 240)


@pytest.mark.parametrize(
    ("precision", "strategy", "layout"),
    [
        ("32-true", "ddp", (4, 4, 8)),
        ("32-true", "fsdp", (4, 4, 8)),
        ("32", "zero2", (4, 4, 12)),  # DeepSpeed copies fp32 weights too
        ("bf16-mixed", "ddp", (4, 4, 8)),
        ("bf16-mixed", "tensor_parallel", (4, 4, 8)),
        ("bf16-mixed", "zero3", (2, 2, 12)),
        ("bf16", "zero1", (2, 2, 12)),
        ("bf16-true", "fsdp", (2, 2, 4)),
        ("bf16-true", "zero1", (2, 2, 12)),
        ("64-true", "ddp", (8, 8, 16)),
    ],
)
def test_precision_decides_the_layout(precision, strategy, layout):
    assert STRATEGIES[strategy].bytes_per_param(precision) == layout


def test_sgd_keeps_nothing_and_amsgrad_one_more():
    assert DDP.bytes_per_param("32-true", moments=0) == (4, 4, 0)
    assert DDP.bytes_per_param("32-true", moments=3) == (4, 4, 12)
    assert ZeRO1.bytes_per_param("bf16-mixed", moments=0) == (2, 2, 4)


def test_activations_of_a_175b_model_on_eight_devices():
    """Korthikanti et al. 2022, table 2 and figure 1: GPT-3's shape, 96 layers, GiB a device. A block keeps
    s·b·h·34 bytes and a score matrix of s·b·h·5·a·s/h, which tensor parallelism divides."""
    sequence, hidden, heads, layers, devices = 2048, 12288, 96, 96, 8
    numbers = sequence * hidden
    scores = SavedActivations(numbers * 5 * heads * sequence / hidden / devices, 0, 0).in_all(layers)
    block = SavedActivations(numbers * 34, 0, numbers * 2)
    divided = block.in_all(layers, TensorParallel(1, devices).activation_share)
    assert f"{(divided + scores) / GIB:.2f}" == "51.75"
    inputs = block._replace(block=0).in_all(layers, checkpointing=True)
    assert f"{inputs / GIB:.2f}" == "4.50"


def test_tensor_parallelism_divides_attention_and_mlp_but_not_the_norms():
    assert TensorParallel(1, 1).activation_share == DDP(4).activation_share == 1
    assert TensorParallel(1, 4).activation_share == 16 / 34


def test_checkpointing_keeps_the_blocks_inputs_and_one_block():
    saved = SavedActivations(block=50.0, outside=7.0, block_input=3.0)
    assert saved.in_all(layers=10) == 507
    assert saved.in_all(layers=10, checkpointing=True) == 87


def test_cache_logits_and_buffers_by_hand():
    assert (
        kv_cache_bytes(layers=2, kv_heads=3, head_size=5, tokens=7, rows=11, width=2)
        == 2 * 2 * 3 * 5 * 7 * 11 * 2
    )
    assert logits_bytes(tokens=4096, vocabulary=100, chunk=512) == 512 * 100 * 4
    assert logits_bytes(tokens=64, vocabulary=100, chunk=512) == 64 * 100 * 4


MIXED = BytesPerParam(2, 2, 12)
PARAMS = Params(10**9, trained=10**9, block=10**7, outside=10**8, head=0, bytes_each=MIXED)


def moments_of(parallelism, params=PARAMS, activations=0, logits=0, **more):
    """Of a step, by default without activations and logits, in megabytes."""
    moments = parallelism.moments(params, activations, logits, **more)
    return Moments(*(round(each / 10**6) for each in moments))


def test_the_moments_of_a_step_by_hand():
    """1e9 parameters of 2 bytes; FSDP2: 2 · 10 M + 100 M gathered, a block's gradients twice; buckets of 200
    MB; copies of 6 bytes for a quarter."""
    assert moments_of(DDP(1)) == (0, 0, 0, 0, 0)
    assert moments_of(DDP(4)) == (0, 0, 0, 2000, 0)
    assert moments_of(FSDP2(1)) == (0, 0, 0, 0, 0)
    assert moments_of(FSDP2(4)) == (240, 240, 280, 280, 0)
    assert moments_of(ZeRO2(4)) == (0, 0, 400, 600, 1500)
    assert moments_of(ZeRO3(4)) == (240, 240, 640, 640, 1500)
    assert moments_of(ZeRO2(4, bucket=10**8)) == (0, 0, 200, 300, 1500)
    assert moments_of(FSDP2(4, gathered_width=4)).forward == 480
    assert moments_of(FSDP2(4, reshard=False)).forward == 2020
    assert moments_of(ZeRO2(4), activations=10**9, logits=10**7)[:4] == (1010, 1010, 1300, 600)
    assert moments_of(FSDP2(4), activations=10**9, gradients=5 * 10**8)[:2] == (1240, 740)


@pytest.mark.parametrize(
    ("parallelism", "whole", "by_block"),
    [  # megabytes; 1e9 parameters of 2 bytes, a block of 10 M arrives; else two blocks and 100 M outside
        (FSDP2(4), 2020, 240),
        (TensorParallel(4, gathered_width=4), 4040, 480),
        (FSDP2(4, reshard=False), 2020, 2020),
        (ZeRO3(4), 2000, 240),
        (ZeRO2(4), 0, 0),
        (DDP(4), 0, 0),
        (FSDP2(1), 0, 0),
    ],
)
def test_parameters_that_are_whole_while_a_network_samples(parallelism, whole, by_block):
    assert parallelism.whole_bytes(PARAMS) == whole * 10**6
    assert parallelism.buffers(PARAMS).gathered == by_block * 10**6


def test_a_head_has_its_gradient_for_a_moment():
    with_head = PARAMS._replace(head=10**8)
    assert moments_of(DDP(1), with_head).backward == 400
    assert moments_of(DDP(1), with_head, half=True)[:2] == (400, 1600)


def test_updates_and_rollouts_take_turns():
    estimate = MemoryEstimate(1, 2, 4, activations=100, logits=8, buffers=16, kv_cache=300, sampling=50)
    assert estimate.states == 7
    assert estimate.peak == 7 + 300 + 50
    assert estimate._replace(sampling=0, kv_cache=123).peak == 7 + 16 + 8 + 100
