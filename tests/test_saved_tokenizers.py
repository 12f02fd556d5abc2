"""A tokenizer is the same after it was saved and read again by transformers alone, beside the config of
whatever model type, and stays so from stage to stage."""

import json
import shutil
import unicodedata

import lightning as L
import pytest
import torch
from transformers import AutoTokenizer, GPT2Tokenizer, LlamaTokenizer, Qwen2Tokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from datamodules import InstructionData, MixedCorpusData, Source
from experiments.commands.tokenizer import train
from modules import CausalLM, SFTModule
from modules.hf_tokenizer import save_tokenizer
from tests.checkpoints import QUIET, SIZES, byte_tokenizer, gpt2_like

OWN_CLASS = ["qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text"]
"""model types for which transformers takes a class of its own whatever the files say"""
OTHERS = ["llama", "mistral", "gpt2", "gemma2", "phi3", "qwen3", "gpt_neox", "olmo2"]
TEXTS = [
    "Hello, world's 12 films are good (1999).\n\n\n  电影很好 <pad></s><|endoftext|>",
    unicodedata.normalize("NFD", "émigré naïve"),  # a class that composes characters changes these
    " two  spaces\t\r\n",
]


def trained(folder):
    (folder / "x.txt").write_text(f"good film music {TEXTS[1]} 电影很好 1999 " * 40)
    train([str(folder / "x.txt")], 400, str(folder / "trained"))
    return AutoTokenizer.from_pretrained(folder / "trained")


def bpe(tokenizer):
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return {"vocab": {**model["vocab"], "<|endoftext|>": 500}, "merges": [tuple(m) for m in model["merges"]]}


def llama(folder):
    vocab = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *"▁abcdefghilmnoprstuvw129.,'()"])}
    return LlamaTokenizer(vocab={**vocab, "▁g": 50, "▁go": 51}, merges=[("▁", "g"), ("▁g", "o")])


MAKERS = {
    "trivium": trained,
    "one_special": lambda folder: gpt2_like(folder / "gpt2"),
    "gpt2": lambda folder: GPT2Tokenizer(**bpe(trained(folder))),
    "qwen2": lambda folder: Qwen2Tokenizer(**bpe(trained(folder))),
    "llama": llama,
}


@pytest.fixture(params=MAKERS)
def tokenizer(request, tmp_path):
    return MAKERS[request.param](tmp_path)


def check_same(found, wanted):
    assert found.get_vocab() == wanted.get_vocab()
    assert found.special_tokens_map == wanted.special_tokens_map
    for text in TEXTS:
        for more in ({}, {"add_special_tokens": False}, {"split_special_tokens": True}):
            ids = wanted(text, **more)["input_ids"]
            assert found(text, **more)["input_ids"] == ids
        assert found.decode(ids) == wanted.decode(ids)


def beside(folder, model_type):
    """The folder with a config of that model type in it."""
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


@pytest.mark.parametrize("model_type", [*OWN_CLASS, *OTHERS])
def test_a_tokenizer_is_read_back_beside_any_config(tokenizer, tmp_path, model_type):
    save_tokenizer(tokenizer, tmp_path / "saved")
    found = AutoTokenizer.from_pretrained(beside(tmp_path / "saved", model_type))
    check_same(found, tokenizer)
    save_tokenizer(found, tmp_path / "again")  # by the next stage
    check_same(AutoTokenizer.from_pretrained(beside(tmp_path / "again", model_type)), tokenizer)


@pytest.mark.slow
def test_no_model_type_of_transformers_changes_it(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "saved")
    for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if model_type != "gemma4_assistant":  # has no config without another model's
            check_same(AutoTokenizer.from_pretrained(beside(tmp_path / "saved", model_type)), tokenizer)


def test_what_the_command_writes_survives_a_config_that_is_put_beside_it(tmp_path):
    tokenizer = trained(tmp_path)
    for model_type in (*OWN_CLASS, "llama"):
        shutil.copytree(tmp_path / "trained", tmp_path / model_type)
        check_same(AutoTokenizer.from_pretrained(beside(tmp_path / model_type, model_type)), tokenizer)


@pytest.mark.parametrize(
    "make", [trained, lambda folder: byte_tokenizer(folder / "trained", ["</s>"], eos_token="</s>")]
)
def test_a_qwen2_from_scratch_goes_on_to_sft_with_the_same_tokens(tmp_path, rows, make):
    tokenizer, folder = make(tmp_path), str(tmp_path / "trained")
    texts = rows(tmp_path / "texts.jsonl", [{"text": "good film " * 20}] * 40)
    sources = {"a": Source(train=texts)}
    config = {"model_type": "qwen2", **SIZES, "max_position_embeddings": 128}
    data = MixedCorpusData(sources, folder, sequence_length=32, global_batch_size=4, micro_batch_size=4)
    steps = {"optimizer": lambda p: torch.optim.SGD(p, lr=1e-3), "warmup_steps": 0}
    stage = CausalLM(config, **steps)
    L.Trainer(max_steps=1, **QUIET).fit(stage, datamodule=data)
    stage.export(str(tmp_path / "pretrained"), {})
    check_same(AutoTokenizer.from_pretrained(tmp_path / "pretrained"), data.tokenizer)
    assert data.tokenizer.get_vocab() == tokenizer.get_vocab()
    file = rows(tmp_path / "x.jsonl", [{"instruction": "Write", "output": "good"}] * 8)
    for used in (folder, str(tmp_path / "pretrained")):
        replies = InstructionData(file, used, global_batch_size=4, micro_batch_size=4)
        stage = SFTModule(str(tmp_path / "pretrained"), **steps)
        L.Trainer(max_steps=1, **QUIET).fit(stage, datamodule=replies)
        stage.export(str(tmp_path / "sft"), {})
        check_same(AutoTokenizer.from_pretrained(tmp_path / "sft"), data.tokenizer)
