"""Commands beside `fit`, and that what one writes another reads."""

import gc
import json
import os
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from safetensors.torch import load_file

import modules
from experiments.cli.menu import Command, main_of
from experiments.cli.parser import ParseOnly, parse
from experiments.cli.program import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "experiments" / "configs"


def test_help_is_fast_and_imports_nothing_heavy():
    code = (
        "import sys, experiments.cli.program as c; c.main(['--help']); print(*sys.modules, file=sys.stderr)"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert seconds < 2  # of a core: the clock would tell how busy the machine is
    heavy = {"torch", "lightning", "transformers", "datasets", "numpy", "wandb", "rich", "jsonargparse"}
    assert heavy.isdisjoint(done.stderr.split())
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)


def test_what_a_command_imports_is_out_of_the_garbage_collections_way(tmp_path, monkeypatch):
    text = "import gc\nSEEN, KEPT = gc.isenabled(), [[] for _ in range(1000)]\n\ndef main(argv): ...\n"
    (tmp_path / "a_command_of_many_objects.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    frozen = gc.get_freeze_count()
    command = main_of("trivium", "new", {"new": Command("", "a_command_of_many_objects")})
    assert not command.__globals__["SEEN"]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + 1000


@pytest.mark.parametrize(
    "command",
    [
        *("chat", "export", "tokenizer", "quickstart"),
        *("data inspect", "data deduplicate", "data contamination", "data receipt"),
    ],
)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert f"usage: trivium {command}" in capsys.readouterr().out


def test_data_explains_itself(capsys):
    assert main(["data", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: trivium data COMMAND")


def test_the_stages_yamls_are_the_four_and_share_their_trainers(tiny_stages):
    """`test_stages.py` runs each; a fifth needs a run there too. GPU runs have trainers of their own, and
    `test_plan_config.py` plans them."""
    gpu_runs = {"llama-1b-fsdp", "llama-1b-fsdp-sft"}
    stages = {path.stem for path in CONFIGS.glob("*.yaml")} - gpu_runs
    assert stages == {"ppo", "pretrain", "reward", "sft"}
    for stage in stages:
        trainer = yaml.safe_load((CONFIGS / f"{stage}.yaml").read_text())["trainer"]
        assert (CONFIGS / trainer).is_file(), f"{stage}.yaml restates its trainer instead of naming a file"


@pytest.mark.parametrize("command", ["validate", "test"])
def test_an_export_measures_as_its_run_did_at_the_end(tiny_stages, command, capsys):
    """What `fit` validated last and what its export holds are the same weights: equal to fp32 rounding."""
    run = tiny_stages.out / "measured"
    epoch = ["--trainer.val_check_interval=1.0", "--trainer.max_epochs=1"]
    if not run.exists():
        assert main([*tiny_stages.stage("sft", run="measured"), *epoch]) == 0
    header, *lines = (run / "metrics/version_0/metrics.csv").read_text().splitlines()
    column = header.split(",").index("val/loss")
    last = float([line.split(",")[column] for line in lines if line.split(",")[column]][-1])
    capsys.readouterr()
    export = f"--model.init_args.pretrained={run / 'export'}"
    assert main([*tiny_stages.stage("sft", command, "measured"), export]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if "val/loss " in line]
    found = float(printed[0].replace("│", " ").split()[-1])
    assert found == pytest.approx(last, rel=1e-5)


def test_predictions_keep_the_row_numbers_of_the_file_when_rows_are_dropped(tiny_stages, rows, tmp_path):
    """Rows 0 and 2 have no reply: what is predicted is row 1 and 3, counted from 0, as `rows` in a batch."""
    blank = {"instruction": "Write.", "output": " ", "task": "x", "language": "en"}
    file = rows(tmp_path / "x.jsonl", [blank, {**blank, "output": "a"}, blank, {**blank, "output": "b"}])
    run = tmp_path / "run"
    line = tiny_stages.stage("sft", "predict")
    line += ["--run", str(run), f"--data.init_args.val={file}", "--data.init_args.max_dropped=1"]
    line += ["--model.init_args.max_new_tokens=4"]
    assert main([*line, f"--model.init_args.pretrained={tiny_stages.export('sft')}"]) == 0
    found = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [row["row"] for row in found] == [1, 3]


def test_predict_can_use_a_checkpoint_instead_of_an_export(tiny_stages, tmp_path):
    results = []
    for name, source in {
        "export": f"--model.init_args.pretrained={tiny_stages.export('sft')}",
        "checkpoint": f"--ckpt_path={tiny_stages.out / 'sft' / 'checkpoints' / 'last.ckpt'}",
    }.items():
        line = [*tiny_stages.stage("sft", "predict"), "--run", str(tmp_path / name)]
        assert main([*line, "--model.init_args.max_new_tokens=6", source]) == 0
        results.append((tmp_path / name / "predictions.jsonl").read_text())
    assert results[0] == results[1]


def test_the_data_receipt_accepts_overrides_and_trains_nothing(tiny_stages, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # so that no cell of the table wraps
    config = str(tiny_stages.out / "sft" / "config.yaml")
    whole = json.loads((tiny_stages.out / "sft" / "receipt.json").read_text())[0]
    assert (whole["truncated"], whole["dropped"]) == (0, {})
    overrides = ["--data.init_args.max_length", "42", "--data.init_args.policies.long_reply=truncate_left"]
    line = ["data", "receipt", "--config", config, *overrides, "--data.init_args.max_dropped", "1"]
    assert main(line) == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    rows, kept, truncated, dropped = re.search(r"data\.train (\d+) (\d+) (\d+) (\d+)", printed).groups()
    assert int(rows) == whole["rows"] == int(kept) + int(dropped)
    assert 0 < int(truncated) <= int(kept)
    assert int(dropped) > 0
    assert "### Response:" in printed  # one row with its mask
    assert list(tmp_path.iterdir()) == []


def test_chat_refuses_what_is_no_language_model(tiny_stages, capsys):
    assert main(["chat", tiny_stages.export("reward"), "--prompt", "Write."]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("trivium: ")
    assert "stage `reward`" in line


def test_chat_is_reproducible_by_seed_and_greedy_at_zero(tiny_stages, capsys):
    def reply(*options):
        capsys.readouterr()
        arguments = ["--prompt", "Write.", "--max-new-tokens", "8", *options]
        assert main(["chat", tiny_stages.export("sft"), *arguments]) == 0
        return capsys.readouterr().out

    assert reply("--seed", "1") == reply("--seed", "1")
    assert reply("--temperature", "0", "--seed", "1") == reply("--temperature", "0", "--seed", "2")


def test_a_saved_configuration_holds_no_secret_and_names_every_choice(tiny_stages, monkeypatch):
    saved = yaml.safe_load((tiny_stages.out / "ppo" / "config.yaml").read_text())
    assert saved["model"]["init_args"]["kl_coef"] == 0.07
    assert saved["data"]["init_args"]["seed"] == 0  # a default, written out so that it cannot change unseen
    assert saved["seed_everything"] == 0
    assert "api_key" not in (tiny_stages.out / "ppo" / "config.yaml").read_text().lower()


@pytest.mark.parametrize(("stage", "data"), [("sft", "InstructionData"), ("ppo", "PromptData")])
def test_stage_and_data_are_known_by_the_names_of_their_classes(tiny_stages, stage, data):
    """In a process of its own, where nothing but the parser can have imported them."""
    options = [line for line in tiny_stages.stage(stage)[5:] if line.startswith(("--model", "--data"))]
    model = {"sft": "SFTModule", "ppo": "PPOModule"}[stage]
    line = ["fit", f"--model={model}", f"--data={data}", *options]
    code = (
        "import sys; from experiments.cli.parser import BuildOnly, parse\n"
        "cli = parse(sys.argv[1:], BuildOnly)\n"
        "print(type(cli.model).__name__, type(cli.datamodule).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == [model, data], done.stderr[-2000:]


@pytest.mark.parametrize("stage", ["CausalLM", "SFTModule", "RewardModule", "PPOModule"])
def test_the_default_optimizer_is_written_into_a_config_and_made_from_it(stage):
    """PPO gives its optimizer the learning rate, which its config does not name."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(getattr(modules, stage), "model")
    given = [] if stage == "CausalLM" else ["--model.pretrained=x"]
    given = ["--model.actor=x", "--model.reward=x"] if stage == "PPOModule" else given
    given += ["--model.optimizer.weight_decay=0.5"]
    given += [] if stage == "PPOModule" else ["--model.optimizer.lr=0.25"]
    saved = yaml.safe_load(parser.dump(parser.parse_args(given)))
    assert saved["model"]["optimizer"]["class_path"] == "modules.optim.AdamW"
    assert ("lr" in saved["model"]["optimizer"]["init_args"]) == (stage != "PPOModule")
    rate = [0.25] if stage == "PPOModule" else []
    make = parser.instantiate(parser.parse_object(saved)).model.optimizer
    made = make([torch.nn.Parameter(torch.ones(2))], *rate)
    assert made.defaults["lr"] == 0.25
    assert made.defaults["weight_decay"] == 0.5
    assert made.defaults["betas"] == (0.9, 0.95)


OPTIMIZERS = [
    cls for cls in vars(torch.optim).values() if isinstance(cls, type) and cls is not torch.optim.Optimizer
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("more", [[], ["--config", "sft"]], ids=["default", "yaml"])
def test_another_optimizer_has_its_own_defaults_and_what_was_given(optimizer, more):
    """Those of the optimizer that it replaces are not among them, but what a YAML has given that one is."""
    given = ["--model=SFTModule", "--model.pretrained=x", "--data=InstructionData"]
    given += ["--data.tokenizer=x", "--data.train=x.jsonl"]
    line = ["fit", *(more or given), f"--model.init_args.optimizer=torch.optim.{optimizer.__name__}"]
    parsed = parse([*line, *([] if more else ["--model.init_args.optimizer.lr=0.5"])], ParseOnly)
    found = parsed.config.fit.model.init_args.optimizer.init_args.as_dict()
    own = {name: each.default for name, each in signature(optimizer).parameters.items() if name != "params"}
    assert found == own | {"lr": 2e-3 if more else 0.5}


def test_the_config_of_a_run_with_the_default_optimizer_runs_again(
    tiny_files, tiny_tokenizer, tiny_config, tmp_path
):
    source = {"train": str(tiny_files / "a.train.jsonl"), "weight": 1.0}
    data = {"tokenizer": str(tiny_tokenizer), "sequence_length": 32, "sources": {"a": source}}
    data |= {"global_batch_size": 2, "micro_batch_size": 2}
    config = {
        "run": str(tmp_path / "first"),
        "trainer": {"max_steps": 3, "accelerator": "cpu", "log_every_n_steps": 1},
        "model": {"class_path": "modules.CausalLM", "init_args": {"config": tiny_config, "warmup_steps": 0}},
        "data": {"class_path": "datamodules.MixedCorpusData", "init_args": data},
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(file)]) == 0
    again = ["fit", "--config", str(tmp_path / "first" / "config.yaml"), "--run", str(tmp_path / "again")]
    assert main(again) == 0
    first, second = (load_file(tmp_path / run / "export" / "model.safetensors") for run in ("first", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_that_was_refused_before_its_first_step_leaves_its_folder_free(tiny_stages, capsys):
    """The warm-up is longer than an epoch, which is known only when the data has been read."""
    line = [*tiny_stages.stage("sft", run="freed"), "--trainer.max_epochs=1", "--trainer.limit_val_batches=0"]
    assert main([*line, "--model.init_args.warmup_steps=5000"]) == 2
    assert "the learning rate would never reach its peak" in capsys.readouterr().err
    assert main([*line, "--trainer.limit_train_batches=4"]) == 0
    assert main(line) == 2
    assert "freed already holds export, checkpoints" in capsys.readouterr().err


def test_a_resolved_configuration_keeps_keys_that_are_numbers():
    config = "--model.init_args.config={model_type: llama, id2label: {0: a}}"
    cli = parse(["fit", "--config", str(ROOT / "experiments/configs/pretrain.yaml"), config], ParseOnly)
    assert cli.resolved()["model"]["init_args"]["config"] == {"model_type": "llama", "id2label": {0: "a"}}
