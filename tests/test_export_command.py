"""`trivium export`: a checkpoint becomes the directory that the run itself writes when it ends, byte for
byte, in little memory; what cannot be exported is refused in one line. `test_deepspeed_ranks.py` has
DeepSpeed's folders.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from experiments.cli.program import main

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("pretrain", "sft", "reward", "ppo")


@pytest.fixture
def last(tiny_stages):
    """A stage's last checkpoint."""
    return lambda stage: str(tiny_stages.out / stage / "checkpoints" / "last.ckpt")


def tree(folder):
    """Every file's path and bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refusal(line, capsys):
    assert main(line) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_an_exported_checkpoint_is_the_runs_own_export(tiny_stages, last, stage, tmp_path):
    assert main(["export", last(stage), str(tmp_path / "out")]) == 0
    own, found = tree(tiny_stages.out / stage / "export"), tree(tmp_path / "out")
    assert found.keys() == own.keys()
    assert "model.safetensors" in found
    for name in own:
        assert found[name] == own[name], name
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
@torch.no_grad()
def test_shards_hold_the_same_weights_and_plain_transformers_loads_them(tiny_stages, last, tmp_path):
    assert main(["export", last("sft"), str(tmp_path / "out"), "--max-shard-size", "50KB"]) == 0
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(tmp_path.glob("out/model-*.safetensors"))
    assert len(files) > 2
    own = load_file(tiny_stages.out / "sft" / "export" / "model.safetensors")
    assert index["weight_map"].keys() == own.keys()  # the tied head is not there twice
    for file in files:
        tensors = load_file(file)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 50_000
        assert all(torch.equal(tensor, own[name]) for name, tensor in tensors.items())
    ids = torch.tensor([[1, 20, 30, 40, 2]])
    logits = [
        AutoModelForCausalLM.from_pretrained(path)(ids).logits
        for path in (tmp_path / "out", tiny_stages.export("sft"))
    ]
    assert torch.equal(*logits)


@pytest.mark.slow
def test_another_dtype_is_the_same_weights_rounded(tiny_stages, last, tmp_path):
    assert main(["export", last("ppo"), str(tmp_path / "out"), "--dtype", "bf16"]) == 0
    for folder in (".", "critic"):
        own = load_file(tiny_stages.out / "ppo" / "export" / folder / "model.safetensors")
        found = load_file(tmp_path / "out" / folder / "model.safetensors")
        assert found.keys() == own.keys()
        assert all(torch.equal(found[name], own[name].bfloat16()) for name in own)
        assert json.loads((tmp_path / "out" / folder / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.slow
def test_the_offset_of_a_reward_model_is_told_to_be_missing_before_training_ended(last, tmp_path, capsys):
    """A checkpoint away from its finished run is as one from the middle of it."""
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(last("reward"), tmp_path / "elsewhere" / "last.ckpt")
    assert main(["export", str(tmp_path / "elsewhere" / "last.ckpt"), str(tmp_path / "out")]) == 0
    assert "before the mean score was measured" in capsys.readouterr().out
    facts = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert facts["offset"] == 0
    assert facts["offset_note"].startswith("not measured")


@pytest.mark.slow
def test_a_directory_that_holds_something_is_kept(last, tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    line = ["export", last("sft"), str(tmp_path / "notes")]
    assert "is not empty: name another directory, or add --overwrite" in refusal(line, capsys)
    assert "it is no export that could be overwritten" in refusal([*line, "--overwrite"], capsys)
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"
    line = ["export", last("sft"), str(tmp_path / "out")]
    assert main(line) == 0
    assert "is not empty" in refusal(line, capsys)
    assert main([*line, "--overwrite", "--dtype", "fp16"]) == 0
    assert load_file(tmp_path / "out" / "model.safetensors")["model.norm.weight"].dtype == torch.float16


@pytest.mark.slow
def test_a_tokenizer_that_is_gone_can_be_named(tiny_stages, last, tmp_path, capsys):
    found = torch.load(last("sft"), weights_only=True)
    found["tokenizer"] = str(tmp_path / "gone")
    torch.save(found, tmp_path / "moved.ckpt")
    line = ["export", str(tmp_path / "moved.ckpt"), str(tmp_path / "out")]
    assert "name the run's tokenizer with --tokenizer DIR" in refusal(line, capsys)
    assert not (tmp_path / "out").exists()
    assert main([*line, "--tokenizer", tiny_stages.export("pretrain")]) == 0
    assert tree(tmp_path / "out") == tree(tiny_stages.out / "sft" / "export")


class Code:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (print, ("code was run",))


@pytest.mark.slow
def test_what_cannot_be_exported_is_refused(last, tmp_path, capsys, monkeypatch):
    def told(path, *more):
        return refusal(["export", str(path), str(tmp_path / "out"), *more], capsys)

    assert "does not exist" in told(tmp_path / "missing.ckpt")
    whole = Path(last("sft")).read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    assert "is no complete checkpoint: it was cut off" in told(tmp_path / "half.ckpt")
    (tmp_path / "empty").mkdir()
    assert "is no complete checkpoint: it is incomplete: `latest`" in told(tmp_path / "empty")
    torch.save({"state_dict": {}, "stage": "dpo"}, tmp_path / "other.ckpt")
    assert "is of stage `dpo`" in told(tmp_path / "other.ckpt")
    torch.save({"a": torch.ones(1)}, tmp_path / "weights.ckpt")
    assert "has no `state_dict`" in told(tmp_path / "weights.ckpt")
    torch.save({"state_dict": {}, "stage": "sft"}, tmp_path / "old.ckpt")
    assert "does not say what networks it holds" in told(tmp_path / "old.ckpt")
    torch.save({"state_dict": {}, "stage": Code()}, tmp_path / "code.ckpt")
    assert "could run code when it is read" in told(tmp_path / "code.ckpt")
    assert "code was run" not in capsys.readouterr().out
    assert "--max-shard-size is 5 apples" in told(last("sft"), "--max-shard-size", "5 apples")
    full = shutil.disk_usage(tmp_path)._replace(free=10**6)  # no small disk is at hand
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert "0.001 GB free, but 0.0501 GB are needed" in told(last("sft"))
    assert not (tmp_path / "out").exists()


MEMORY = """
import re, sys, threading
from pathlib import Path
from experiments.cli.program import main

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def watch():
    while not done.wait(0.005):
        peak[0] = max(peak[0], anonymous())

small, large, out = sys.argv[1:]
assert main(["export", small, out + "/small"]) == 0  # imports everything
for name, more in (("as_trained", []), ("rounded", ["--dtype", "bf16"])):
    before, peak, done = anonymous(), [0], threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    assert main(["export", large, f"{out}/{name}", "--max-shard-size", "20MB", *more]) == 0
    done.set()
    watcher.join()
    print("grown", name, peak[0] - before)
"""


@pytest.mark.slow
def test_memory_stays_below_a_shard_and_two_tensors(last, tmp_path):
    """A checkpoint of 303 MB, its largest tensor 9.4 MB."""
    found = torch.load(last("sft"), weights_only=True)
    (network,) = found["exports"]
    network["config"] |= {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 8}
    network["config"] |= {"num_key_value_heads": 4, "head_dim": 192}
    sizes = {32: 768, 64: 3072}
    state = {}
    for name, tensor in found["state_dict"].items():
        for layer in range(8) if ".layers.0." in name else (1,):
            shape = [sizes.get(size, size) for size in tensor.shape]
            state[name.replace(".layers.0.", f".layers.{layer}.")] = torch.full(shape, 0.5 + layer)
    state["network.model.lm_head.weight"] = state["network.model.model.embed_tokens.weight"]
    found |= {"state_dict": state, "optimizer_states": []}
    torch.save(found, tmp_path / "large.ckpt")
    line = [sys.executable, "-c", MEMORY, last("sft"), str(tmp_path / "large.ckpt"), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    largest = max(tensor.nbytes for tensor in state.values())
    for name, size in (("as_trained", 300e6), ("rounded", 150e6)):
        grown = int(done.stdout.split(f"grown {name}")[1].split()[0])
        assert grown <= 20e6 + 2 * largest
        assert sum(file.stat().st_size for file in tmp_path.glob(f"{name}/model-*.safetensors")) > size
