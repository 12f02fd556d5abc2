"""What a configuration says counts when a run goes on, under every strategy as on one process."""

import json
import shutil

import pytest

from experiments.cli.program import main
from tests.ranks import assert_weights, curve, run_ranks, weights, zero

COMMON = [
    "--trainer.log_every_n_steps=1",
    "--trainer.limit_val_batches=0",
    "--trainer.enable_progress_bar=false",
]
SFT = ["--data.init_args.global_batch_size=8", "--data.init_args.micro_batch_size=4"]
PPO = [
    "--data.init_args.global_batch_size=8",
    "--model.init_args.epochs=1",
    "--model.init_args.minibatches=2",
]
OTHER = {"class_path": "modules.optim.AdamW", "init_args": {"lr": 0.01, "betas": [0.8, 0.9], "eps": 1e-6}}
CHANGED = {
    "sft": [f"--model.init_args.optimizer={json.dumps(OTHER)}", "--model.init_args.warmup_steps=3"],
    "ppo": [
        *("--model.init_args.actor_lr=1e-3", "--model.init_args.critic_lr=2e-3"),
        *("--model.init_args.kl_coef=0.2", "--model.init_args.min_lr_ratio=0.5"),
    ],
}
SHARDED = ("fsdp", "zero2")  # PPO's groups and coefficient, where the optimizer is another's
TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2"]
STRATEGIES = {
    "ddp": [*TWO, "--trainer.strategy=strategies.ddp"],
    "fsdp": [*TWO, "--trainer.strategy=strategies.fsdp"],
    "tensor_parallel": [*TWO, "--trainer.strategy=strategies.tensor_parallel"],
    "zero2": ["--trainer.accelerator=cpu", *zero(2)],
    "zero3": ["--trainer.accelerator=cpu", *zero(3)],
}


@pytest.mark.slow
def test_changed_rates_and_hyperparameters_count_under_every_strategy(tiny_stages, tmp_path):
    """From one process' checkpoint of step 2 to step 4, each with the same changes: without them the weights
    would differ by about the rate, 1e-2."""
    lines = []
    for stage, options, updates in (("sft", SFT, 1), ("ppo", PPO, 2)):
        begun = tiny_stages.out / f"{stage}_begun"
        line = [*tiny_stages.stage(stage, run=begun.name), *COMMON, *options]
        assert main([*line, f"--trainer.max_steps={2 * updates}"]) == 0
        more = [*COMMON, *options, *CHANGED[stage], "--ckpt_path=last", f"--trainer.max_steps={4 * updates}"]
        for name, strategy in {"alone": [], **STRATEGIES}.items():
            if stage == "ppo" and name not in ("alone", *SHARDED):
                continue
            run = tiny_stages.out / f"{stage}_changed_{name}"
            shutil.copytree(begun / "checkpoints", run / "checkpoints")
            line = [*tiny_stages.stage(stage, run=run.name), *more, *strategy]
            if strategy:
                lines.append(line)
            else:
                assert main(line) == 0
    run_ranks(tmp_path, lines)
    alone = tiny_stages.out / "sft_changed_alone"
    # warm-up over 3 steps: 3/4 of the peak at step 2, all of it at step 3, each logged after its step
    assert list(curve(alone, "train/learning_rate").values()) == pytest.approx([0.01, 0.001])
    for name in STRATEGIES:
        run = tiny_stages.out / f"sft_changed_{name}"
        assert curve(run, "train/learning_rate") == curve(alone, "train/learning_rate"), name
        assert_weights(weights(run), weights(alone), 2e-5)  # sums in another order, by AdamW's first steps
    for name in SHARDED:
        run, other = tiny_stages.out / f"ppo_changed_{name}", tiny_stages.out / "ppo_changed_alone"
        assert list(curve(run, "ppo/kl_coef").values()) == [pytest.approx(0.2)] * 2, name
        assert_weights(weights(run), weights(other), 2e-5)
        assert_weights(weights(run, "export/critic"), weights(other, "export/critic"), 2e-5)


def test_another_network_is_refused_in_a_line(tiny_stages, capsys, tiny_config):
    run = tiny_stages.out / "wider"
    shutil.copytree(tiny_stages.out / "pretrain" / "checkpoints", run / "checkpoints")
    wider = json.dumps({**tiny_config, "intermediate_size": 80})
    line = [*tiny_stages.stage("pretrain", run=run.name), *COMMON, "--trainer.max_steps=61"]
    capsys.readouterr()
    assert main([*line, "--ckpt_path=last", f"--model.init_args.config={wider}"]) == 2
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trivium: ")]
    assert "intermediate_size 64 there and 80 here" in told
