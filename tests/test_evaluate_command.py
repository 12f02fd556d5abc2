"""`trivium evaluate`: results are kept, resumed and compared; what does not belong together is refused."""

import json
from pathlib import Path

import pytest

from experiments.cli.program import main
from experiments.cli.user_errors import UserError
from experiments.evaluation import engine, run
from experiments.evaluation.command import named_models, shot_counts
from experiments.statistics import holm, mcnemar, rate
from tests.evaluated import save_model

ROWS = [{"q": f"{a} + {b}", "a": str(a + b)} for a in range(1, 5) for b in range(1, 5)]
CHOICES = ["good", "bad", "dull"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer):
    """Two models and two task files."""
    folder = tmp_path_factory.mktemp("evaluate")
    for seed, name in enumerate(("one", "two")):
        save_model(folder / name, tiny_tokenizer, seed)
    rows = [{"text": f"{i} the film is", "label": CHOICES[(i % 6 > 2) + (i % 6 > 4)]} for i in range(30)]
    task = {"rows": rows, "template": "{text}", "answer": "{label}", "metric": "choice", "choices": CHOICES}
    (folder / "words.yaml").write_text(json.dumps({**task, "examples": rows[:2]}))
    sums = {
        "rows": ROWS,
        "template": "What is {q}?",
        "answer": "{a}",
        "metric": "number",
        "max_new_tokens": 4,
    }
    (folder / "sums.yaml").write_text(json.dumps(sums))
    return folder


@pytest.fixture
def evaluate(folder, tmp_path, capsys):
    """Runs the command in a new output folder; gives its JSON lines."""

    def call(*arguments, tasks="words.yaml,sums.yaml"):
        tasks = ",".join(str(folder / name) for name in tasks.split(","))
        capsys.readouterr()
        line = ["evaluate", *arguments, "--tasks", tasks, "--output", str(tmp_path / "out"), "--json"]
        assert main(line) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


def test_a_line_for_each_model_task_and_way_with_its_interval(folder, tmp_path, evaluate):
    lines = evaluate(str(folder / "one"), str(folder / "two"), "--shots", "0,2", "--limit", "12")
    ways = [(line["model"], line["task"], line["shots"]) for line in lines]
    assert ways == [(m, *way) for m in ("one", "two") for way in (("words", 0), ("words", 2), ("sums", 0))]
    for line in lines:
        file = tmp_path / "out" / line["model"] / f"{line['task']}.{line['shots']}-shot.jsonl"
        items = [json.loads(item) for item in file.read_text().splitlines()]
        assert len(items) == line["items"] == 12
        wanted = rate([item["scores"]["right"] for item in items])
        assert line["metrics"]["right"] == pytest.approx(wanted._asdict())
    shown = (tmp_path / "out/one/words.2-shot.jsonl").read_text().splitlines()[5]
    assert json.loads(shown)["question"] == "0 the film isgood\n\n1 the film isgood\n\n5 the film is"


def test_an_interrupted_command_goes_on_and_what_has_ended_is_not_repeated(
    folder, tmp_path, evaluate, monkeypatch
):
    measured = []
    measure = run.measure

    def counted(model, unit, tick):
        if len(measured) == 1 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        measured.append((model.name, unit.label))
        return measure(model, unit, tick)

    stopped: list[bool] = []
    monkeypatch.setattr(run, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(str(folder / "one"))
    assert [file.name for file in (tmp_path / "out/one").glob("*.jsonl")] == ["words.0-shot.jsonl"]
    lines = evaluate(str(folder / "one"))
    assert measured == [("one", "words"), ("one", "sums")]

    def never(*arguments):
        raise AssertionError("the weights are not read again")

    monkeypatch.setattr(engine.Model, "load", never)
    assert evaluate(str(folder / "one")) == lines
    with pytest.raises(AssertionError):  # other items are other results
        evaluate(str(folder / "one"), "--limit", "3")


def test_a_task_that_scores_otherwise_is_measured_again(folder, tmp_path, evaluate):
    content = json.loads((folder / "sums.yaml").read_text())
    mine = folder / "mine.yaml"
    mine.write_text(json.dumps(content))
    (before,) = evaluate(str(folder / "one"), tasks="mine.yaml")
    mine.write_text(json.dumps({**content, "metric": "contains"}))
    (after,) = evaluate(str(folder / "one"), tasks="mine.yaml")
    assert before["items_sha256"] != after["items_sha256"]
    assert before["rows_sha256"] == after["rows_sha256"]


def test_models_are_compared_item_by_item_also_across_runs(folder, tmp_path, evaluate, capsys):
    for name in ("one", "two"):
        evaluate(str(folder / name))
    capsys.readouterr()
    assert main(["evaluate", "--compare", "--output", str(tmp_path / "out"), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [line["comparison"] for line in lines if "comparison" in line]
    p_values, differences = {}, {}
    for task in ("sums", "words"):
        right = {}
        for model in ("one", "two"):
            items = (tmp_path / "out" / model / f"{task}.0-shot.jsonl").read_text().splitlines()
            right[model] = [json.loads(item)["scores"]["right"] for item in items]
        p_values[task] = mcnemar(right["one"], right["two"]).p
        differences[task] = (sum(right["two"]) - sum(right["one"])) / len(right["one"])
    assert {each["task"]: each["p"] for each in found} == pytest.approx(holm(p_values))
    assert {each["task"]: each["difference"] for each in found} == pytest.approx(differences)
    assert {(each["first"], each["second"]) for each in found} == {("one", "two")}
    assert differences["words"] != 0  # else this would compare nothing


def test_other_items_are_not_compared(folder, evaluate):
    evaluate(str(folder / "one"), "--limit", "8", tasks="sums.yaml")
    lines = evaluate(str(folder / "two"), "--compare", "--limit", "9", tasks="sums.yaml")
    assert not any("comparison" in line for line in lines)


def test_ways_of_asking_one_model_are_compared(folder, evaluate):
    spec = f"sums.yaml,{folder / 'sums.yaml'}+steps"
    lines = evaluate(str(folder / "one"), "--compare", "--limit", "4", tasks=spec)
    (found,) = [line["comparison"] for line in lines if "comparison" in line]
    assert (found["first"], found["second"]) == ("one: plain, 0-shot", "steps, 0-shot")


def test_another_model_of_the_same_name_is_refused(folder, tmp_path, evaluate, capsys):
    evaluate(str(folder / "one"), tasks="sums.yaml")
    line = ["evaluate", f"one={folder / 'two'}", "--tasks", str(folder / "sums.yaml")]
    assert main([*line, "--output", str(tmp_path / "out")]) == 2
    assert "holds results of another model named `one`" in capsys.readouterr().err.splitlines()[-1]


def test_two_tasks_of_one_name_are_refused(folder, tmp_path, capsys):
    (tmp_path / "sums.yaml").write_text((folder / "sums.yaml").read_text())
    tasks = f"{folder / 'sums.yaml'},{tmp_path / 'sums.yaml'}"
    assert main(["evaluate", str(folder / "one"), "--tasks", tasks, "--output", str(tmp_path / "out")]) == 2
    assert "two are named `sums`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_task_without_room_is_refused_by_name_and_left_out_of_all(tmp_path, tiny_tokenizer, capsys):
    small = save_model(tmp_path / "small", tiny_tokenizer, positions=96)
    out = str(tmp_path / "out")
    capsys.readouterr()
    assert main(["evaluate", small, "--tasks", "restriction", "--output", out, "--limit", "2"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("trivium: --tasks: restriction/free: a prompt of ")
    assert not Path(out).exists()
    assert main(["evaluate", small, "--output", out, "--limit", "2"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "left out: restriction/free: a prompt of" in text
    names = {file.name for file in Path(out, "small").glob("*.jsonl")}
    assert "facts.closed-book.0-shot.jsonl" in names
    assert not any(name.startswith("restriction") for name in names)


def test_the_table_shows_every_model_beside_the_others(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    models = [str(folder / name) for name in ("one", "two")]
    line = ["evaluate", *models, "--tasks", str(folder / "words.yaml"), "--compare"]
    assert main([*line, "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "one" in text
    assert "McNemar" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "evaluate: no model: give a Hugging Face directory"),
        (["--compare", "--output", "nowhere"], "holds no results"),
        (["a/export", "b/a"], "two models are named `a`"),
        (["x", "--shots", "0,many"], "--shots is 0,many"),
        (["x", "--limit", "0"], "--limit is 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_models_are_named_by_their_folders():
    given = ["runs/ppo/export", "base=runs/x/export", "org/name", "runs/old"]
    assert named_models(given) == {
        "ppo": given[0],
        "base": "runs/x/export",
        "name": "org/name",
        "old": "runs/old",
    }
    assert shot_counts("0,4,4") == [0, 4]
    for nameless in ("=x", "..=x", "a/b=x"):
        with pytest.raises(UserError, match="is no model: give DIR or NAME=DIR"):
            named_models([nameless])


def test_lm_eval_runs_a_local_task_offline(folder, tmp_path, rows, capsys):
    data = rows(tmp_path / "items.jsonl", [{"q": "the film is", "a": i % 2} for i in range(6)])
    task = tmp_path / "films.yaml"
    task.write_text(
        f"""
task: trivium_films
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: ["good", "bad"]
doc_to_target: a
metric_list: [{{metric: acc}}]
"""
    )
    capsys.readouterr()
    line = [
        "evaluate",
        str(folder / "one"),
        "--lm-eval",
        str(task),
        "--output",
        str(tmp_path / "out"),
        "--json",
    ]
    assert main(line) == 0
    (found,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found["task"] == "lm-eval:trivium_films"
    assert found["metrics"]["acc,none"] == 0.5  # one answer to one question, right for half of the items
    assert main(["evaluate", str(folder / "one"), "--lm-eval", "missing.yaml"]) == 2
    assert "missing.yaml does not exist" in capsys.readouterr().err.splitlines()[-1]


def test_without_lm_eval_its_option_says_what_to_install(folder, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    assert main(["evaluate", str(folder / "one"), "--lm-eval", "arc_easy"]) == 2
    assert "pip install 'trivium[eval]'" in capsys.readouterr().err.splitlines()[-1]


def test_help_is_there_without_torch():
    import subprocess
    import sys

    code = "import sys; import experiments.evaluation.command as c; c.parser(); print('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "False", done.stderr
