"""The card while training and in the quickstart's report: it shows what was measured, and training goes on as
if nobody had asked."""

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.cli.program import main
from experiments.cli.user_errors import UserError
from experiments.evaluation import AbilityCard
from experiments.evaluation.engine import Model
from experiments.evaluation.measure import measure, units
from experiments.evaluation.registry import asked
from tests.ranks import run_ranks


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Two tasks that fit into 128 positions: one of likelihoods, one that writes."""
    rows = [{"q": f"the film {i % 4}", "a": "good"} for i in range(12)]
    written = {"rows": rows, "template": "Write {q}", "answer": "{a}", "metric": "chrf", "max_new_tokens": 6}
    file = tmp_path_factory.mktemp("task") / "written.yaml"
    file.write_text(json.dumps(written))
    return ["tests.evaluated.Likely", str(file)]


def callback(tasks, every):
    return json.dumps(
        {
            "class_path": "experiments.evaluation.AbilityCard",
            "init_args": {"tasks": tasks, "every_n_steps": every, "limit": 12},
        }
    )


def logged(run: Path) -> list[dict[str, float]]:
    """What was logged of abilities, each time."""
    (file,) = run.glob("metrics/version_*/metrics.csv")
    with file.open() as lines:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(lines)]
    rows = [{name: float(value) for name, value in row.items() if name[:8] == "ability/"} for row in rows]
    return [row for row in rows if row]


def measured_again(run: Path, tasks: list[str]) -> dict[str, float]:
    """What the run's export can do, in this process."""
    model = Model.load(str(run / "export"), "export")
    kinds = units([asked(each) for each in tasks], None, 12)
    return {
        f"ability/{unit.label}": next(iter(measure(model, unit).metrics.values())).value for unit in kinds
    }


@pytest.mark.slow
def test_a_sharded_network_is_measured_as_it_is(tiny_stages, task, tmp_path):
    run = tmp_path / "fsdp"
    strategy = json.dumps({"class_path": "strategies.fsdp", "init_args": {}})
    line = [*tiny_stages.stage("sft", run=str(run)), "--trainer.max_steps", "2", "--trainer.devices", "2"]
    line += [f"--trainer.strategy={strategy}", f"--trainer.callbacks+={callback(task, 1)}"]
    run_ranks(tmp_path / "ranks", [[*line, "--trainer.logger", json.dumps(csv_logger(run))]])
    values = logged(run)
    assert len(values) == 3
    assert values[-1] == pytest.approx(measured_again(run, task), abs=1e-4)  # fp32 in another order


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_abilities_are_logged_and_training_is_what_it_is_without(stage, tiny_stages, task, tmp_path):
    steps = {"sft": 4, "ppo": 32}[stage]
    weights, runs = [], []
    for name, options in (
        ("plain", []),
        ("card", [f"--trainer.callbacks+={callback(task, steps // 2)}"]),
    ):
        run = tmp_path / name
        line = tiny_stages.stage(stage, run=str(run)) + ["--trainer.max_steps", str(steps), *options]
        assert main([*line, "--trainer.logger", json.dumps(csv_logger(run))]) == 0
        weights.append(load_file(run / "export/model.safetensors"))
        runs.append(run)
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    values = logged(runs[1])
    assert len(values) == 3  # before the first step, half way, at the end
    assert len({row["ability/likely"] for row in values}) == 3
    assert values[-1] == pytest.approx(measured_again(runs[1], task), abs=1e-6)


def csv_logger(run: Path) -> dict:
    init = {"save_dir": str(run), "name": "metrics"}
    return {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": init}


def test_a_stage_that_trains_no_language_model_is_refused(tiny_stages, task, tmp_path, capsys):
    line = tiny_stages.stage("reward", run=str(tmp_path / "reward"))
    options = ["--trainer.max_steps", "2", f"--trainer.callbacks+={callback(task, 1)}"]
    assert main([*line, *options]) == 2
    assert "AbilityCard: stage `reward` trains no language model" in capsys.readouterr().err


def test_wrong_arguments_of_the_card_are_refused():
    with pytest.raises(UserError, match="AbilityCard.every_n_steps is 0"):
        AbilityCard(every_n_steps=0)
    with pytest.raises(UserError, match="there is no task `poetry`"):
        AbilityCard(tasks=["poetry"])


def test_the_quickstarts_card_has_a_row_for_each_task(tmp_path, tiny_tokenizer, monkeypatch):
    from experiments.quickstart import abilities
    from tests.evaluated import save_model

    monkeypatch.setattr(abilities, "FOLDER", tmp_path)
    monkeypatch.setattr(abilities, "LIMIT", 4)
    monkeypatch.setattr(
        abilities, "TASKS", {way: abilities.TASKS[way] for way in (("sentiment", ""), ("in-context", ""))}
    )
    for seed, stage in enumerate(("pretrain", "sft", "ppo")):
        save_model(tmp_path / stage / "export", tiny_tokenizer, seed)
    rows = abilities.card()
    assert [(row["task"], row["metric"], row["items"]) for row in rows] == [
        ("sentiment", "right", 4),
        ("in-context", "gain", 4),
    ]
    assert [list(row["estimates"]) for row in rows] == [["pretrained", "tuned", "after PPO"]] * 2
    assert 0 <= rows[0]["p"] <= 1
    assert rows[1]["p"] is None
    save_model(tmp_path / "sft/export", tiny_tokenizer, 9)  # a run that begins again has other models
    assert len(abilities.card()) == 2


def test_the_report_shows_the_card_and_does_without_one(tmp_path):
    from experiments.quickstart.page import write_report

    row = {"task": "maths", "metric": "right", "words": "Sums", "items": 50, "p": 0.0001}
    estimates = {"pretrained": "0.000 [0.000, 0.071]", "tuned": "0.500 [0.366, 0.634]", "after PPO": "0.400"}
    for abilities in ([], [{**row, "estimates": estimates}]):
        write_report({"stages": {}, "abilities": abilities}, {}, tmp_path)
        page = (tmp_path / "report.html").read_text()
        assert ("What it can do" in page) is bool(abilities)
    assert "maths: Sums" in page
    assert "0.500 [0.366, 0.634]" in page
    assert "&lt; 0.001" in page
