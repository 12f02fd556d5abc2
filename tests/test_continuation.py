"""A run that goes on: what its configuration says counts and is told, another run is refused by name, and a
trainer that fits again goes on where it stood."""

import json
import logging
import shutil

import lightning as L
import pytest
import torch

from datamodules import InstructionData, MixedCorpusData, PreferenceData, PromptData, Source
from modules import CausalLM, PPOModule, RewardModule, SFTModule
from modules.errors import UserError
from modules.optim import AdamW
from tests.checkpoints import QUIET

COMMON = ["--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0"]


class Losses(L.Callback):
    """Writes down the rows and the loss of each micro-batch, and stops after some of them when told to."""

    def __init__(self, stop_after=None):
        self.rows, self.losses, self.rates, self.stop_after = [], [], [], stop_after

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rows.append(batch["rows"].tolist())
        self.losses.append(float(outputs["loss"]) if outputs else float(pl_module.kl_coef))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        if len(self.rows) == self.stop_after:
            self.stop_after = None
            raise KeyboardInterrupt


def a_pretraining(tiny_files, tiny_tokenizer, tiny_config, tiny_stages):
    source = Source(str(tiny_files / "a.train.jsonl"), 1.0)
    data = MixedCorpusData({"a": source}, tiny_tokenizer, sequence_length=32, global_batch_size=8)
    data.micro_batch_size = 4
    return CausalLM(config=dict(tiny_config, attention_dropout=0.1), warmup_steps=2), data


def an_sft(tiny_files, tiny_tokenizer, tiny_config, tiny_stages):
    data = InstructionData(str(tiny_files / "instructions.train.jsonl"), tiny_stages.export("pretrain"))
    data.global_batch_size, data.micro_batch_size = 8, 4
    return SFTModule(tiny_stages.export("pretrain"), warmup_steps=2), data


def a_reward(tiny_files, tiny_tokenizer, tiny_config, tiny_stages):
    data = PreferenceData(str(tiny_files / "preferences.train.jsonl"), tiny_stages.export("sft"))
    data.global_batch_size, data.micro_batch_size = 8, 4
    return RewardModule(tiny_stages.export("sft"), warmup_steps=2), data


def a_ppo(tiny_files, tiny_tokenizer, tiny_config, tiny_stages):
    data = PromptData(str(tiny_files / "prompts.train.jsonl"), tiny_stages.export("sft"))
    data.global_batch_size = 16
    stage = PPOModule(
        tiny_stages.export("sft"), tiny_stages.export("reward"), max_new_tokens=6, epochs=1, minibatches=2,
        kl_target=0.5, kl_horizon=64, actor_lr=1e-3, min_lr_ratio=0.1,
    )  # fmt: skip
    return stage, data


STAGES = {"pretrain": (a_pretraining, 1), "sft": (an_sft, 1), "reward": (a_reward, 1), "ppo": (a_ppo, 2)}


@pytest.fixture
def made(tiny_files, tiny_tokenizer, tiny_config, tiny_stages):
    """A stage, its data, and a trainer of 6 batches' steps."""

    def make(name, steps=6, **options):
        make_stage, updates = STAGES[name]
        L.seed_everything(0, verbose=False)
        stage, data = make_stage(tiny_files, tiny_tokenizer, tiny_config, tiny_stages)
        watch = Losses()
        trainer = L.Trainer(**{**QUIET, "max_steps": steps * updates, "callbacks": [watch], **options})
        return stage, data, trainer, watch

    return make


def state(stage):
    return {name: value.clone() for name, value in stage.network.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("name", STAGES)
def test_an_interrupted_fit_called_again_goes_on_where_it_stood(made, name):
    """The same rows, losses and rates as of a fit that nobody interrupted: in the middle of a step, after one
    of its two micro-batches; at a step's end where dropout draws; for PPO after an iteration."""
    stage, data, trainer, whole = made(name)
    trainer.fit(stage, datamodule=data)
    expected = state(stage)
    stage, data, trainer, watch = made(name)
    stop = watch.stop_after = {"pretrain": 4, "ppo": 2}.get(name, 5)
    whole_steps = stop - stop % 2
    with pytest.raises(SystemExit):  # Lightning's own answer to Ctrl-C
        trainer.fit(stage, datamodule=data)
    del watch.rows[whole_steps:], watch.losses[whole_steps:], watch.rates[whole_steps:]
    trainer.fit(stage, datamodule=data)
    assert watch.rows == whole.rows
    assert watch.losses == whole.losses
    assert watch.rates == whole.rates
    assert_same(state(stage), expected)


def test_a_trainer_that_ended_goes_on_where_its_steps_are_raised(made):
    stage, data, trainer, whole = made("pretrain", log_every_n_steps=1)
    trainer.fit(stage, datamodule=data)
    stage, data, trainer, watch = made("pretrain", steps=6)
    trainer.fit_loop.epoch_loop.max_steps = 4
    trainer.fit(stage, datamodule=data)
    trainer.fit(stage, datamodule=data)  # there is nothing left to do
    trainer.fit_loop.epoch_loop.max_steps = 6
    trainer.fit(stage, datamodule=data)
    assert watch.rows == whole.rows
    assert trainer.global_step == 6


def test_epochs_that_are_added_have_rows_of_their_own(made):
    options = {"max_steps": -1, "limit_train_batches": 4}
    stage, data, trainer, whole = made("sft", max_epochs=3, **options)
    trainer.fit(stage, datamodule=data)
    stage, data, trainer, watch = made("sft", max_epochs=2, **options)
    trainer.fit(stage, datamodule=data)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(stage, datamodule=data)
    assert watch.rows == whole.rows
    assert len({tuple(rows) for rows in watch.rows}) == 12


def test_a_new_trainer_begins_anew_and_one_that_trained_another_network_is_refused(made):
    stage, data, trainer, first = made("sft", steps=3)
    trainer.fit(stage, datamodule=data)
    _, _, another, again = made("sft", steps=3)
    another.fit(stage, datamodule=data)
    assert again.rows == first.rows
    other, _, _, _ = made("sft", steps=3)
    trainer.fit_loop.epoch_loop.max_steps = 4
    with pytest.raises(UserError, match="trainer: it has trained before, another network"):
        trainer.fit(other, datamodule=data)


@pytest.fixture
def saved(made, tmp_path):
    """A checkpoint of a stage after three batches."""

    def save(name):
        stage, data, trainer, _ = made(name, steps=3)
        trainer.fit(stage, datamodule=data)
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        return str(tmp_path / f"{name}.ckpt")

    return save


@pytest.fixture
def told(caplog):
    """The lines that are told of what has changed."""
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")

    def lines():
        found = [record.getMessage() for record in caplog.records]
        return {line for line in found if line.endswith(" on") or line.startswith("ckpt_path")}

    return lines


def test_rates_and_hyperparameters_of_the_configuration_count_and_are_told(made, saved, told):
    """Peak 0.01 with a warm-up over 4 steps: the step after three of them has 4/5 of it."""
    checkpoint = saved("pretrain")
    stage, data, trainer, watch = made("pretrain", steps=6)
    stage.optimizer = lambda p: AdamW(p, lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.2)
    stage.warmup_steps, stage.decay_share = 4, 0.5
    data.seed = 1
    trainer.fit(stage, datamodule=data, ckpt_path=checkpoint)
    # the rates after each step, of the next one: 5/5, then a line down from 0.01 to a tenth over three steps
    assert watch.rates[:2] == pytest.approx([0.008, 0.01 * (0.1 + 0.9 * 2 / 3)])
    matrices, vectors = trainer.optimizers[0].param_groups
    assert (matrices["betas"], matrices["eps"], matrices["weight_decay"]) == ((0.8, 0.99), 1e-6, 0.2)
    assert (vectors["betas"], vectors["eps"], vectors["weight_decay"]) == ((0.8, 0.99), 1e-6, 0.0)
    assert told() == {
        "learning_rate 0.0003 → 0.01 from step 3 on",
        "betas [0.9, 0.95] → [0.8, 0.99] from step 3 on",
        "eps 1e-08 → 1e-06 from step 3 on",
        "weight_decay 0.1 → 0.2 from step 3 on",
        "warmup_steps 2 → 4 from step 3 on",
        "decay_share None → 0.5 from step 3 on",
        "trainer.max_steps 3 → 6 from step 3 on",
        "data.seed 0 → 1 from step 3 on",
    }


def test_ppo_goes_on_with_the_rates_and_the_kl_coefficient_of_the_configuration(made, saved, told):
    checkpoint = saved("ppo")
    stage, data, trainer, watch = made("ppo", steps=4)
    stage.actor_lr, stage.critic_lr, stage.min_lr_ratio, stage.kl_target = 1e-4, 2e-4, 1.0, None
    stage.kl_coef.fill_(0.3)
    trainer.fit(stage, datamodule=data, ckpt_path=checkpoint)
    groups = trainer.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == [1e-4, 1e-4, 2e-4, 2e-4]
    assert float(stage.kl_coef) == 0.3
    assert told() == {
        "actor_lr 0.001 → 0.0001 from step 6 on",
        "critic_lr 5e-06 → 0.0002 from step 6 on",
        "min_lr_ratio 0.1 → 1 from step 6 on",
        "kl_target 0.5 → None from step 6 on",
        "kl_coef 0.05 → 0.3 from step 6 on",
        "trainer.max_steps 6 → 8 from step 6 on",
    }


def test_a_coefficient_that_has_moved_stays_where_nobody_gives_another(made, saved, told):
    checkpoint = saved("ppo")
    moved = float(torch.load(checkpoint, weights_only=True)["state_dict"]["kl_coef"])
    assert moved != 0.05
    stage, data, trainer, watch = made("ppo", steps=4)
    trainer.fit(stage, datamodule=data, ckpt_path=checkpoint)
    assert told() == {"trainer.max_steps 6 → 8 from step 6 on"}
    assert watch.losses != [moved]  # it moves on
    assert float(stage.kl_coef) == watch.losses[-1] != 0.05


def test_other_rows_are_told_and_other_names_of_the_same_are_not(made, saved, told, tmp_path):
    checkpoint = saved("sft")
    longer = "trainer.max_steps 3 → 4 from step 3 on"
    stage, data, trainer, _ = made("sft", steps=4)
    shutil.copy(data.train, tmp_path / "moved.jsonl")
    data.train = str(tmp_path / "moved.jsonl")
    trainer.fit(stage, datamodule=data, ckpt_path=checkpoint)
    assert told() == {longer}
    stage, data, trainer, _ = made("sft", steps=4)
    rows = (tmp_path / "moved.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "moved.jsonl").write_text("".join(rows[1:]))
    data.train = str(tmp_path / "moved.jsonl")
    trainer.fit(stage, datamodule=data, ckpt_path=checkpoint)
    assert told() == {longer, "data.train has other rows than before: it is read from step 3 on"}


def test_a_checkpoint_without_settings_goes_on_with_those_of_the_configuration(made, saved, told):
    """As of version 0.5.0."""
    checkpoint = saved("sft")
    content = torch.load(checkpoint, weights_only=True)
    del content["settings"]
    torch.save(content, checkpoint)
    stage, data, trainer, _ = made("sft", steps=4)
    stage.optimizer = lambda p: AdamW(p, lr=0.01, weight_decay=0.2)
    stage.min_lr_ratio = 1.0
    trainer.fit(stage, datamodule=data, ckpt_path=checkpoint)
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [0.01, 0.01]
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.2
    (line,) = told()
    assert line.startswith("ckpt_path: the checkpoint is of a version that kept no settings")


def refusal(made, checkpoint, name, change):
    stage, data, trainer, watch = made(name, steps=6)
    change(stage, data)
    with pytest.raises(UserError) as caught:
        trainer.fit(stage, datamodule=data, ckpt_path=checkpoint)
    assert not watch.rows
    return str(caught.value)


def test_another_optimizer_network_or_parent_is_refused_by_name(made, saved, tiny_stages, tmp_path):
    pretraining, sft = saved("pretrain"), saved("sft")

    def another_class(stage, data):
        stage.optimizer = lambda p: torch.optim.SGD(p, lr=0.1)

    def a_wider_network(stage, data):
        stage.config = {**stage.config, "intermediate_size": 80, "rms_norm_eps": 1e-3}

    def another_parent(stage, data):
        stage.pretrained = tiny_stages.export("sft")

    told = refusal(made, pretraining, "pretrain", another_class)
    assert told.startswith("model.optimizer is torch.optim.SGD, but the checkpoint's is torch.optim.AdamW")
    told = refusal(made, pretraining, "pretrain", a_wider_network)
    assert "intermediate_size 64 there and 80 here, rms_norm_eps 1e-06 there and 0.001 here" in told
    told = refusal(made, sft, "sft", another_parent)
    assert told.startswith(f"model.pretrained: {tiny_stages.export('sft')} has other weights than what")

    def no_parent(stage, data):
        stage.pretrained, stage.config = None, json.loads((tmp_path / "moved/config.json").read_text())

    shutil.copytree(tiny_stages.export("pretrain"), tmp_path / "moved")
    told = refusal(made, sft, "sft", no_parent)
    assert f"model.pretrained: the checkpoint's run began from {tiny_stages.export('pretrain')}, this" in told
    stage, data, trainer, _ = made("sft", steps=4)
    stage.pretrained = str(tmp_path / "moved")
    trainer.fit(stage, datamodule=data, ckpt_path=sft)  # the same weights elsewhere
    assert trainer.global_step == 4


class StopInValidation(L.Callback):
    """Interrupts the second validation after its first batch."""

    starts = 0

    def on_validation_start(self, trainer, pl_module):
        self.starts += 1

    def on_validation_batch_end(self, trainer, pl_module, *args):
        if self.starts == 2:
            self.starts += 1
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["sft", "ppo"])
def test_a_fit_interrupted_while_it_validates_trains_each_step_once(made, tiny_files, name):
    kind = {"sft": "instructions", "ppo": "prompts"}[name]
    options = {"val_check_interval": 4 if name == "sft" else 2, "check_val_every_n_epoch": None}
    options |= {"num_sanity_val_steps": 0, "limit_val_batches": 2}
    stage, data, trainer, whole = made(name, **options)
    data.val = str(tiny_files / f"{kind}.val.jsonl")
    trainer.fit(stage, datamodule=data)
    expected = state(stage)
    stage, data, trainer, watch = made(name, **options)
    data.val = str(tiny_files / f"{kind}.val.jsonl")
    trainer.callbacks.append(StopInValidation())
    with pytest.raises(SystemExit):
        trainer.fit(stage, datamodule=data)
    assert len(watch.rows) == (8 if name == "sft" else 4)
    trainer.fit(stage, datamodule=data)
    assert watch.rows == whole.rows
    assert watch.losses == whole.losses
    assert_same(state(stage), expected)


def test_settings_are_plain_whatever_a_run_was_told_by():
    import enum
    from types import SimpleNamespace

    import numpy as np

    from modules.settings import flat

    class Kind(enum.StrEnum):
        SLOW = "slow"

    said = {"a": np.float32(0.5), "b": {"c": (1, 2)}, "d": {"y", "x"}, "e": Kind.SLOW, "f": [{"g": None}]}
    said |= {"h": SimpleNamespace(size=3, _hidden=4), "i": print, "j": torch.tensor([1.5]), "k": True}
    found = dict(flat(said, "data"))
    assert found == {
        "data.a": 0.5, "data.b.c": [1, 2], "data.d": ["x", "y"], "data.e": "slow", "data.f.0.g": None,
        "data.h": "SimpleNamespace", "data.h.size": 3, "data.i": "print", "data.j": [1.5], "data.k": True,
    }  # fmt: skip
    assert {type(value) for value in found.values()} <= {float, list, str, int, bool, type(None)}
