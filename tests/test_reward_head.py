"""A reward model's head is the one in its weights, whatever lies beside them; only weights without one get a
new head, where it is going to be trained."""

import json
import logging
import math

import lightning as L
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from datamodules import PreferenceData, PromptData
from experiments.commands.tokenizer import train
from modules import PPOModule, RewardModule
from modules.backbone import ScalarModel
from modules.hf_load import load_scalar_model

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
ROWS = [{"instruction": "Write.", "replies": ["good fun", "dull", "bad"], "ratings": [2.0, 1.0, 0.0]}] * 8
TYPES = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": {},
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64},
}


def network(kind, auto_class, seed=3, **more):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 64}
    options = {**(TYPES[kind] if kind == "gpt2" else {**sizes, **TYPES[kind]}), **more}
    config = AutoConfig.for_model(kind, vocab_size=300, pad_token_id=0, **options)
    return auto_class.from_config(config)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "a.txt").write_text("Write good dull fun bad. " * 50)
    train([str(folder / "a.txt")], 280, str(folder / "tokenizer"))
    return str(folder / "tokenizer")


@pytest.fixture
def ranked(rows, tmp_path, tokenizer):
    file = rows(tmp_path / "ranked.jsonl", ROWS)
    sizes = {"global_batch_size": 4, "micro_batch_size": 2}
    return lambda: PreferenceData(file, tokenizer=tokenizer, val=file, **sizes)


def scores_of(stage, data):
    out = L.Trainer(**QUIET).predict(stage, datamodule=data)
    return [score for batch in out for row in batch for score in row["scores"]]


def expected_scores(model, data):
    """Plain transformers' scores of the data's replies, each alone."""
    data.setup()
    model = model.eval()
    scores = []
    for batch in data.val_dataloader():
        real = (batch["rows"] >= 0)[batch["prompt_index"]]
        for row, column in batch["reply_ends"][real].tolist():
            document = batch["document_ids"][row] == batch["document_ids"][row, column]
            ids = batch["input_ids"][row][document][None]
            with torch.no_grad():
                hidden = model.base_model(input_ids=ids).last_hidden_state[0, -1]
                scores.append(float(model.score(hidden)))
    return scores


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("provenance", [None, {"stage": "sft"}, {"stage": "reward"}])
def test_a_head_in_the_weights_is_kept_with_any_provenance_or_none(tmp_path, kind, provenance):
    plain = network(kind, AutoModelForSequenceClassification, num_labels=1)
    plain.save_pretrained(tmp_path, max_shard_size="20KB" if kind == "llama" else "1GB")
    if provenance:
        (tmp_path / "provenance.json").write_text(json.dumps(provenance))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 if kind == "llama" else True
    torch.manual_seed(99)
    for draw in (None, torch.nn.init.zeros_):
        model = load_scalar_model(str(tmp_path), draw)
        assert torch.equal(model.score.weight, plain.score.weight)
    stage = RewardModule(str(tmp_path))
    stage.configure_model()
    assert torch.equal(stage.network.head.weight, plain.score.weight)


def test_a_reward_model_of_plain_transformers_gives_its_own_scores(tmp_path, ranked):
    """Rankings that were learned are not drawn again: the whole of predict, against transformers alone."""
    plain = network("llama", AutoModelForSequenceClassification, num_labels=1)
    plain.save_pretrained(tmp_path)
    found = scores_of(RewardModule(str(tmp_path)), ranked())
    assert found == pytest.approx(expected_scores(plain, ranked()), abs=1e-5)  # fp32, padded and alone


def test_training_goes_on_from_the_head_of_a_plain_reward_model(tmp_path, ranked):
    plain = network("mistral", AutoModelForSequenceClassification, num_labels=1)
    plain.save_pretrained(tmp_path)
    stage = RewardModule(str(tmp_path), optimizer=lambda p: torch.optim.SGD(p, lr=1e-30), warmup_steps=1)
    L.Trainer(max_steps=2, **QUIET).fit(stage, datamodule=ranked())
    assert torch.equal(stage.network.head.weight, plain.score.weight)


@pytest.mark.parametrize("kind", TYPES)
def test_weights_without_a_head_get_one_and_the_log_says_so_once(tmp_path, kind, caplog):
    network(kind, AutoModelForCausalLM).save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        stage = RewardModule(str(tmp_path))
        stage.configure_model()
        stage.configure_model()
    told = [r.getMessage() for r in caplog.records if "a new one is drawn" in r.getMessage()]
    assert len(told) == 1
    assert str(tmp_path) in told[0]
    head = stage.network.head.weight
    # of 32 numbers with this deviation the sample's is within 40 % but for one head in thousands
    assert 0.6 < float(head.std()) * math.sqrt(33) < 1.4


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_scores_of_a_head_that_nobody_trained_are_refused(tmp_path, ranked, command):
    network("llama", AutoModelForCausalLM).save_pretrained(tmp_path)
    run = getattr(L.Trainer(**QUIET), command)
    with pytest.raises(ValueError, match="no reward head in its weights") as refused:
        run(RewardModule(str(tmp_path)), datamodule=ranked())
    assert "\n" not in str(refused.value)


def test_a_checkpoint_of_a_run_brings_the_head_that_its_start_has_not(tmp_path, ranked):
    network("llama", AutoModelForCausalLM).save_pretrained(tmp_path / "start")
    stage = RewardModule(str(tmp_path / "start"), warmup_steps=1)
    trainer = L.Trainer(max_steps=2, **QUIET)
    trainer.fit(stage, datamodule=ranked())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    again = RewardModule(str(tmp_path / "start"))
    L.Trainer(**QUIET).validate(again, datamodule=ranked(), ckpt_path=tmp_path / "run.ckpt", verbose=False)
    assert torch.equal(again.network.head.weight, stage.network.head.weight)


def test_ppo_refuses_a_reward_model_without_a_head(tmp_path, rows, tokenizer):
    network("llama", AutoModelForCausalLM).save_pretrained(tmp_path / "model")
    file = rows(tmp_path / "prompts.jsonl", [{"instruction": "Write."}] * 4)
    data = PromptData(file, tokenizer=tokenizer, global_batch_size=4, max_prompt_length=40)
    stage = PPOModule(str(tmp_path / "model"), str(tmp_path / "model"), max_new_tokens=4)
    with pytest.raises(ValueError, match="no reward head"):
        L.Trainer(max_steps=16, **QUIET).fit(stage, datamodule=data)


@pytest.mark.parametrize("kind", TYPES)
def test_a_head_of_several_labels_is_refused_by_its_size(tmp_path, kind):
    network(kind, AutoModelForSequenceClassification, num_labels=3).save_pretrained(tmp_path)
    for draw in (None, torch.nn.init.zeros_):
        with pytest.raises(ValueError, match=r"`score.weight` is \(3, 32\).*\(1, 32\).*single label"):
            load_scalar_model(str(tmp_path), draw)


def test_a_head_with_a_bias_is_refused_and_not_cut_off(tmp_path):
    """A critic's, which another run exported: without its bias every score would be moved."""
    network("llama", AutoModelForTokenClassification, num_labels=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`score.bias`: not in a model by config.json"):
        load_scalar_model(str(tmp_path), torch.nn.init.zeros_)


def test_a_body_that_lacks_a_weight_is_refused_as_before(tmp_path):
    network("llama", AutoModelForSequenceClassification, num_labels=1).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="`model.norm.weight`: missing from the weights"):
        load_scalar_model(str(tmp_path), torch.nn.init.zeros_)


@pytest.mark.slow
def test_our_own_export_keeps_its_head_when_its_provenance_is_lost(tiny_stages, tmp_path):
    import shutil

    shutil.copytree(tiny_stages.export("reward"), tmp_path / "copy")
    (tmp_path / "copy" / "provenance.json").unlink()
    heads = [
        load_scalar_model(path).score.weight
        for path in (tiny_stages.export("reward"), str(tmp_path / "copy"))
    ]
    assert torch.equal(*heads)
    ids = torch.tensor([[1, 20, 30, 2]])
    stage = RewardModule(str(tmp_path / "copy"))
    stage.configure_model()
    expected = ScalarModel(load_scalar_model(tiny_stages.export("reward"))).eval()
    row = ids, torch.arange(4)[None], torch.zeros_like(ids)
    assert torch.equal(stage.network.eval()(*row), expected(*row))
