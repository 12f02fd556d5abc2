"""`trivium plan --config`: the four shipped stages, planned from a config.json and no weights."""

import json

import pytest
import yaml

from experiments.cli.program import main
from experiments.plan.memory import MemoryEstimate
from experiments.plan.network_sizes import read_config
from tests.conftest import CONFIGS
from tests.networks import TINY, llama


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


def test_sft_from_a_directory_without_weights(plan):
    planned = plan("sft", "--devices", "2", "--memory", "1e9", "--trainer.max_steps", "10")
    assert planned["parameters"] == {"model": TINY}
    assert set(planned["bytes_per_rank"]) == {"ddp", "zero1", "zero2", "zero3", "fsdp", "tensor_parallel"}
    ddp = planned["bytes_per_rank"]["ddp"]
    assert (ddp["weights"], ddp["gradients"], ddp["optimizer"]) == (4 * TINY, 4 * TINY, 8 * TINY)
    assert ddp["logits"] == 2 * 2048 * 500 * 4  # a GPU takes all tokens together, in two copies
    assert ddp["kv_cache"] == 0
    assert ddp["states"] == 16 * TINY
    assert ddp["peak"] == sum(ddp[part] for part in MemoryEstimate._fields)
    assert planned["bytes_per_rank"]["fsdp"]["states"] == 8 * TINY
    assert planned["bytes_per_rank"]["zero1"]["optimizer"] == 6 * TINY  # 12 Ψ / 2, the fp32 copy among them
    assert planned["micro_batch"] == {"rows": 8, "tokens": 256}
    assert (planned["steps"], planned["tokens"]["step"], planned["tokens"]["run"]) == (
        10,
        32 * 256,
        10 * 32 * 256,
    )
    assert planned["flops"]["run_6nd"] == 6 * TINY * 81920
    forward = 2 * (TINY - 5 * 32) + 4 * 2 * 32 * 256  # the tied head is multiplied, five norms are not
    assert planned["flops"]["forward_per_token"] == forward
    assert planned["flops"]["run"] == 3 * forward * 81920
    assert planned["choice"]["strategy"] == "ddp"
    assert planned["seconds"] is None


def test_pretraining_takes_the_vocabulary_from_the_tokenizer_or_from_the_config(plan, tiny_tokenizer):
    from transformers import AutoTokenizer

    base = 4 * (4 * 128**2 + 3 * 128 * 352 + 2 * 128) + 128
    vocabulary = len(AutoTokenizer.from_pretrained(tiny_tokenizer))
    assert plan("pretrain")["parameters"] == {"model": base + 128 * vocabulary}
    more = ("--model.init_args.config.vocab_size", "1000", "--data.init_args.tokenizer", "nowhere")
    planned = plan("pretrain", *more)
    assert planned["parameters"] == {"model": base + 128 * 1000}
    assert planned["steps"] is None
    assert planned["tokens"]["20x"] == 20 * (base + 128_000)
    assert set(planned["scaling"]["optimal_tokens"]) == {"chinchilla", "chinchilla-unrounded", "epoch"}


def test_a_token_budget_gives_the_steps_and_speed_the_time(plan):
    """8 blocks of 256 tokens are 2048 a step."""
    planned = plan("pretrain", "--tokens", "1e6", "--devices", "2", "--flops", "1e12", "--mfu", "0.5")
    assert planned["steps"] == 489
    assert planned["seconds"] == pytest.approx(planned["flops"]["run"] / 1e12)


def test_a_reward_model_has_a_head_of_its_own_and_no_logits(plan):
    planned = plan("reward")
    assert planned["parameters"] == {"reward": TINY + 32}
    assert planned["bytes_per_rank"]["ddp"]["logits"] == 0
    assert planned["micro_batch"] == {"rows": 16, "tokens": 128}
    assert planned["notes"] == ["4 replies to a prompt"]


def test_ppo_counts_all_four_models_and_the_cache(plan):
    """Rows are 64 + 48 tokens; a rank of two samples 64 of the 128 prompts together."""
    planned = plan("ppo", "--devices", "2", "--trainer.max_steps", "16")
    scalar = TINY + 32
    assert planned["parameters"] == {"actor": TINY, "critic": scalar, "reference": TINY, "reward": scalar}
    ddp, fsdp = planned["bytes_per_rank"]["ddp"], planned["bytes_per_rank"]["fsdp"]
    assert ddp["weights"] == 4 * (2 * TINY + 2 * scalar)
    assert ddp["gradients"] == 4 * (TINY + scalar)
    assert ddp["optimizer"] == 8 * (TINY + scalar)
    assert (fsdp["weights"], fsdp["optimizer"]) == (ddp["weights"] // 2, ddp["optimizer"] // 2)
    assert ddp["kv_cache"] == 2 * 2 * 4 * 8 * 112 * 64 * 4
    assert planned["micro_batch"] == {"rows": 32, "tokens": 112}
    assert planned["tokens"]["run"] == 2 * 128 * 112  # 16 updates are two iterations of 2 × 4
    actor = 2 * (TINY - 160) + 4 * 2 * 32 * 112
    critic = actor - 2 * 500 * 32 + 2 * 32
    each = actor + 2 * (actor + critic) + 2 * 3 * (actor + critic)
    assert planned["flops"]["run"] == each * 2 * 128 * 112


def test_precision_decides_in_a_config_too(plan):
    planned = plan("sft", "--devices", "2", "--trainer.precision", "bf16-mixed")["bytes_per_rank"]
    assert planned["ddp"]["states"] == 16 * TINY
    assert planned["zero2"]["states"] == 2 * TINY + (2 + 12) * TINY // 2
    planned = plan("sft", "--devices", "2", "--trainer.precision", "bf16-true")["bytes_per_rank"]
    assert planned["ddp"]["states"] == 8 * TINY


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


# --- a GPU run, and a stage of one's own

BILLION = 2 * 32000 * 2048 + 16 * (2 * 2048**2 * 5 // 4 + 3 * 2048 * 8192 + 2 * 2048) + 2048


@pytest.mark.parametrize(("name", "rows"), [("llama-1b-fsdp", 256), ("llama-1b-fsdp-sft", 64)])
def test_the_configs_of_a_gpu_run_fit_eight_gpus_of_80_gb(name, rows, tmp_path, capsys):
    """No data, tokenizer or weights exist; of the pretrained network a config.json."""
    given = yaml.safe_load((CONFIGS / "llama-1b-fsdp.yaml").read_text())["model"]["init_args"]["config"]
    read_config(given, None, "x").save_pretrained(tmp_path / "export")
    more = [f"--model.init_args.pretrained={tmp_path}/export"] if name.endswith("sft") else []
    line = ["plan", "--config", str(CONFIGS / f"{name}.yaml"), *more, "--memory", "80e9"]
    assert main([*line, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["parameters"] == {"model": BILLION}
    assert (planned["strategy"], planned["devices"], planned["fits"]["fsdp"]) == ("fsdp", 8, True)
    assert planned["bytes_per_rank"]["fsdp"]["states"] == 16 * BILLION // 8
    assert planned["micro_batch"] == {"rows": 4, "tokens": 4096}
    assert planned["tokens"]["step"] == rows * 4096
    assert planned["notes"] == []
    assert main(line) == 0
    assert "memory: 80 GB (given); fsdp fits\n" in capsys.readouterr().out


def test_the_mixture_of_the_gpu_run_is_a_plan(capsys):
    """75 % of web for 18 000 steps of 20 000, then 40 %."""
    config = str(CONFIGS / "llama-1b-fsdp.yaml")
    tokens = 20000 * 256 * 4096
    assert main(["plan", "--mixture", config, "--tokens", str(tokens), "--json"]) == 0
    sources = json.loads(capsys.readouterr().out)["sources"]
    assert sources["web"]["share"] == pytest.approx(0.9 * 0.75 + 0.1 * 0.4, rel=1e-12)


STAGE = """
from typing import Any
from modules import CausalLM
from modules.stage import NetworkSpec

class Distillation(CausalLM):
    stage, parents = "distil", ("sft",)

    def __init__(self, student: str, teacher: str, activation_checkpointing: bool = False):
        pass

    @classmethod
    def network_specs(cls, arguments: Any) -> list[NetworkSpec]:
        names = ("student", "teacher")
        return [NetworkSpec(each, each, arguments[each], "language", each == "student") for each in names]
"""


def test_a_stage_of_ones_own_is_planned_from_what_it_says_of_itself(stages, tmp_path, monkeypatch, capsys):
    (tmp_path / "distillation.py").write_text(STAGE)
    monkeypatch.syspath_prepend(tmp_path)
    lm = stages["sft"][0].partition("=")[2]
    model = {"class_path": "distillation.Distillation", "init_args": {"student": lm, "teacher": lm}}
    data = yaml.safe_load((CONFIGS / "sft.yaml").read_text())["data"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    assert main(["plan", "--config", str(tmp_path / "run.yaml"), "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["stage"], planned["parameters"]) == ("distil", {"student": TINY, "teacher": TINY})
    ddp = planned["bytes_per_rank"]["ddp"]
    assert (ddp["weights"], ddp["gradients"]) == (2 * 4 * TINY, 4 * TINY)
    model["init_args"]["teacher"] = "nowhere"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    assert main(["plan", "--config", str(tmp_path / "run.yaml")]) == 2
    assert "model.teacher: nowhere holds no config.json" in capsys.readouterr().err
