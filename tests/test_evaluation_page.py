"""The evaluation page is true: its commands are accepted, its task file and its class are tasks, its table
names every task with its metrics, and its JSON is what the command prints."""

import json
import re
import shlex
from pathlib import Path

import yaml

from experiments.evaluation import AbilityCard, Answer
from experiments.evaluation.command import named_models, parser, shot_counts
from experiments.evaluation.registry import BUILT_IN, asked
from experiments.evaluation.store import Result
from experiments.evaluation.task import Reply

PAGE = (Path(__file__).parents[1] / "experiments/docs/evaluation.md").read_text(encoding="utf-8")


def code(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_command_of_the_page_is_accepted(tmp_path, monkeypatch):
    commands = [shlex.split(line) for block in code("sh") for line in block.splitlines()]
    assert len(commands) == PAGE.count("\ntrivium ") == 8
    for program, command, *arguments in commands:
        assert (program, command) == ("trivium", "evaluate")
        options = parser().parse_args(arguments)
        assert named_models(options.models) or options.compare
        if options.shots:
            shot_counts(options.shots)
        for name in (options.tasks or "").split(","):
            if name and "." not in name:  # what is not the reader's own
                asked(name, options.documents)


def test_the_table_names_every_task_its_ways_and_its_metrics():
    rows = {
        row[0]: row
        for row in re.findall(r"^\| `([\w-]+)` \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    }
    assert set(rows) == set(BUILT_IN)
    for name, (_, _, ways, metrics) in rows.items():
        task = asked(name).task
        assert re.findall(r"`(\w+)`", metrics) == list(task.metrics)
        assert re.findall(r"`([\w-]+)`", ways) == [way for way in task.variants() if way]
        assert [int(shots) for shots in re.findall(r"(\d)-shot", ways)] == (
            [] if task.shots == (0,) else [*task.shots]
        )


def test_the_task_file_of_the_page_is_a_task(tmp_path, rows):
    file, card = code("yaml")
    (tmp_path / "capitals.yaml").write_text(file)
    rows(tmp_path / "capitals.jsonl", [{"country": "France", "capital": "Paris"}])
    task = asked(str(tmp_path / "capitals.yaml")).task
    assert task.score(task.rows()[0], Answer(Reply("It is Paris.", True))) == {"right": True}
    (callback,) = yaml.safe_load(card)["trainer"]["callbacks"]
    assert callback["class_path"] == "experiments.evaluation.AbilityCard"
    assert AbilityCard(**callback["init_args"]).units


def test_the_class_of_the_page_is_a_task(tmp_path, monkeypatch):
    (source,) = code("python")
    (tmp_path / "page_tasks.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    task = asked("page_tasks.Doubles").task
    assert task.score(task.rows()[21], Answer(Reply("It is 42", False))) == {"right": True, "short": False}


def test_the_line_of_json_has_the_fields_of_a_result():
    (block,) = code("json")
    assert list(json.loads(block)) == list(Result._fields)
