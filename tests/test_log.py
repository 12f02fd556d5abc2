"""What a run tells: lines that a person reads, metrics of short runs too, a summary; and what W&B keeps."""

import json
import logging
import re

import pytest
import yaml

from experiments.cli.program import main
from tests.checkpoints import TYPES, byte_tokenizer
from tests.ranks import curve, fork_rank
from tests.wandb_files import kept

NOISE = re.compile(
    "Warning|WARNING|Tip|litlogger|eval mode|FLOPs|TPU|ranks is zero|logging interval|v_num|accelerator"
    "|LOAD REPORT|MISSING|unexpected"
)
SHORT = ["--trainer.log_every_n_steps=50", "--trainer.max_steps=3"]


@pytest.fixture(scope="module")
def told(tiny_stages, tmp_path_factory):
    """Stage → what a short run of each prints, as at a terminal of its own; SFT without validation."""
    folder = tmp_path_factory.mktemp("log")
    lines = {
        "pretrain": SHORT,
        "sft": [*SHORT, "--data.init_args.val=null"],
        "reward": SHORT,
        "ppo": [
            *SHORT,
            "--trainer.max_steps=8",
            "--model.init_args.epochs=1",
            "--model.init_args.minibatches=2",
        ],
    }
    found = {}
    for name, options in lines.items():
        # no `torchrun` in the environment: a run of one process
        run = tiny_stages.stage(name, run=f"{name}_log")
        process = fork_rank({"OMP_NUM_THREADS": "1"}, [[*run, *options]], folder / "out", folder / "err")
        process.join()
        found[name] = (folder / "out").read_text() + (folder / "err").read_text()
        assert process.exitcode == 0, found[name][-3000:]
    return found


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo"])
def test_a_log_holds_nothing_that_is_no_news(told, stage):
    assert NOISE.findall(told[stage]) == []


@pytest.fixture
def warned():
    """What transformers warns of from now on, also of what it has warned of in this process already."""
    logging.Logger.warning_once.cache_clear()  # type: ignore[attr-defined]
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    yield lines
    logging.getLogger("transformers").removeHandler(handler)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_special_tokens_that_come_last_are_told_as_no_fault_of_the_network(
    stage_lines, tmp_path, warned, kind
):
    """The copies by which a network is tried have fewer tokens, and a GPT-2 has its eos at 50256."""
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = byte_tokenizer(tmp_path / "bytes", special.values(), **special)
    assert tokenizer.eos_token_id == len(tokenizer) - 1 > 256
    network = json.dumps({"model_type": kind, **TYPES[kind]})
    line = [*stage_lines(tmp_path).stage("pretrain"), f"--model.init_args.config={network}"]
    assert main([*line, f"--data.init_args.tokenizer={tmp_path / 'bytes'}", *SHORT]) == 0
    assert warned == []
    config = json.loads((tmp_path / "pretrain/export/config.json").read_text())
    assert config["eos_token_id"] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("stage", "metric"), [("pretrain", "train/loss"), ("sft", "train/loss"), ("reward", "train/loss")]
)
def test_a_run_shorter_than_the_log_interval_is_logged(told, tiny_stages, stage, metric):
    assert list(curve(tiny_stages.out / f"{stage}_log", metric)) == [2]


def test_ppo_logs_every_iteration(told, tiny_stages):
    assert list(curve(tiny_stages.out / "ppo_log", "ppo/score")) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("stage", "module", "goal", "then"),
    [
        ("pretrain", "CausalLM: 3", "val/loss: ", "trivium fit --config sft "),
        ("sft", "SFTModule: 3", None, "trivium chat "),
        ("reward", "RewardModule: 3", "reward/accuracy: ", "trivium fit --config ppo "),
        ("ppo", "PPOModule: 8", "val/score: ", "trivium chat "),
    ],
)
def test_a_run_ends_with_what_was_trained_reached_and_comes_next(
    told, tiny_stages, stage, module, goal, then
):
    text = told[stage][told[stage].index(f"{module} optimizer steps in ") :]
    export = tiny_stages.out / f"{stage}_log" / "export"
    assert f"\nexport: {export}\n" in text
    assert f"\nnext: {then}" in text
    assert str(export) in text[text.index("\nnext: ") :]
    assert (f"\n{goal}" in text) if goal else ("\nval/" not in text)


def test_the_goal_is_told_at_the_end_and_at_its_best():
    from experiments.callbacks.summary import Summary
    from modules import RewardModule, SFTModule

    summary = Summary("runs/x")
    summary.measured = [(10, 0.5), (20, 0.25), (30, 0.75)]
    assert summary.reached(SFTModule) == "val/loss: 0.75, 0.25 at its best, after step 20"
    assert summary.reached(RewardModule) == "reward/accuracy: 0.75"


@pytest.fixture(scope="module")
def recorded(tiny_stages, tmp_path_factory):
    """The folders of two runs that W&B has recorded: SFT's with its artifacts, and PPO's."""
    folder = tmp_path_factory.mktemp("recorded")
    sft = [*tiny_stages.stage("sft", run="recorded"), *SHORT, "--wandb_artifacts=true"]
    ppo = [*tiny_stages.stage("ppo", run="recorded_ppo"), *SHORT, "--trainer.num_sanity_val_steps=1"]
    lines = [sft, [*ppo, "--trainer.max_steps=16", "--trainer.val_check_interval=1"]]
    environment = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    process = fork_rank(environment, lines, folder / "out", folder / "err")
    process.join()
    assert process.exitcode == 0, (folder / "err").read_text()[-3000:]
    return tiny_stages.out / "recorded", tiny_stages.out / "recorded_ppo"


def tables(run, name=""):
    """The tables of a run, in order."""
    files = sorted(run.glob(f"wandb/offline-run-*/files/media/**/{name}*.json"))
    return [json.loads(file.read_text()) for file in files]


def test_wandb_has_the_replies_of_each_validation(recorded, tiny_stages):
    shown = tables(recorded[1], "replies")
    assert shown
    asked = [json.loads(line) for line in (tiny_stages.files / "prompts.val.jsonl").read_text().splitlines()]
    for table in shown:
        assert table["columns"][:3] == ["row", "prompt", "response"]
        assert sorted(row[0] for row in table["data"]) == list(range(len(asked)))
        assert all(prompt.endswith(asked[row]["reply_prefix"]) for row, prompt, *_ in table["data"])


def test_wandb_has_the_whole_configuration_nested_and_once(recorded):
    run = recorded[0]
    found = kept(run)
    config = {}
    for record in found:
        for item in [*record.run.config.update, *record.config.update]:
            config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    config.pop("_wandb", None)
    plan = config.pop("plan")
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert config == written
    assert config["model"]["init_args"]["warmup_steps"] == 0
    assert 0 < plan["states"] < plan["peak"]
    receipt, samples = tables(run)
    rows = json.loads((run / "receipt.json").read_text())
    assert [row[:2] for row in receipt["data"]] == [[row["source"], row["rows"]] for row in rows]
    assert samples["columns"] == ["source", "row", "trained"]
    assert all(trained and trained in row for _, row, trained in samples["data"])
    artifacts = [record.request.log_artifact.artifact for record in found] + [
        record.artifact for record in found
    ]
    assert any("recorded-export" in artifact.name for artifact in artifacts)
