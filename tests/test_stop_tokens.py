"""Every token that ends a reply ends it: the tokenizer's eos, the chat template's turn end, and what the
parent's generation config says; in predict, in PPO, in chat, and in what an export says of itself."""

import json
import logging

import lightning as L
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

from datamodules import InstructionData, PromptData
from experiments.cli.program import main
from modules import PPOModule, SFTModule
from modules.generation import uniforms
from tests.checkpoints import QUIET, TYPES, byte_tokenizer, saved_model

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<|call|>"]
STEPS = {"optimizer": lambda p: torch.optim.SGD(p, lr=1e-30), "warmup_steps": 0}


@pytest.fixture(params=TYPES)
def start(request, tmp_path):
    """A base model with ChatML whose eos is another token; its generation config names a third."""
    folder = tmp_path / "base"
    tokenizer = byte_tokenizer(folder, SPECIAL, eos_token="<|endoftext|>", pad_token="<|pad|>")
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    model = saved_model(folder, request.param, len(tokenizer) + 7)
    model.generation_config = GenerationConfig(eos_token_id=[tokenizer.convert_tokens_to_ids("<|call|>"), 7])
    model.save_pretrained(folder)
    return folder, tokenizer


@pytest.fixture
def stops(start):
    return [*start[1].convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>", "<|call|>"]), 7]


def replies(rows, tmp_path, folder, count=16):
    content = [{"instruction": f"Write {n}", "output": "good fun"} for n in range(count)]
    file = rows(tmp_path / "rows.jsonl", content)
    return InstructionData(file, str(folder), val=file, global_batch_size=8, micro_batch_size=4)


def prompts(rows, tmp_path, folder, count=64):
    file = rows(tmp_path / "prompts.jsonl", [{"instruction": f"Write {n}"} for n in range(count)])
    return PromptData(file, str(folder), val=file, global_batch_size=count, eval_batch_size=count)


def made_to_say(folder, token):
    """The model says `token` whatever it is asked, and would rather say a row beyond the vocabulary."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[:] = torch.linspace(-1, 1, embeddings.shape[1])  # all tokens are one: one hidden state
        for name, weight in model.named_parameters():
            if name.endswith("wpe.weight"):
                weight.zero_()
        hidden = model.base_model(torch.tensor([[5]])).last_hidden_state[0, -1]
        head = model.get_output_embeddings().weight
        head.zero_()
        head[token], head[-1] = hidden, 2 * hidden
        assert model(torch.tensor([[1, 2, 3]])).logits[0, -1].argmax() == len(head) - 1
    model.save_pretrained(folder)


def test_an_export_names_every_stop_token_and_the_next_stage_finds_them_there(start, stops, rows, tmp_path):
    folder, tokenizer = start
    stage = SFTModule(str(folder), **STEPS)
    trainer = L.Trainer(max_steps=1, **QUIET)
    trainer.fit(stage, datamodule=replies(rows, tmp_path, folder))
    assert stage.stop_token_ids == tuple(stops)
    stage.export(str(tmp_path / "export"), {})
    told = json.loads((tmp_path / "export" / "generation_config.json").read_text())
    assert told["eos_token_id"] == stops
    assert json.loads((tmp_path / "export" / "config.json").read_text())["eos_token_id"] == stops[0]
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert main(["export", str(tmp_path / "run.ckpt"), str(tmp_path / "other")]) == 0
    assert json.loads((tmp_path / "other" / "generation_config.json").read_text()) == told
    again = SFTModule(str(tmp_path / "export"), **STEPS)
    L.Trainer(max_steps=1, **QUIET).fit(again, datamodule=replies(rows, tmp_path, tmp_path / "export"))
    assert again.stop_token_ids == tuple(stops)


def test_a_generation_config_that_transformers_does_not_write_fails_no_export(rows, tmp_path):
    folder = tmp_path / "base"
    tokenizer = byte_tokenizer(folder, SPECIAL, eos_token="<|endoftext|>", pad_token="<|pad|>")
    saved_model(folder, "llama", len(tokenizer))
    told = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [5, 6]}
    (folder / "generation_config.json").write_text(json.dumps(told))
    stage = SFTModule(str(folder), **STEPS)
    L.Trainer(max_steps=1, **QUIET).fit(stage, datamodule=replies(rows, tmp_path, folder))
    stage.export(str(tmp_path / "export"), {})
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, 5, 6]


def test_one_stop_token_stays_a_number_in_an_export(rows, tmp_path):
    folder = tmp_path / "base"
    tokenizer = byte_tokenizer(folder, SPECIAL, eos_token="<|endoftext|>", pad_token="<|pad|>")
    saved_model(folder, "llama", len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    stage = SFTModule(str(folder), **STEPS)
    L.Trainer(max_steps=1, **QUIET).fit(stage, datamodule=replies(rows, tmp_path, folder))
    stage.export(str(tmp_path / "export"), {})
    told = json.loads((tmp_path / "export" / "generation_config.json").read_text())
    assert told["eos_token_id"] == tokenizer.eos_token_id


def test_a_config_classs_default_is_no_stop_token(rows, tmp_path):
    """`LlamaConfig` says 2 where nobody says anything; here that is a letter."""
    folder = tmp_path / "base"
    tokenizer = byte_tokenizer(folder, SPECIAL, eos_token="<|endoftext|>", pad_token="<|pad|>")
    model = saved_model(folder, "llama", len(tokenizer))
    assert model.generation_config.eos_token_id == 2
    stage = SFTModule(str(folder), **STEPS)
    L.Trainer(max_steps=1, **QUIET).fit(stage, datamodule=replies(rows, tmp_path, folder))
    assert stage.stop_token_ids == (tokenizer.eos_token_id,)


def test_predict_ends_a_reply_at_any_stop_token(start, stops, rows, tmp_path):
    folder, tokenizer = start
    for token in [*stops, 9]:
        made_to_say(folder, token)
        data = replies(rows, tmp_path, folder, 3)
        out = L.Trainer(**QUIET).predict(SFTModule(str(folder), max_new_tokens=5), datamodule=data)
        told = [(row["reply"], row["ended"]) for batch in out for row in batch]
        text = tokenizer.decode([token] * (1 if token in stops else 5), skip_special_tokens=True)
        assert told == [(text, token in stops)] * 3


def test_ppo_stops_at_any_and_fines_only_what_never_stopped(start, stops, rows, tmp_path):
    """Its sampling is replayed with transformers' logits and the same random numbers."""
    folder, tokenizer = start
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():  # stop tokens and rows beyond the vocabulary are likelier than by chance
        model.get_output_embeddings().weight[[*stops, *range(len(tokenizer), len(tokenizer) + 7)]] *= 30
    model.save_pretrained(folder)
    saved_model(
        tmp_path / "reward", "llama", len(tokenizer), AutoModelForSequenceClassification, num_labels=1
    )
    stage = PPOModule(str(folder), str(tmp_path / "reward"), max_new_tokens=6, missing_eos_penalty=100.0)
    data = prompts(rows, tmp_path, folder)
    (out,) = L.Trainer(**QUIET).predict(stage, datamodule=data)
    (batch,) = data.predict_dataloader()
    noise = uniforms(0, 2**31, batch["prompt_index"].tolist(), 6)
    plain, ends = model.eval(), 0
    for row, told in enumerate(out):
        ids = batch["prompt_ids"][row][batch["prompt_mask"][row]].tolist()
        reply = []
        while len(reply) < 6 and not set(reply) & set(stops):
            with torch.no_grad():
                logits = plain(torch.tensor([ids + reply])).logits[0, -1, : len(tokenizer)]
            reach = logits.double().softmax(-1).cumsum(-1)
            reply.append(int(torch.searchsorted(reach, float(noise[row, len(reply)]), right=True)))
        ended = bool(set(reply) & set(stops))
        ends += ended
        assert (told["tokens"], told["ended"]) == (len(reply), ended)
        assert told["response"] == tokenizer.decode(reply, skip_special_tokens=True)
        assert (told["score"] < -50) == (not ended)
    assert 5 < ends < 60  # some of both


def test_chat_stops_at_any_and_says_nothing_beyond_the_vocabulary(start, stops, capsys):
    folder, tokenizer = start
    for token in [*stops, 9]:
        made_to_say(folder, token)
        capsys.readouterr()
        assert (
            main(["chat", str(folder), "--prompt", "hello", "--temperature", "0", "--max-new-tokens=6"]) == 0
        )
        said = [] if token in stops else [token] * 6  # what ends a reply is none of it
        assert capsys.readouterr().out == tokenizer.decode(said, skip_special_tokens=True) + "\n"


def test_the_turn_end_is_told(start, caplog):
    from datamodules.rendering.stop_tokens import stop_tokens
    from datamodules.rendering.tokenizer import load_tokenizer

    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        stop_tokens(load_tokenizer(str(start[0])))
    assert "<|im_end|> (eos is <|endoftext|>)" in caplog.text
