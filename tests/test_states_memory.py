"""The arithmetic of a rank's memory: published tables to the digit, and moments of a step by hand."""

from fractions import Fraction

import pytest

from experiments.plan.activations import (
    Block,
    block_bytes,
    network_bytes,
    recomputed_bytes,
    tensor_parallel_share,
)
from experiments.plan.buffers import Moments, Options, Shape, gathered_bytes, moments
from experiments.plan.memory import (
    LAYOUTS,
    Account,
    Layout,
    kv_cache_bytes,
    layout_of,
    logits_bytes,
    states_per_rank,
)

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
        found = states_per_rank(parameters, f"zero{stage}", ranks)
        assert printed_alike(Fraction(found.total, 10**9), printed), (stage, found)
    assert states_per_rank(parameters, "ddp", ranks).total == 16 * parameters
    assert states_per_rank(parameters, "fsdp", ranks) == states_per_rank(parameters, "zero3", ranks)


def test_states_by_part_and_layout():
    """10 parameters on 4 ranks: a rank holds at most ⌈10 · bytes / 4⌉ of what is split."""
    assert states_per_rank(10, "zero1", 4) == (20, 20, 30)
    assert states_per_rank(10, "zero2", 4) == (20, 5, 30)
    assert states_per_rank(10, "zero3", 4, LAYOUTS["fp32"]) == (10, 10, 20)
    assert states_per_rank(10, "ddp", 4, LAYOUTS["bf16-autocast"]) == (40, 40, 80)


def test_tensor_parallelism_cuts_what_its_plan_names_and_shards_the_rest():
    """100 parameters of which 60 are cut in 3: 20 + 40 = 60 a rank, over 2 data-parallel ranks 30."""
    assert states_per_rank(100, "tensor_parallel", 1, LAYOUTS["fp32"], 3, 60) == (240, 240, 480)
    assert states_per_rank(100, "tensor_parallel", 2, LAYOUTS["fp32"], 3, 60) == (120, 120, 240)


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
    assert layout_of(precision, strategy) == layout


def test_sgd_keeps_nothing_and_amsgrad_one_more():
    assert layout_of("32-true", "ddp", moments=0) == (4, 4, 0)
    assert layout_of("32-true", "ddp", moments=3) == (4, 4, 12)
    assert layout_of("bf16-mixed", "zero1", moments=0) == (2, 2, 4)


def test_activations_of_a_175b_model_on_eight_devices():
    """Korthikanti et al. 2022: GPT-3's shape, 96 layers, GiB a device."""
    block = Block(sequence=2048, batch=1, hidden=12288, heads=96)
    found = {
        "tensor parallel": block_bytes(block, tensor=8),
        "and sequence parallel": block_bytes(block, tensor=8, sequence_parallel=True),
        "and selective": block_bytes(block, tensor=8, sequence_parallel=True, score_matrix=False),
        "full": recomputed_bytes(block),
    }
    assert {name: f"{96 * each / GIB:.2f}" for name, each in found.items()} == {
        "tensor parallel": "51.75",
        "and sequence parallel": "32.06",
        "and selective": "9.56",
        "full": "4.50",
    }


def test_a_block_on_one_device_and_without_the_score_matrix():
    """s·b·h = 2·3·4 = 24; 34 · 24 = 816; 5·a·s/h = 5·2·2/4 = 5 more without SDPA."""
    block = Block(sequence=2, batch=3, hidden=4, heads=2)
    assert block_bytes(block) == 24 * 39
    assert block_bytes(block, score_matrix=False) == 816
    assert tensor_parallel_share(1) == 1
    assert tensor_parallel_share(4) == 16 / 34


def test_checkpointing_keeps_the_blocks_inputs_and_one_block():
    assert network_bytes(layers=10, block=50.0, outside=7.0, block_input=3.0) == 507
    assert network_bytes(layers=10, block=50.0, outside=7.0, block_input=3.0, checkpointing=True) == 87


def test_cache_logits_and_buffers_by_hand():
    assert (
        kv_cache_bytes(layers=2, kv_heads=3, head_size=5, tokens=7, rows=11, width=2)
        == 2 * 2 * 3 * 5 * 7 * 11 * 2
    )
    assert logits_bytes(tokens=4096, vocabulary=100, chunk=512) == 512 * 100 * 4
    assert logits_bytes(tokens=64, vocabulary=100, chunk=512) == 64 * 100 * 4


SHAPE = Shape(parameters=10**9, trained=10**9, block=10**7, outside=10**8, head=0)
MIXED = Layout(2, 2, 12)


def moments_of(strategy, ranks=4, shape=SHAPE, **more):
    """Of a step without activations and logits, in megabytes."""
    options = more.pop("options", Options())
    given = {"activations": 0, "logits": 0, "absent": 0, **more}
    found = moments(strategy, ranks, shape, MIXED, options, **given)
    return Moments(*(round(each / 10**6) for each in found))


def test_the_moments_of_a_step_by_hand():
    """1e9 parameters of 2 bytes; FSDP2: 2 · 10 M + 100 M gathered, a block's gradients twice; buckets of 200
    MB; copies of 6 bytes for a quarter."""
    assert moments_of("ddp", 1) == (0, 0, 0, 0, 0)
    assert moments_of("ddp") == (0, 0, 0, 2000, 0)
    assert moments_of("fsdp", 1) == (0, 0, 0, 0, 0)
    assert moments_of("fsdp") == (240, 240, 280, 280, 0)
    assert moments_of("zero2") == (0, 0, 400, 600, 1500)
    assert moments_of("zero3") == (240, 240, 640, 640, 1500)
    assert moments_of("zero2", options=Options(bucket=10**8)) == (0, 0, 200, 300, 1500)
    assert moments_of("fsdp", options=Options(gathered_width=4)).forward == 480
    assert moments_of("fsdp", options=Options(reshard=False)).forward == 2020
    assert moments_of("zero2", activations=10**9, logits=10**7)[:4] == (1010, 1010, 1300, 600)
    assert moments_of("fsdp", activations=10**9, absent=5 * 10**8)[:2] == (1240, 740)


@pytest.mark.parametrize(
    ("strategy", "ranks", "options", "whole", "by_block"),
    [  # megabytes; 1e9 parameters of 2 bytes, a block of 10 M arrives; else two blocks and 100 M outside
        ("fsdp", 4, Options(), 2020, 240),
        ("tensor_parallel", 4, Options(gathered_width=4), 4040, 480),
        ("fsdp", 4, Options(reshard=False), 2020, 2020),
        ("zero3", 4, Options(), 2000, 240),
        ("zero2", 4, Options(), 0, 0),
        ("ddp", 4, Options(), 0, 0),
        ("fsdp", 1, Options(), 0, 0),
    ],
)
def test_parameters_that_are_whole_while_a_network_samples(strategy, ranks, options, whole, by_block):
    given = (strategy, ranks, SHAPE, MIXED, options)
    assert gathered_bytes(*given, whole=True) == whole * 10**6
    assert gathered_bytes(*given) == by_block * 10**6


def test_a_head_has_its_gradient_for_a_moment():
    with_head = SHAPE._replace(head=10**8)
    assert moments_of("ddp", 1, with_head).backward == 400
    assert moments_of("ddp", 1, with_head, half=True)[:2] == (400, 1600)


def test_updates_and_rollouts_take_turns():
    one = Account(1, 2, 4, activations=100, logits=8, buffers=16, kv_cache=300, sampling=50)
    assert one.states == 7
    assert one.peak == 7 + 300 + 50
    assert one._replace(sampling=0, kv_cache=123).peak == 7 + 16 + 8 + 100
