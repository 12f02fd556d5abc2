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

CHOICES = ["good", "bad", "dull"]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A task file that fits into 128 positions: one task that chooses, one that writes."""
    folder = tmp_path_factory.mktemp("task")
    rows = [{"q": f"the film {i % 4}", "a": CHOICES[i % 3]} for i in range(12)]
    chosen = {"rows": rows, "template": "{q} is", "answer": "{a}", "metric": "choice", "choices": CHOICES}
    written = {"rows": rows, "template": "Write {q}", "answer": "{a}", "metric": "chrf", "max_new_tokens": 6}
    for name, content in (("chosen", chosen), ("written", written)):
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    return [str(folder / "chosen.yaml"), str(folder / "written.yaml")]


def callback(tasks, every):
    return json.dumps(
        {
            "class_path": "experiments.evaluation.AbilityCard",
            "init_args": {"tasks": tasks, "every_n_steps": every, "limit": 12},
        }
    )


def logged(run: Path) -> dict[int, dict[str, float]]:
    (file,) = run.glob("metrics/version_*/metrics.csv")
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    names = [name for name in rows[0] if name.startswith("ability/")] if rows else []
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        values = {name: float(row[name]) for name in names if row[name]}
        if values:
            found[int(row["step"])] = values
    return found


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
    last = values[max(values)]
    model = Model.load(str(runs[1] / "export"), "export")
    for unit in units([asked(each) for each in task], None, 12):
        wanted = next(iter(measure(model, unit).metrics.values())).value
        assert last[f"ability/{unit.label}"] == pytest.approx(wanted, abs=1e-6)


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
