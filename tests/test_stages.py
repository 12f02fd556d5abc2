"""The four stages on a tiny model, through the command line: each does what it is for."""

import csv
import json
import math
from pathlib import Path

import pytest

from experiments.cli.program import main

METRICS = {
    "pretrain": [
        "train/loss",
        "train/grad_norm",
        "train/learning_rate",
        "train/tokens_per_second",
        "val/loss",
    ]
    + ["val/loss/a", "val/loss/b", "val/perplexity/a", "data/share/a", "data/epochs/b"],
    "sft": ["train/loss", "val/loss", "val/loss/x/en", "val/perplexity/y/en"],
    "reward": ["train/loss", "val/loss", "reward/accuracy", "reward/margin", "reward/calibration_error"],
    "ppo": ["ppo/score", "ppo/kl", "ppo/kl_k3", "ppo/kl_per_sequence", "ppo/entropy", "ppo/clip_fraction"]
    + ["ppo/ratio_min", "ppo/ratio_max", "ppo/explained_variance", "ppo/eos_share", "ppo/response_length"]
    + [
        "ppo/kl_coef",
        "ppo/approx_kl",
        "ppo/grad_norm_actor",
        "ppo/grad_norm_critic",
        "ppo/length_correlation",
    ],
}


def curve(run: Path, metric: str) -> list[float]:
    with next(run.glob("metrics/version_0/metrics.csv")).open() as lines:
        return [float(row[metric]) for row in csv.DictReader(lines) if row[metric]]


@pytest.mark.parametrize("stage", list(METRICS))
def test_the_designs_metrics_are_logged_and_finite(tiny_stages, stage):
    for metric in METRICS[stage]:
        values = curve(tiny_stages.out / stage, metric)
        assert values, metric
        assert all(math.isfinite(value) for value in values), metric


def test_tokens_per_second_are_logged_with_the_rest_over_all_epochs(tiny_stages, tmp_path):
    """Three steps an epoch, every second of which is logged: the second, and of the next epoch the first and
    the third."""
    line = [*tiny_stages.stage("sft"), "--run", str(tmp_path), "--trainer.log_every_n_steps=2"]
    assert main([*line, "--trainer.max_epochs=2", "--trainer.max_steps=-1"]) == 0
    assert len(curve(tmp_path, "train/tokens_per_second")) == len(curve(tmp_path, "train/loss")) == 3


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward"])
def test_the_loss_falls(tiny_stages, stage):
    losses = curve(tiny_stages.out / stage, "train/loss")
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


def test_losses_begin_where_theory_says(tiny_stages):
    """A new model guesses among V tokens; a new reward head of small scores costs about ln 2."""
    vocabulary = json.loads(Path(tiny_stages.export("pretrain"), "config.json").read_text())["vocab_size"]
    assert curve(tiny_stages.out / "pretrain", "train/loss")[0] == pytest.approx(
        math.log(vocabulary), abs=0.1
    )
    # the head's scores have a standard deviation near 1, so E[softplus] lies a little above ln 2
    assert curve(tiny_stages.out / "reward", "train/loss")[0] == pytest.approx(math.log(2), abs=0.35)


def test_ppo_begins_at_the_reference_and_moves_away(tiny_stages):
    kl = curve(tiny_stages.out / "ppo", "ppo/kl_per_sequence")
    assert abs(kl[0]) < 1e-3
    assert abs(kl[-1]) > 1e-3


@pytest.mark.parametrize("stage", list(METRICS))
def test_a_runs_folder_holds_what_it_should(tiny_stages, stage):
    run = tiny_stages.out / stage
    for name in ("config.yaml", "receipt.json", "checkpoints/last.ckpt", "export/config.json"):
        assert (run / name).is_file(), name
    facts = json.loads((run / "export" / "provenance.json").read_text())
    assert facts["stage"] == stage
    assert facts["tokens"] > 0
    assert {"torch", "lightning", "transformers"} <= set(facts["versions"])
    assert facts["receipt"][0]["kept"] > 0


@pytest.mark.parametrize(
    ("stage", "keys"),
    [
        ("pretrain", {"row", "loss", "tokens"}),
        ("sft", {"row", "reply", "ended"}),
        ("reward", {"row", "scores"}),
        ("ppo", {"row", "prompt", "response", "score", "kl", "tokens", "ended"}),
    ],
)
def test_predict_writes_one_line_a_row(tiny_stages, stage, keys):
    run = tiny_stages.out / f"predict_{stage}"
    start = {
        "pretrain": [
            "--model.init_args.config=null",
            f"--model.init_args.pretrained={tiny_stages.export(stage)}",
        ],
        "sft": [
            f"--model.init_args.pretrained={tiny_stages.export(stage)}",
            "--model.init_args.max_new_tokens=8",
        ],
        "reward": [f"--model.init_args.pretrained={tiny_stages.export(stage)}"],
        "ppo": [
            f"--model.init_args.actor={tiny_stages.export(stage)}",
            f"--model.init_args.reference={tiny_stages.export('sft')}",
        ],
    }[stage]
    assert main([*tiny_stages.stage(stage, "predict", run.name), *start]) == 0
    found = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [row["row"] for row in found] == sorted(row["row"] for row in found)
    assert len(found) == {"pretrain": 48}.get(stage, 12)
    assert set(found[0]) == keys


def test_the_resolved_config_runs_again(tiny_stages):
    config = str(tiny_stages.out / "sft" / "config.yaml")
    run = str(tiny_stages.out / "again")
    assert main(["fit", "--config", config, "--run", run, "--trainer.max_steps", "2"]) == 0
    assert (Path(run) / "export" / "model.safetensors").is_file()


@pytest.mark.parametrize("stage", list(METRICS))
def test_every_yaml_runs_fast_dev_run(tiny_stages, stage, tmp_path):
    assert (
        main([*tiny_stages.stage(stage), "--run", str(tmp_path / "run"), "--trainer.fast_dev_run", "true"])
        == 0
    )
    assert not (tmp_path / "run" / "export").exists()


def test_chat_answers_one_prompt(tiny_stages, capsys):
    directory = tiny_stages.export("sft")
    arguments = ["--prompt", "Write.", "--prefix", "the film", "--max-new-tokens", "5"]
    assert main(["chat", directory, *arguments]) == 0
    assert capsys.readouterr().out.startswith("the film")


@pytest.mark.slow
def test_wandb_keeps_an_offline_run_in_the_folder(tiny_stages, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    arguments = [
        "--run",
        str(tmp_path / "run"),
        "--trainer.max_steps",
        "2",
        "--trainer.limit_val_batches",
        "0",
    ]
    assert main([*tiny_stages.stage("sft"), *arguments]) == 0
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["predcit"]) == 2
    assert "did you mean `predict`?" in capsys.readouterr().err
