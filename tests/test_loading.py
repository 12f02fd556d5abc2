"""Pretrained weights are cut as they are read from their file: no rank holds them all, and whatever dtype
they are kept in, training starts from the same numbers."""

import json
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.conftest import Commands
from tests.ranks import run_code, zero

CODE = """
import json, os, sys, threading, time
from experiments.cli.program import main
from modules import SFTModule
from tests.ranks import take_tensors_one_by_one

def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

class Watch:
    def __enter__(self):
        self.start = self.peak = anonymous()
        self.watching = True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self):
        while self.watching:
            self.peak = max(self.peak, anonymous())
            time.sleep(0.001)

    def __exit__(self, *error):
        self.watching = False
        self.thread.join()
        found.append(max(self.peak, anonymous()) - self.start)

configure = SFTModule.configure_model

def watched(self):
    if self.network is None:
        with Watch():
            configure(self)

SFTModule.configure_model = watched
found = []
take_tensors_one_by_one()  # what a run frees is not the next one's to grow into
lines = json.load(open(sys.argv[1]))
assert all(main(line) == 0 for line in lines)
json.dump(found, open(sys.argv[1] + "." + os.environ["RANK"], "w"))
"""
STRATEGIES = {
    "fsdp": ["--trainer.strategy=strategies.fsdp"],
    "tensor_parallel": ["--trainer.strategy=strategies.tensor_parallel"],
    "zero3": zero(3),
}
LIBRARIES = 16_000_000  # bytes of small objects, and of pieces that the allocator keeps


@pytest.fixture(scope="module")
def peaks(tiny_files, tiny_tokenizer, tmp_path_factory):
    """Bytes by which a rank grew while it loaded and cut, at most: (dtype, strategy) → of each rank; and the
    bytes of the weights in fp32."""
    folder = tmp_path_factory.mktemp("loading")
    config = AutoConfig.for_model(
        "llama",
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=5,
        num_attention_heads=12,
        num_key_value_heads=12,
        vocab_size=8000,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config)
    size = 4 * model.num_parameters()
    cases, lines = [("float32", "fsdp")], []
    cases += [(dtype, name) for dtype in ("float32", "bfloat16") for name in STRATEGIES]
    for dtype in ("float32", "bfloat16"):
        model.to(getattr(torch, dtype)).save_pretrained(folder / dtype)
    for number, (dtype, name) in enumerate(cases):
        line = Commands(tiny_files, tiny_tokenizer, folder).stage("sft", run=f"run{number}")
        line.append(f"--data.init_args.tokenizer={tiny_tokenizer}")
        line += [f"--model.init_args.pretrained={folder / dtype}", "--trainer.fast_dev_run=1"]
        line += ["--data.init_args.global_batch_size=4", "--data.init_args.micro_batch_size=2"]
        line += ["--trainer.limit_val_batches=0", "--trainer.accelerator=cpu", "--trainer.devices=2"]
        lines.append([*line, *STRATEGIES[name]])
    (folder / "lines.json").write_text(json.dumps(lines))
    run_code(folder, CODE, 2, str(folder / "lines.json"))
    ranks = [json.loads((folder / f"lines.json.{rank}").read_text()) for rank in (0, 1)]
    shutil.rmtree(folder)
    found = dict(zip(cases, zip(*ranks, strict=True), strict=True))  # the first run is left out
    return found, size


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_rank_holds_more_than_its_part(peaks, dtype, strategy):
    """Half of the weights in fp32, one whole parameter (the embedding) and what libraries allocate."""
    found, size = peaks
    embedding = 4 * 8000 * 768
    for peak in found[dtype, strategy]:
        assert peak < 0.5 * size + embedding + LIBRARIES < 0.8 * size
