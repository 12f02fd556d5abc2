"""A run that is killed goes on as if it had not been: the same rows, the same losses, the same weights, bit
for bit on CPU."""

import itertools
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback, model_checkpoint
from safetensors.torch import load_file

from experiments.cli.program import main
from tests.ranks import curve

COMMON = ["--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0"]
# A schedule that decays, so that a learning rate restarted from its warm-up would show.
SFT = ["--trainer.max_steps=6", "--data.init_args.global_batch_size=8", "--data.init_args.micro_batch_size=2"]
SFT += ["--model.init_args.warmup_steps=2"]
# Two epochs × four minibatches = 8 steps an iteration, three iterations. An adapted KL coefficient, and
# learning rates at which it moves, so that a controller forgotten at the resume would show.
PPO = ["--trainer.max_steps=24", "--data.init_args.global_batch_size=16", "--model.init_args.kl_target=0.5"]
PPO += ["--model.init_args.kl_horizon=64", "--model.init_args.min_lr_ratio=0.1"]


class Killed(BaseException):
    """Stands for a power cut: no error that anything may catch and tidy up after."""


class Watch(Callback):
    """Writes down the rows of every micro-batch and, when told to, kills the run after that many of them."""

    rows: list[list[int]] = []
    kill_after: int | None = None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        Watch.rows.append(batch["rows"].tolist())
        if len(Watch.rows) == Watch.kill_after:
            raise Killed


@pytest.fixture
def clock(monkeypatch):
    """A clock for time-based checkpoints: every look at it is a minute later."""
    minute = itertools.count(1)
    monkeypatch.setattr(model_checkpoint, "time", SimpleNamespace(monotonic=lambda: 60.0 * next(minute)))


@pytest.fixture
def train(tiny_stages, clock):
    """Runs a stage in a folder, watched; gives the rows it saw, in micro-batches."""

    def run(stage, folder, *arguments, kill_after=None):
        Watch.rows, Watch.kill_after = [], kill_after
        line = [*tiny_stages.stage(stage, run=folder), *COMMON, *arguments]
        line += [f"--trainer.callbacks+={__name__}.Watch"]
        if kill_after is None:
            assert main(line) == 0
        else:
            with pytest.raises(Killed):
                main(line)
        return Watch.rows

    return run


def assert_same_weights(run, other):
    for file in ("model.safetensors", "critic/model.safetensors"):
        if (other / "export" / file).exists():
            found, expected = load_file(run / "export" / file), load_file(other / "export" / file)
            assert found.keys() == expected.keys()
            for name, value in found.items():
                assert torch.equal(value, expected[name]), name


def checkpoint(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("kill_after", [12, 14], ids=["at a step's end", "half way through a step"])
def test_a_killed_sft_run_goes_on_bit_for_bit(tiny_stages, train, kill_after):
    """A checkpoint after each step (every minute on this clock); four micro-batches a step."""
    whole, parts = tiny_stages.out / "sft_whole", tiny_stages.out / f"sft_killed_{kill_after}"
    every_step = "--checkpoint_minutes=1"
    rows = train("sft", whole.name, *SFT, every_step, "--overwrite=true")
    assert len(rows) == 6 * 4
    assert train("sft", parts.name, *SFT, every_step, kill_after=kill_after) == rows[:kill_after]
    done = checkpoint(parts)["global_step"]
    # callbacks run in their order: the kill may come before the checkpoint of its own step
    assert done in (2, 3)
    assert train("sft", parts.name, *SFT, every_step, "--ckpt_path=last") == rows[done * 4 :]
    assert curve(parts, "train/learning_rate") == curve(whole, "train/learning_rate")
    assert curve(parts, "train/loss") == curve(whole, "train/loss")
    assert_same_weights(parts, whole)


def test_a_killed_reward_run_goes_on_bit_for_bit(tiny_stages, train):
    """Two micro-batches of 4 prompts a step; killed half way through the fourth."""
    arguments = ["--trainer.max_steps=6", "--data.init_args.global_batch_size=8", "--checkpoint_minutes=1"]
    whole, parts = tiny_stages.out / "reward_whole", tiny_stages.out / "reward_killed"
    rows = train("reward", whole.name, *arguments)
    assert train("reward", parts.name, *arguments, kill_after=7) == rows[:7]
    done = checkpoint(parts)["global_step"]
    assert done in (2, 3)
    assert train("reward", parts.name, *arguments, "--ckpt_path=last") == rows[done * 2 :]
    assert curve(parts, "train/loss") == curve(whole, "train/loss")
    assert_same_weights(parts, whole)
    shutil.rmtree(parts / "export")  # as if it had been killed after its last step
    assert train("reward", parts.name, *arguments, "--ckpt_path=last") == []
    assert_same_weights(parts, whole)
    offsets = [json.loads((run / "export/provenance.json").read_text())["offset"] for run in (parts, whole)]
    assert offsets[0] == offsets[1] != 0


def test_a_killed_ppo_run_goes_on_bit_for_bit(tiny_stages, train):
    """Iterations, KL controller, optimizer, learning rates and the noise of the sampling."""
    whole, parts = tiny_stages.out / "ppo_whole", tiny_stages.out / "ppo_killed"
    every_iteration = "--checkpoint_minutes=1"
    rows = train("ppo", whole.name, *PPO, every_iteration)
    assert len(rows) == 3
    assert train("ppo", parts.name, *PPO, every_iteration, kill_after=2) == rows[:2]
    assert (parts / "checkpoints" / "last.ckpt").is_file(), (
        "no checkpoint before the end: nothing to go on from"
    )
    done = checkpoint(parts)["global_step"] // 8
    assert done in (1, 2)
    assert train("ppo", parts.name, *PPO, every_iteration, "--ckpt_path=last") == rows[done:]
    for metric in (
        "ppo/score",
        "ppo/kl_per_sequence",
        "ppo/kl_coef",
        "ppo/policy_loss",
        "ppo/response_length",
    ):
        assert curve(parts, metric) == curve(whole, metric), metric
    coefficients = list(curve(whole, "ppo/kl_coef").values())
    assert len(set(coefficients)) == 3  # the controller did move
    assert_same_weights(parts, whole)


def test_a_run_with_dropout_and_workers_goes_on_bit_for_bit(tiny_stages, train, tmp_path):
    """A pretrained GPT-2 with dropout draws random masks at every step; two workers read ahead."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_stages.tokenizer)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **sizes)).save_pretrained(tmp_path)
    arguments = ["--trainer.max_steps=6", "--checkpoint_minutes=1", "--data.init_args.num_workers=2"]
    arguments += ["--model.init_args.config=null", f"--model.init_args.pretrained={tmp_path}"]
    arguments += ["--data.init_args.micro_batch_size=4"]
    whole, parts = tiny_stages.out / "dropout_whole", tiny_stages.out / "dropout_killed"
    rows = train("pretrain", whole.name, *arguments)
    train("pretrain", parts.name, *arguments, kill_after=7)
    done = checkpoint(parts)["global_step"]
    assert 0 < done < 6
    assert train("pretrain", parts.name, *arguments, "--ckpt_path=last") == rows[done * 2 :]
    assert curve(parts, "train/loss") == curve(whole, "train/loss")
    assert_same_weights(parts, whole)
    again = train("pretrain", "dropout_again", *arguments, "--seed_everything=1")
    assert again == rows
    other = curve(tiny_stages.out / "dropout_again", "train/loss")
    assert other != curve(whole, "train/loss")  # the masks did matter


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_the_last_checkpoint_of_a_finished_run_is_its_last_step(tiny_stages, train, stage):
    """A checkpoint every four looks at the clock, none of them the last step: the end is saved all the
    same."""
    run = tiny_stages.out / f"{stage}_ended"
    train(stage, run.name, *{"sft": SFT, "ppo": PPO}[stage], "--checkpoint_minutes=4")
    assert checkpoint(run)["global_step"] == {"sft": 6, "ppo": 24}[stage]


def test_going_on_from_a_saved_config_never_deletes_what_it_goes_on_from(tiny_stages, train):
    """A run begun with `--overwrite true` has it in its config; resuming from that config must go on."""
    run = tiny_stages.out / "begun_again"
    rows = train("sft", run.name, *SFT, "--checkpoint_minutes=1", "--overwrite=true", kill_after=14)
    done = checkpoint(run)["global_step"]
    assert done > 0
    Watch.rows, Watch.kill_after = [], None
    assert main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path=last"]) == 0
    assert len(Watch.rows) == (6 - done) * 4
    assert Watch.rows[: len(rows) - done * 4] == rows[done * 4 :]


def test_resuming_where_nothing_was_saved_is_refused_instead_of_starting_over(tiny_stages, capsys):
    line = tiny_stages.stage("sft", run="never_begun")
    assert main([*line, "--ckpt_path=last", "--trainer.max_steps=1"]) == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trivium: ")]
    assert "never_begun" in message
    assert not (tiny_stages.out / "never_begun" / "export").exists()
