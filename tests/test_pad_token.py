"""What pads is told and is no token of a template; a tokenizer with one special token trains through all four
stages, and its reward model still gives transformers the right scores."""

import json
import logging

import lightning as L
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ByT5Tokenizer,
    CanineTokenizer,
    CTRLTokenizer,
)

from datamodules import InstructionData, MixedCorpusData, PreferenceData, PromptData, Source
from datamodules.rendering.tokenizer import load_tokenizer
from experiments.cli.program import main
from modules import CausalLM, PPOModule, RewardModule, SFTModule
from modules.hf_load import load_causal_lm
from tests.checkpoints import QUIET, TYPES, byte_tokenizer, gpt2_like, saved_model

LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' }}"
    "{{ '\n\n' + m.content + '<|eot_id|>' }}{% endfor %}"
)
PUT_TOGETHER = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + eos_token }}{% endfor %}"
RESERVED = "{% for m in messages %}{{ '<|reserved_' + '0|>' + m.content + eos_token }}{% endfor %}"
HEADERS = ["<|begin|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
STEPS = {"optimizer": lambda p: torch.optim.SGD(p, lr=1e-2), "warmup_steps": 0}


@pytest.mark.parametrize(
    ("special", "template", "given", "pad"),
    [
        (HEADERS, LLAMA_3, None, "<|eot_id|>"),  # all others stand in the template: the eos
        ([*HEADERS, "<|reserved_special_token_5|>"], LLAMA_3, None, "<|reserved_special_token_5|>"),
        (
            [*HEADERS, "<|reserved_0|>", "<|finetune_right_pad_id|>"],
            LLAMA_3,
            None,
            "<|finetune_right_pad_id|>",
        ),
        ([*HEADERS, "<|pad|>"], LLAMA_3, "<|end_header_id|>", "<|pad|>"),  # named, but the template writes it
        ([*HEADERS, "<|pad|>"], LLAMA_3, "<|eot_id|>", "<|pad|>"),
        ([*HEADERS, "<|pad|>", "<|other|>"], LLAMA_3, "<|other|>", "<|other|>"),  # its own choice stays
        (["<|eot_id|>", "<|user|>", "<|assistant|>", "<unk>"], PUT_TOGETHER, None, "<unk>"),
        (["<|eot_id|>", "<|reserved_0|>", "<|reserved_1|>"], RESERVED, None, "<|reserved_1|>"),
        (["<|eot_id|>", "<|im_start|>", "<|im_end|>"], None, None, "<|eot_id|>"),  # for a template to come
        (["<|eot_id|>"], None, None, "<|eot_id|>"),
    ],
)
def test_what_pads_is_spare_and_told(tmp_path, caplog, special, template, given, pad):
    more = {"pad_token": given} if given else {}
    tokenizer = byte_tokenizer(tmp_path, special, eos_token="<|eot_id|>", **more)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        loaded = [load_tokenizer(str(tmp_path)) for _ in range(3)]
    assert {tokenizer.pad_token for tokenizer in loaded} == {pad}
    assert loaded[0].get_vocab() == tokenizer.get_vocab()
    told = [record.getMessage() for record in caplog.records if "pads in its place" in record.getMessage()]
    if pad == given:
        assert told == []
    else:
        assert len(told) == 1
        assert f"{pad} pads" in told[0]


@pytest.mark.parametrize("name", ["byt5", "canine", "ctrl"])
def test_a_tokenizer_without_a_fast_backend_is_one_line(tmp_path, name):
    if name == "ctrl":
        (tmp_path / "v.json").write_text(json.dumps({"a": 0, "b</w>": 1, "<unk>": 2}))
        (tmp_path / "m.txt").write_text("#version: 0.2\na b</w>\n")
        slow = CTRLTokenizer(str(tmp_path / "v.json"), str(tmp_path / "m.txt"), eos_token="b")
    else:
        slow = {"byt5": ByT5Tokenizer, "canine": CanineTokenizer}[name]()
    slow.save_pretrained(tmp_path / "saved")
    with pytest.raises(
        ValueError, match="no fast backend for .*: give a directory with tokenizer.json"
    ) as refused:
        load_tokenizer(str(tmp_path / "saved"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ['{"a": ', '{"a": 1}'])
def test_a_tokenizer_that_was_cut_off_is_one_line(tmp_path, content):
    byte_tokenizer(tmp_path, ["</s>"], eos_token="</s>")
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"\Adata.tokenizer: .* cannot be read .*\Z"):
        load_tokenizer(str(tmp_path))


def reward_data(rows, tmp_path, tokenizer):
    replies = ["good fun film", "dull", "bad bad plot of a story", "sad"]
    file = rows(
        tmp_path / "ranked.jsonl",
        [
            {"instruction": f"Write {n}", "replies": replies, "ratings": [3.0, 1.0, 0.0, 2.0]}
            for n in range(8)
        ],
    )
    return PreferenceData(file, tokenizer=tokenizer, val=file, global_batch_size=4, micro_batch_size=2)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("spare_rows", [0, 5])
def test_the_exported_reward_model_of_one_special_token_scores_in_transformers_as_here(
    tmp_path, rows, kind, spare_rows
):
    """Rows of uneven length, which end in the eos, padded together by its own tokenizer on either side."""
    size = len(gpt2_like(tmp_path / "base"))
    saved_model(tmp_path / "base", kind, size + spare_rows, pad_token_id=None)
    data = reward_data(rows, tmp_path, str(tmp_path / "base"))
    stage = RewardModule(str(tmp_path / "base"), **STEPS)
    trainer = L.Trainer(max_steps=2, **QUIET)
    trainer.fit(stage, datamodule=data)
    stage.export(str(tmp_path / "export"), {})
    found = L.Trainer(**QUIET).predict(stage, datamodule=data)[0][0]["scores"]
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert main(["export", str(tmp_path / "run.ckpt"), str(tmp_path / "other")]) == 0
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "other").eval()
    own = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), own.parameters(), strict=True))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert tokenizer.pad_token_id == plain.config.pad_token_id not in (None, tokenizer.eos_token_id)
    assert plain.config.vocab_size == size + max(1, spare_rows)
    batch = next(iter(data.val_dataloader()))
    replies = []
    for row, column in batch["reply_ends"][:4].tolist():
        document = batch["document_ids"][row] == batch["document_ids"][row, column]
        replies.append(batch["input_ids"][row][document].tolist())
    assert {reply[-1] for reply in replies} == {tokenizer.eos_token_id}
    for side in ("right", "left"):
        padded = tokenizer.pad({"input_ids": replies}, return_tensors="pt", padding_side=side)
        if side == "right" or kind != "gpt2":  # its learned positions count the padding
            scores = plain(**padded).logits[:, 0].tolist()
            assert scores == pytest.approx(found, abs=1e-5)  # fp32, other shapes
        assert len(set(padded["attention_mask"].sum(1).tolist())) > 1


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_tokenizer_with_one_special_token_goes_through_all_four_stages(tmp_path, rows, kind):
    size = len(gpt2_like(tmp_path / "tokenizer"))
    quick = {"global_batch_size": 4, "micro_batch_size": 2}
    texts = rows(tmp_path / "texts.jsonl", [{"text": "good film music " * 8}] * 60)
    asked = [{"instruction": f"Write {n}", "output": "good " * (n % 4 + 1)} for n in range(12)]
    file = rows(tmp_path / "x.jsonl", asked)

    def run(stage, data, steps=2):
        trainer = L.Trainer(max_steps=steps, **QUIET)
        trainer.fit(stage, datamodule=data)
        assert trainer.global_step == steps
        name = str(tmp_path / stage.stage)
        stage.export(name, {})
        return name

    config = {"model_type": kind, "max_position_embeddings": 128, **TYPES[kind]}
    corpus = MixedCorpusData({"a": Source(texts)}, str(tmp_path / "tokenizer"), sequence_length=32, **quick)
    pretrained = run(CausalLM(config, **STEPS), corpus)
    sft = run(SFTModule(pretrained, **STEPS), InstructionData(file, pretrained, **quick))
    before = load_causal_lm(pretrained).get_input_embeddings().weight
    after = load_causal_lm(sft).get_input_embeddings().weight
    assert len(after) == size
    assert not torch.equal(before[size - 1], after[size - 1])  # the eos is trained, although it pads
    reward = run(RewardModule(sft, **STEPS), reward_data(rows, tmp_path, sft))
    ppo = PPOModule(sft, reward, max_new_tokens=4, epochs=1, minibatches=2)
    actor = run(ppo, PromptData(file, sft, global_batch_size=4))
    for name in (pretrained, sft, actor):
        assert (
            AutoTokenizer.from_pretrained(name).get_vocab() == AutoTokenizer.from_pretrained(sft).get_vocab()
        )
        assert AutoModelForCausalLM.from_pretrained(name).config.pad_token_id is None


def test_a_parents_pad_id_does_not_keep_its_row_from_training(tmp_path, rows):
    """Many checkpoints name their eos as pad; torch would leave that embedding as it is."""
    tokenizer = gpt2_like(tmp_path)
    saved_model(tmp_path, "llama", len(tokenizer), pad_token_id=tokenizer.eos_token_id)
    file = rows(tmp_path / "x.jsonl", [{"instruction": "Write", "output": "good"}] * 8)
    stage = SFTModule(str(tmp_path), **STEPS)
    before = load_causal_lm(str(tmp_path)).get_input_embeddings().weight[tokenizer.eos_token_id].clone()
    data = InstructionData(file, str(tmp_path), global_batch_size=4, micro_batch_size=4)
    L.Trainer(max_steps=1, **QUIET).fit(stage, datamodule=data)
    row = stage.network.model.get_input_embeddings().weight[tokenizer.eos_token_id]
    begins = data.splits["train"].members(0)[0]["input_ids"][0] == tokenizer.eos_token_id
    assert begins
    assert not torch.equal(row, before)
