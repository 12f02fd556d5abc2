"""`trivium plan --parameters` and `--config`: published tables to the digit, counts of known networks,
accounts by hand, what fits, refusals."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from experiments.cli.program import main
from experiments.plan.account import account, choose, resting
from experiments.plan.activations import (
    Block,
    block_bytes,
    network_bytes,
    recomputed_bytes,
    tensor_parallel_share,
)
from experiments.plan.advice import most_helpful
from experiments.plan.buffers import Moments, Options, Shape, gathered_bytes, moments
from experiments.plan.config import read_run
from experiments.plan.memory import (
    LAYOUTS,
    Account,
    Layout,
    kv_cache_bytes,
    layout_of,
    logits_bytes,
    states_per_rank,
)
from experiments.plan.network_sizes import read_config, saved, sizes
from experiments.plan.scaling import low_rank_parameters
from experiments.plan.strategy import Cut, cut_of, widest
from experiments.plan.units import size

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "experiments" / "configs"
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


def llama(hidden, inner, layers, heads, vocabulary=32000, kv_heads=None, **more):
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or heads,
        "vocab_size": vocabulary,
        **more,
    }


def gpt2(width, layers, heads):
    return {"model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": heads, "vocab_size": 50257}


SEVEN = llama(4096, 11008, 32, 32)
NETWORKS = [
    ("LLaMA-7B", SEVEN, 6_738_415_616),
    ("LLaMA-13B", llama(5120, 13824, 40, 40), 13_015_864_320),
    ("LLaMA-33B", llama(6656, 17920, 60, 52), 32_528_943_616),
    ("LLaMA-65B", llama(8192, 22016, 80, 64), 65_285_660_672),
    ("Llama-2-70B", llama(8192, 28672, 80, 64, kv_heads=8), 68_976_648_192),
    ("Llama-3-8B", llama(4096, 14336, 32, 32, 128256, 8), 8_030_261_248),
    ("Llama-3-70B", llama(8192, 28672, 80, 64, 128256, 8), 70_553_706_496),
    ("Llama-3.2-1B", llama(2048, 8192, 16, 32, 128256, 8, tie_word_embeddings=True), 1_235_814_400),
    ("Mistral-7B", {**llama(4096, 14336, 32, 32, kv_heads=8), "model_type": "mistral"}, 7_241_732_096),
    ("TinyLlama", llama(2048, 5632, 22, 32, kv_heads=4), 1_100_048_384),
    ("GPT-2", gpt2(768, 12, 12), 124_439_808),
    ("GPT-2 medium", gpt2(1024, 24, 16), 354_823_168),
    ("GPT-2 large", gpt2(1280, 36, 20), 774_030_080),
    ("GPT-2 XL", gpt2(1600, 48, 25), 1_557_611_200),
]


def sizes_of(config):
    return sizes(read_config(config, None, "model.config"))


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


@pytest.mark.parametrize(("name", "config", "parameters"), NETWORKS, ids=[name for name, _, _ in NETWORKS])
def test_parameters_of_known_networks_from_their_configs(name, config, parameters):
    assert sizes_of(config).parameters == parameters


def test_the_parts_of_llama_7b():
    """A block: 4 · 4096² + 3 · 4096 · 11008 matrices, 2 · 4096 in norms; outside: 2 · 32000 · 4096 + 4096."""
    found = sizes_of(SEVEN)
    assert found.block == 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert found.outside == 2 * 32000 * 4096 + 4096
    assert found.cut == 32 * (found.block - 2 * 4096)
    assert found.matmul == found.parameters - 32000 * 4096 - 65 * 4096
    assert (found.layers, found.hidden, found.heads, found.kv_heads, found.head_size) == (
        *(32, 4096, 32, 32),
        128,
    )


def test_lora_of_llama_7b():
    linear = sizes_of(SEVEN).linear
    attention = {name: shape for name, shape in linear.items() if name.endswith(("q_proj", "v_proj"))}
    assert low_rank_parameters(attention, 8) == 4_194_304
    assert low_rank_parameters(linear, 8) == 19_988_480


def test_gpt2_has_no_plan_for_tensor_parallelism():
    assert sizes_of(gpt2(768, 12, 12)).cut == 0
    assert widest(4, [sizes_of(gpt2(768, 12, 12))]) is None


def test_the_heads_say_how_far_tensors_are_cut():
    """8 key-value heads and 12 ranks: by 4; 32 heads and 64 ranks: by 8 and no more."""
    eight = sizes_of(llama(64, 64, 1, 16, 100, 8))
    assert widest(12, [eight])[1:3] == (3, 4)
    assert widest(64, [sizes_of(SEVEN)])[1:3] == (8, 8)
    assert widest(7, [eight]) is None


def test_what_llama_keeps_for_the_backward_pass_by_hand():
    """Floats a token: each norm keeps its input, the normed and the scaled input (3h) and 1/rms; attention q,
    k, v, its output (4h) and a log-sum for each head; the MLP gate, silu, up and their product (4i)."""
    config = read_config(llama(48, 80, 5, 6), None, "model.config")
    found = saved(config, rows=3, tokens=10)
    assert found.block == 4 * 30 * (2 * (3 * 48 + 1) + 4 * 48 + 6 + 4 * 80)
    assert found.block_input == 4 * 30 * 48


def test_packed_rows_keep_a_mask_in_every_block():
    config = read_config(llama(48, 80, 5, 6), None, "model.config")
    alone, packed = saved(config, 3, 10), saved(config, 3, 10, packed=True)
    assert packed.block - alone.block == 4 * 3 * 10 * 10


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


# --- the command without a config


def test_parameters_alone_need_no_torch():
    code = (
        "import sys, experiments.cli.program as c\n"
        "c.main('plan --parameters 7.5e9 --devices 64 --json'.split())\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert {"torch", "lightning", "transformers", "numpy"}.isdisjoint(done.stderr.split())


def test_parameters_alone_give_the_states_and_the_tokens(capsys):
    assert main(["plan", "--parameters", "7.5e9", "--devices", "64", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out) == {
        "parameters": 7_500_000_000,
        "states_bytes_per_rank": {
            "ddp": 120_000_000_000,
            "zero1": 31_406_250_000,
            "zero2": 16_640_625_000,
            "zero3": 1_875_000_000,
            "fsdp": 1_875_000_000,
        },
        "tokens": {"1.7x": 12_750_000_000, "20x": 150_000_000_000},
    }


@pytest.mark.parametrize(
    ("layout", "size"), [("fp32", 16), ("bf16-autocast", 16), ("mixed", 16), ("bf16", 8)]
)
def test_the_layout_decides_the_bytes_a_parameter(layout, size, capsys):
    assert main(["plan", "--parameters", "1000", "--layout", layout, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["states_bytes_per_rank"].values()) == {size * 1000}


def test_words_for_people(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    line = ["plan", "--parameters", "7.5e9", "--devices", "64", "--memory", "20e9"]
    assert main([*line, "--flops", "989e12", "--mfu", "0.4"]) == 0
    out = capsys.readouterr().out
    assert "zero2 is the simplest whose states fit 20 GB" in out
    assert "31.41 GB > 20 GB" in out
    assert (
        "an estimated 3.09 days on 64 devices" in out
    )  # 6 · 7.5e9 · 150e9 / (64 · 989e12 · 0.4) = 266 600 s
    assert "1.7x = 12.75 G, 20x = 150 G" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--parameters 0", "--parameters is '0': give a number of 1 or more, such as 7.5e9"),
        ("--parameters lots", "--parameters is 'lots': give a number of 1 or more, such as 7.5e9"),
        ("--parameters 7e9 --devices 0", "--devices is '0': give a number of 1 or more, such as 64"),
        ("--parameters 7e9 --devices -4", "--devices is '-4': give a number of 1 or more, such as 64"),
        ("--parameters 7e9 --devices 2.5", "--devices is '2.5': give a whole number"),
        ("--parameters 7e9 --memory 0", "--memory is '0': give a number of 1 or more, bytes of a device"),
        ("--parameters 7e9 --memory=-1", "--memory is '-1': give a number of 1 or more, bytes of a device"),
        ("--parameters 7e9 --layout fp23", "--layout: there is no fp23: did you mean `fp32`?"),
        ("--parameters 7e9 --mfu 0.4", "--flops and --mfu tell the time only together: give both"),
        ("--parameters 7e9 --flops 1e15 --mfu 40", "--mfu is '40': give a share of the peak, such as 0.4"),
        ("--parameters 7e9 --compute 1e20", "--parameters and --compute are two plans: give one of them"),
        ("--parameters 7e9 --paramters 8", "unrecognized arguments: --paramters 8: did you mean `--param"),
        ("--mixture x --devices 3", "--devices has no meaning with --mixture: leave it out"),
        ("--config nowhere.yaml", "--config: nowhere.yaml does not exist: give the YAML file of a stage"),
        ("--config PRETRAIN --layout fp32", "--layout has no meaning with --config: leave it out"),
        ("--config PRETRAIN --trainer.max_stps 3", "there is no option --trainer.max_stps: did you mean"),
        (
            "--config PRETRAIN --data.init_args.tokenizer nowhere",
            "model.config has no vocab_size and data.tok",
        ),
        (
            "--config SFT --model.init_args.pretrained nowhere",
            "model.pretrained: nowhere holds no config.json",
        ),
        ("--config PRETRAIN --model.init_args.config {}", "model.config: `model_type: None` is not one"),
    ],
)
def test_a_mistake_is_one_line(arguments, line, capsys):
    arguments = arguments.replace("PRETRAIN", str(CONFIGS / "pretrain.yaml"))
    arguments = arguments.replace("SFT", str(CONFIGS / "sft.yaml"))
    if "{}" in arguments:
        arguments = arguments.replace("{}", '{"vocab_size":10}')
    assert main(["plan", *arguments.split()]) == 2
    printed = capsys.readouterr()
    (told,) = printed.err.splitlines()
    assert told.startswith(f"trivium: {line}")
    assert printed.out == ""


def test_a_field_that_a_config_does_not_have_is_named():
    with pytest.raises(ValueError, match="model.config of `llama` has no field `hidden_siez`"):
        read_config({**SEVEN, "hidden_siez": 3}, None, "model.config")


# --- the command with a config


@pytest.fixture(scope="module")
def stages(tmp_path_factory, tiny_tokenizer):
    """Directories of the earlier stages that hold a config.json and no weights; overrides for each stage."""
    folder = tmp_path_factory.mktemp("planned")
    network = read_config(llama(32, 64, 2, 4, 500, tie_word_embeddings=True), None, "x")
    network.save_pretrained(folder / "lm")
    here = f"{folder / 'lm'}"
    return {
        "pretrain": [f"--data.init_args.tokenizer={tiny_tokenizer}"],
        "sft": [f"--model.init_args.pretrained={here}"],
        "reward": [f"--model.init_args.pretrained={here}"],
        "ppo": [f"--model.init_args.actor={here}", f"--model.init_args.reward={here}"],
    }


@pytest.fixture
def plan(stages, capsys):
    """Runs `trivium plan --config` on a shipped stage; gives its JSON."""

    def run(stage: str, *more: str) -> dict:
        line = ["plan", "--config", str(CONFIGS / f"{stage}.yaml"), *stages[stage], "--json", *more]
        assert main(line) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return json.loads(printed.out)

    return run


TINY = 500 * 32 + 2 * (4 * 32**2 + 3 * 32 * 64 + 2 * 32) + 32  # embedding (tied), blocks, last norm


def test_sft_from_a_directory_without_weights(plan):
    found = plan("sft", "--devices", "2", "--memory", "1e9", "--trainer.max_steps", "10")
    assert found["parameters"] == {"model": TINY}
    assert set(found["bytes_per_rank"]) == {"ddp", "zero1", "zero2", "zero3", "fsdp", "tensor_parallel"}
    ddp = found["bytes_per_rank"]["ddp"]
    assert (ddp["weights"], ddp["gradients"], ddp["optimizer"]) == (4 * TINY, 4 * TINY, 8 * TINY)
    assert ddp["logits"] == 512 * 500 * 4
    assert ddp["kv_cache"] == 0
    assert ddp["states"] == 16 * TINY
    assert ddp["peak"] == sum(ddp[part] for part in Account._fields)
    assert found["bytes_per_rank"]["fsdp"]["states"] == 8 * TINY
    assert found["bytes_per_rank"]["zero1"]["optimizer"] == 6 * TINY  # 12 Ψ / 2, the fp32 copy among them
    assert found["micro_batch"] == {"rows": 8, "tokens": 256}
    assert (found["steps"], found["tokens"]["step"], found["tokens"]["run"]) == (10, 32 * 256, 10 * 32 * 256)
    assert found["flops"]["run_6nd"] == 6 * TINY * 81920
    forward = 2 * (TINY - 5 * 32) + 4 * 2 * 32 * 256  # the tied head is multiplied, five norms are not
    assert found["flops"]["forward_per_token"] == forward
    assert found["flops"]["run"] == 3 * forward * 81920
    assert found["choice"]["strategy"] == "ddp"
    assert found["seconds"] is None


def test_pretraining_takes_the_vocabulary_from_the_tokenizer_or_from_the_config(plan, tiny_tokenizer):
    from transformers import AutoTokenizer

    base = 4 * (4 * 128**2 + 3 * 128 * 352 + 2 * 128) + 128
    vocabulary = len(AutoTokenizer.from_pretrained(tiny_tokenizer))
    assert plan("pretrain")["parameters"] == {"model": base + 128 * vocabulary}
    more = ("--model.init_args.config.vocab_size", "1000", "--data.init_args.tokenizer", "nowhere")
    found = plan("pretrain", *more)
    assert found["parameters"] == {"model": base + 128 * 1000}
    assert found["steps"] is None
    assert found["tokens"]["20x"] == 20 * (base + 128_000)
    assert set(found["scaling"]["optimal_tokens"]) == {"chinchilla", "chinchilla-unrounded", "epoch"}


def test_a_token_budget_gives_the_steps_and_speed_the_time(plan):
    """8 blocks of 256 tokens are 2048 a step."""
    found = plan("pretrain", "--tokens", "1e6", "--devices", "2", "--flops", "1e12", "--mfu", "0.5")
    assert found["steps"] == 489
    assert found["seconds"] == pytest.approx(found["flops"]["run"] / 1e12)


def test_a_reward_model_has_a_head_of_its_own_and_no_logits(plan):
    found = plan("reward")
    assert found["parameters"] == {"reward": TINY + 32}
    assert found["bytes_per_rank"]["ddp"]["logits"] == 0
    assert found["micro_batch"] == {"rows": 16, "tokens": 128}
    assert found["notes"] == ["4 replies to a prompt"]


def test_ppo_counts_all_four_models_and_the_cache(plan):
    """Rows are 64 + 48 tokens; a rank of two samples 64 of the 128 prompts together."""
    found = plan("ppo", "--devices", "2", "--trainer.max_steps", "16")
    scalar = TINY + 32
    assert found["parameters"] == {"actor": TINY, "critic": scalar, "reference": TINY, "reward": scalar}
    ddp, fsdp = found["bytes_per_rank"]["ddp"], found["bytes_per_rank"]["fsdp"]
    assert ddp["weights"] == 4 * (2 * TINY + 2 * scalar)
    assert ddp["gradients"] == 4 * (TINY + scalar)
    assert ddp["optimizer"] == 8 * (TINY + scalar)
    assert (fsdp["weights"], fsdp["optimizer"]) == (ddp["weights"] // 2, ddp["optimizer"] // 2)
    assert ddp["kv_cache"] == 2 * 2 * 4 * 8 * 112 * 64 * 4
    assert found["micro_batch"] == {"rows": 32, "tokens": 112}
    assert found["tokens"]["run"] == 2 * 128 * 112  # 16 updates are two iterations of 2 × 4
    actor = 2 * (TINY - 160) + 4 * 2 * 32 * 112
    critic = actor - 2 * 500 * 32 + 2 * 32
    each = actor + 2 * (actor + critic) + 2 * 3 * (actor + critic)
    assert found["flops"]["run"] == each * 2 * 128 * 112


def test_precision_decides_in_a_config_too(plan):
    found = plan("sft", "--devices", "2", "--trainer.precision", "bf16-mixed")["bytes_per_rank"]
    assert found["ddp"]["states"] == 16 * TINY
    assert found["zero2"]["states"] == 2 * TINY + (2 + 12) * TINY // 2
    found = plan("sft", "--devices", "2", "--trainer.precision", "bf16-true")["bytes_per_rank"]
    assert found["ddp"]["states"] == 8 * TINY


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo"])
def test_every_shipped_stage_has_a_table_for_people(stage, stages, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    line = ["plan", "--config", str(CONFIGS / f"{stage}.yaml"), *stages[stage], "--devices", "2"]
    assert main([*line, "--memory", "1e6"]) == 0
    out = capsys.readouterr().out
    for word in ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "KV cache", "peak"):
        assert f"\n {word} " in out
    assert "memory: 1 MB (given); ddp does not fit" in out
    assert "choice: nothing: nothing fits 1 MB" in out
    assert max(map(len, out.partition("memory:")[0].splitlines()[2:])) <= 80


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
    peaks = {strategy: account(run, run.cut._replace(strategy=strategy)).peak for strategy in ("ddp", "fsdp")}
    assert peaks["ddp"] > 66e9
    assert choose(run, 80 * 10**9).strategy == "ddp"
    assert "nothing is simpler" in choose(run, 80 * 10**9).reason
    small = choose(run, 24 * 10**9)
    assert (small.strategy, small.checkpointing) == ("fsdp", False)
    assert "what is simpler needs more: ddp" in small.reason
    tight = choose(run, peaks["fsdp"] - 10**9)
    assert tight.checkpointing
    nothing = choose(run._replace(devices=1, cut=run.cut._replace(data=1)), 24 * 10**9)
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
    cut = cut_of(given, 8, [sizes_of(SEVEN)], notes)
    assert (cut.strategy, cut.data, cut.tensor, notes) == (strategy, data, tensor, [])


def test_a_strategy_nobody_knows_is_planned_as_ddp_and_said_so():
    notes: list[str] = []
    assert cut_of("xla", 8, [sizes_of(SEVEN)], notes).strategy == "ddp"
    assert notes == ["strategy xla holds everything on every rank, as ddp does"]


def strategy(name, **options):
    return {"class_path": f"strategies.{name}", "init_args": options}


def test_options_that_change_memory_are_read():
    def options(given):
        return cut_of(given, 8, [sizes_of(SEVEN)], []).options

    assert options("strategies.deepspeed") == Options()  # the function's defaults are the plan's
    assert options("strategies.fsdp") == Options()
    assert options("deepspeed_stage_3_offload").offload == "parameters"
    zero = strategy("deepspeed", stage=3, offload="optimizer", nvme_path="/fast", bucket_megabytes=50)
    assert options(zero) == Options("optimizer", to_disk=True, bucket=50 * 10**6)
    assert options(strategy("deepspeed", persistent_elements=7)).persistent == 7
    fsdp = strategy("fsdp", cpu_offload=True, parameters="bf16", reshard_after_forward=False)
    assert options(fsdp) == Options("parameters", gathered_width=2, reshard=False)
    for name in ("fsdp", "deepspeed"):
        assert options(strategy(name, gather_to_sample=False)) == Options(gather_to_sample=False)
    for lightnings in ("deepspeed_stage_3", "fsdp", "lightning.pytorch.strategies.ModelParallelStrategy"):
        assert not options(lightnings).gather_to_sample


def test_tensor_parallelism_over_all_ranks_has_none_of_fsdps_options():
    told = {"cpu_offload": True, "parameters": "bf16", "reshard_after_forward": False}
    alone = cut_of(strategy("tensor_parallel", **told), 8, [sizes_of(SEVEN)], [])
    assert (alone.data, alone.options) == (1, Options())
    groups = cut_of(strategy("tensor_parallel", data_parallel=2, **told), 8, [sizes_of(SEVEN)], [])
    assert groups.options == Options("parameters", gathered_width=2, reshard=False)


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


# --- PPO, whose networks may be whole while they sample


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
    whole, by_block = account(run, run.cut), account(run, run.cut.sampling_by_block)
    assert whole.sampling - by_block.sampling == 2 * 31 * block
    assert whole.kv_cache == 2 * 32 * 4096 * 112 * 16 * 2
    assert whole.absent == whole.gradients
    assert whole.rollout == whole.kv_cache + whole.sampling - whole.gradients
    given = ppo(tmp_path, SEVEN, SEVEN, strategy("fsdp", gather_to_sample=False))
    assert account(given, given.cut) == by_block
    ddp = account(run, Cut("ddp", 8))
    assert ddp.sampling == 3 * 16 * 32000 * 4 + resting(run, Cut("ddp", 8))


def test_the_largest_of_the_four_networks_is_whole_too(tmp_path):
    """LLaMA 13B as reward model: its parameters but for the head, and a block that arrives; the gradients of
    the last update are gone."""
    run = ppo(tmp_path, llama(64, 64, 2, 8, 100), llama(5120, 13824, 40, 40), strategy("fsdp"))
    found = account(run, run.cut)
    block = 4 * 5120**2 + 3 * 5120 * 13824 + 2 * 5120
    scalar = 13_015_864_320 - 32000 * 5120 + 5120
    assert found.rollout - resting(run, run.cut) == 2 * (scalar + block) - found.gradients


def test_tensor_parallel_ranks_gather_their_part(tmp_path):
    run = ppo(tmp_path, SEVEN, SEVEN, strategy("tensor_parallel", tensor_parallel=4))
    whole, by_block = account(run, run.cut), account(run, run.cut.sampling_by_block)
    assert whole.sampling - by_block.sampling == 2 * 31 * ((4 * 4096**2 + 3 * 4096 * 11008) // 4 + 2 * 4096)


def test_ppo_that_fits_only_block_by_block_is_told_so(tmp_path):
    """GPT-2 XL, which tensor parallelism has no plan for, in small batches: whole it is more than the states
    that are left of it on 64 ranks."""
    fsdp = strategy("fsdp", parameters="bf16")
    run = ppo(tmp_path, gpt2(1600, 48, 25), gpt2(1600, 48, 25), fsdp, 64)._replace(rows=1, micro_batch_size=1)
    peaks = [account(run, cut, True).peak for cut in (run.cut, run.cut.sampling_by_block)]
    assert peaks[0] - peaks[1] > 1.4e9
    between = sum(peaks) // 2
    choice = choose(run, between)
    assert (choice.strategy, choice.checkpointing, choice.gather_to_sample) == ("fsdp", True, False)
    assert f"fsdp with checkpointing {size(peaks[0])}" in choice.reason
    assert choose(run, peaks[0]).gather_to_sample
    few = run._replace(devices=2, cut=Cut("fsdp", 2))
    assert "; fsdp with checkpointing and gather_to_sample false fits on " in choose(few, between).reason
    change = most_helpful(run._replace(checkpointing=True))
    prefix = "--trainer.strategy '"
    assert change.text.startswith(prefix)
    advised = json.loads(change.text.removeprefix(prefix).removesuffix("'"))
    assert advised == strategy("fsdp", parameters="bf16", gather_to_sample=False)
    assert change.peak == peaks[1]


def test_fsdp_over_fewer_ranks_has_replicas():
    cut = cut_of(strategy("fsdp", shards=2), 8, [sizes_of(SEVEN)], [])
    assert (cut.data, cut.shards, cut.replicas) == (8, 2, 4)


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
    found = account(run, run.cut)
    assert found.states == pytest.approx(on_device * NETWORKS[0][2], abs=100)
    assert found.host == pytest.approx(away * NETWORKS[0][2], abs=100)
    assert found.peak < account(run, run.cut._replace(options=Options())).peak or not away
    on_cpu = account(run._replace(on_cpu=True), run.cut)
    assert (on_cpu.states > on_device * NETWORKS[0][2] + 1e9) == bool(away)


def test_a_run_that_checkpoints_activations_is_planned_so(tmp_path):
    run = read_run([big(tmp_path)], [], 8)
    again = run._replace(checkpointing=True)
    assert account(again, run.cut) == account(run, run.cut, True)
    assert account(again, run.cut).activations < account(run, run.cut).activations / 5


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
    kept = saved(read_config(llama(512, 1408, 6, 8, 2000), None, "x"), 4, 512)
    assert int(done.stdout) == pytest.approx(network_bytes(6, *kept), rel=0.05)
