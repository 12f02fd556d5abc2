"""The parts of a run have one vocabulary, compared token by token: checkpoints with another one, with too few
embeddings or positions, are refused by name before anything is trained."""

import json
import shutil

import lightning as L
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from datamodules import InstructionData, PreferenceData, PromptData
from experiments.cli.program import main
from modules import PPOModule, RewardModule, SFTModule
from modules.vocabulary import difference
from tests.checkpoints import QUIET, TYPES, byte_tokenizer, saved_model
from tests.conftest import CONFIGS

SPECIAL = ["<|endoftext|>", "<|other|>", "<|pad|>"]
ENDS = {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
PARTS = ["actor", "reference", "reward"]


@pytest.fixture
def models(tmp_path):
    """An actor, a reference, a reward model and data of one vocabulary, each with its own files."""
    tokenizer = byte_tokenizer(tmp_path / "data", SPECIAL, **ENDS)
    for name in PARTS:
        save_part(tmp_path / name, name, len(tokenizer))
        byte_tokenizer(tmp_path / name, SPECIAL, **ENDS)
    return tmp_path


def save_part(folder, name, vocabulary, kind="llama", **more):
    if name == "reward":
        more |= {"auto_class": AutoModelForSequenceClassification, "num_labels": 1}
    return saved_model(folder, kind, vocabulary, **more)


def iterate(models, rows, **more):
    """A PPO run's first steps."""
    file = rows(models / "prompts.jsonl", [{"instruction": "Write film good"}] * 8)
    data = PromptData(file, str(models / "data"), global_batch_size=8)
    paths = {name: str(models / name) for name in PARTS}
    stage = PPOModule(**{"max_new_tokens": 4, "epochs": 1, "minibatches": 2, **paths, **more})
    L.Trainer(max_steps=2, **QUIET).fit(stage, datamodule=data)
    return stage


def refusal(run, *arguments, **more):
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as refused:  # one line
        run(*arguments, **more)
    return str(refused.value)


def swap(folder, left, right):
    """The tokenizer with the ids of two tokens exchanged: as many tokens as before."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    ids = content["model"]["vocab"]
    ids[left], ids[right] = ids[right], ids[left]
    file.write_text(json.dumps(content))


def test_one_vocabulary_in_four_directories_is_no_problem(models, rows):
    stage = iterate(models, rows)
    assert stage.global_step == 2


@pytest.mark.parametrize("part", PARTS)
def test_as_many_tokens_with_other_ids_are_refused_by_the_first_of_them(models, rows, part):
    swap(models / part, "Ġf", "Ġg")
    ids = AutoTokenizer.from_pretrained(models / "data").get_vocab()
    lower, higher = sorted(("Ġf", "Ġg"), key=ids.get)
    assert refusal(iterate, models, rows) == (
        f"model.{part}: {models / part} has another vocabulary than data.tokenizer {models / 'data'}: "
        f"token {lower!r} is {ids[higher]} there and {ids[lower]} here: give networks and data of one "
        "tokenizer"
    )


@pytest.mark.parametrize("part", PARTS)
def test_another_eos_is_refused_although_all_tokens_agree(models, rows, part):
    byte_tokenizer(models / part, SPECIAL, **{**ENDS, "eos_token": "<|other|>"})
    assert "eos_token is '<|other|>' there and '<|endoftext|>' here" in refusal(iterate, models, rows)


def test_a_token_more_or_less_is_refused(models, rows):
    byte_tokenizer(models / "reward", [*SPECIAL, "<|tool|>"], **ENDS)
    assert "token '<|tool|>' is 304 there and missing here" in refusal(iterate, models, rows)
    byte_tokenizer(models / "data", [*SPECIAL, "<|tool|>"], **ENDS)
    byte_tokenizer(models / "actor", [*SPECIAL, "<|tool|>"], **ENDS)
    told = refusal(iterate, models, rows)
    assert told.startswith("model.reference: ")
    assert "token '<|tool|>' is missing there and 304 here" in told


def test_a_directory_without_a_tokenizer_is_taken_by_its_size(models, rows):
    for part in PARTS:
        for file in (models / part).glob("*token*"):
            file.unlink()
    assert iterate(models, rows).global_step == 2


def test_a_tokenizer_that_cannot_be_read_is_one_line(models, rows):
    (models / "reward" / "tokenizer.json").write_text('{"version": ')
    assert "its tokenizer cannot be read" in refusal(iterate, models, rows)


def test_a_pad_token_of_ones_own_is_no_difference(tmp_path):
    """A reward model's export may have one that its data never had."""
    plain = byte_tokenizer(tmp_path / "a", SPECIAL[:2], eos_token="<|endoftext|>")
    padded = byte_tokenizer(tmp_path / "b", SPECIAL, **ENDS)
    assert difference(padded, plain) is None
    assert difference(plain, padded) is None
    byte_tokenizer(tmp_path / "c", ["<|endoftext|>", "<|pad|>", "<|other|>"], **ENDS)
    moved = AutoTokenizer.from_pretrained(tmp_path / "c")
    assert difference(moved, plain) == "token '<|other|>' is 303 there and 302 here"


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_the_other_stages_compare_their_parent(models, rows, stage):
    swap(models / "actor", "Ġf", "Ġg")
    start, tokenizer = str(models / "actor"), str(models / "data")
    if stage == "sft":
        file = rows(models / "x.jsonl", [{"instruction": "Write", "output": "good"}] * 8)
        model, data = SFTModule(start, warmup_steps=0), InstructionData(file, tokenizer)
    else:
        ranked = {"instruction": "Write", "replies": ["good", "bad"], "ratings": [1.0, 0.0]}
        file = rows(models / "x.jsonl", [ranked] * 8)
        model, data = RewardModule(start, warmup_steps=0), PreferenceData(file, tokenizer=tokenizer)
    trainer = L.Trainer(max_steps=1, **QUIET)
    assert "has another vocabulary than data.tokenizer" in refusal(trainer.fit, model, datamodule=data)


def test_the_command_line_tells_it_before_any_row_is_read(models, rows, capsys):
    """No row of this file could be read."""
    swap(models / "reward", "Ġf", "Ġg")
    (models / "broken.jsonl").write_text("{]")
    line = ["fit", "--config", str(CONFIGS / "ppo.yaml"), "--run", str(models / "run")]
    options = {"model.init_args.actor": models / "actor", "model.init_args.reward": models / "reward"}
    options |= {"data.init_args.tokenizer": models / "data", "data.init_args.train": models / "broken.jsonl"}
    options |= {"data.init_args.val": "null", "trainer.max_steps": 16}
    assert main([*line, *(f"--{name}={value}" for name, value in options.items())]) == 2
    (told,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("trivium: ")]
    assert "model.reward" in told
    assert "token 'Ġ" in told


def test_a_run_goes_on_and_is_exported_with_the_vocabulary_it_began_with(models, rows, capsys):
    """The directory is the same and so is the number of tokens; what the ids mean has changed."""
    (models / "actor" / "tokenizer.json").unlink()
    (models / "actor" / "tokenizer_config.json").unlink()
    file = rows(models / "x.jsonl", [{"instruction": "Write", "output": "good"}] * 8)

    def fit(steps, **more):
        data = InstructionData(file, str(models / "data"), global_batch_size=4, micro_batch_size=4)
        trainer = L.Trainer(max_steps=steps, **QUIET)
        trainer.fit(SFTModule(str(models / "actor"), warmup_steps=0), datamodule=data, **more)
        return trainer

    checkpoint = str(models / "run.ckpt")
    fit(1).save_checkpoint(checkpoint)
    assert main(["export", checkpoint, str(models / "out")]) == 0
    assert fit(2, ckpt_path=checkpoint).global_step == 2
    swap(models / "data", "Ġf", "Ġg")
    assert "has another vocabulary than the run of ckpt_path had" in refusal(fit, 3, ckpt_path=checkpoint)
    capsys.readouterr()
    assert main(["export", checkpoint, str(models / "other")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has another vocabulary than the run had" in line
    assert main(["export", checkpoint, str(models / "other"), "--tokenizer", str(models / "reward")]) == 0


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("part", PARTS)
def test_fewer_embeddings_than_the_data_has_ids_are_refused_for_every_network(models, rows, part, kind):
    shutil.rmtree(models / part)
    save_part(models / part, part, 300, kind)
    assert refusal(iterate, models, rows) == (
        f"model.{part}: {models / part} has 300 embeddings, but data.tokenizer {models / 'data'} has ids "
        "up to 303: give the tokenizer that belongs to it"
    )


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("part", PARTS)
def test_fewer_positions_than_prompt_and_response_are_refused_for_every_network(models, rows, part, kind):
    shutil.rmtree(models / part)
    save_part(models / part, part, 320, kind, max_position_embeddings=64)
    told = refusal(iterate, models, rows, max_new_tokens=60)
    assert told.startswith(f"model.{part}: {models / part} has 64 positions, but the longest row has ")
    assert "with the response" in told


def test_ids_with_holes_are_counted_by_the_largest(tmp_path, rows):
    """An id lies beyond the number of tokens: the number of tokens would say that the embeddings suffice."""
    folder = tmp_path / "data"
    size = len(byte_tokenizer(folder, SPECIAL, **ENDS))
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["Ġf"] = size + 5
    file.write_text(json.dumps(content))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    file = rows(tmp_path / "x.jsonl", [{"instruction": "Write", "output": "good"}] * 8)
    data = InstructionData(file, str(folder), global_batch_size=4, micro_batch_size=4)
    assert data.vocabulary == max(tokenizer.get_vocab().values()) + 1
    assert data.vocabulary > len(tokenizer)
    saved_model(tmp_path / "model", "llama", size)
    stage = SFTModule(str(tmp_path / "model"), warmup_steps=0)
    run = L.Trainer(max_steps=1, **QUIET).fit
    assert f"has {size} embeddings" in refusal(run, stage, datamodule=data)
