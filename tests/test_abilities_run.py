"""`trivium abilities`, on models and tests made small: every experiment from its rows to its page."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from experiments.abilities import (
    ability,
    arm,
    chain_of_thought,
    emergence,
    in_context,
    instructions,
    knowledge,
    workers,
)
from experiments.abilities import run as command
from experiments.abilities.catalogue import NAMES, jobs_of, made
from experiments.abilities.in_context import CHAIN, predicted
from experiments.cli.program import main as program
from experiments.statistics import holm

ITEMS = 40


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The experiments with few rows, few items, and two steps of two rows each."""
    configs = tmp_path_factory.mktemp("configs")
    for file in ability.CONFIGS.glob("*.yaml"):
        config = yaml.safe_load(file.read_text())
        if file.stem != "trainer":
            config["steps"] = 2
            config["model"]["init_args"]["warmup_steps"] = 0
            config["data"]["init_args"] |= {"global_batch_size": 2, "micro_batch_size": 2}
        (configs / file.name).write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arm, "CONFIGS", configs)
        patch.setattr(ability.Ability.__init__, "__defaults__", ("en", ITEMS))
        patch.setattr(emergence, "ROWS", 30)
        patch.setattr(emergence, "WIDTHS", (4, 48))
        patch.setattr(in_context, "ROWS", {4: 10, 16: 10})
        patch.setattr(in_context, "CHAINS", 20)
        patch.setattr(instructions, "ROWS", 200)
        patch.setattr(instructions, "RULES", (30, 3000))
        patch.setattr(chain_of_thought, "ROWS", 40)
        patch.setattr(chain_of_thought, "DIRECT_STEPS", 2)
        patch.setattr(knowledge, "READING", {1: 10, 3: 10})
        patch.setattr(knowledge, "CLOSED_BOOK", 10)
        patch.setenv("WANDB_MODE", "disabled")
        # here the models are trained in this process: workers of their own would not see what is patched
        patch.setattr(workers, "ProcessPoolExecutor", Here)
        yield


class Here:
    """Does work at once, as an executor."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def submit(self, function, *arguments):
        from concurrent.futures import Future

        future = Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self, **_):
        pass


@dataclass
class Finished:
    folder: Path
    lines: list


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """All six, with one seed."""
    import contextlib
    import io

    folder, out = tmp_path_factory.mktemp("abilities"), io.StringIO()
    with contextlib.redirect_stdout(out):
        assert program(["abilities", "--seeds", "1", "--json", "--output", str(folder)]) == 0
    return Finished(folder / "en", [json.loads(line) for line in out.getvalue().splitlines()])


@pytest.mark.slow
def test_every_claim_has_a_line_with_its_figures(finished):
    assert [line["ability"] for line in finished.lines] == [*NAMES]
    for line in finished.lines:
        assert {"verdict", "seeds", "results", "bars", "items_sha256", "seconds"} <= set(line)
        assert line["seeds"] == 1
        assert len(line["items_sha256"]) == 64
        for bar in line["bars"].values():
            low, high = bar["interval"]
            assert low <= bar["value"] <= high
            assert len(bar["seeds"]) == 1


@pytest.mark.slow
def test_models_that_have_learnt_nothing_show_nothing(finished):
    assert {line["ability"]: line["verdict"] for line in finished.lines} == dict.fromkeys(NAMES, "not shown")


@pytest.mark.slow
def test_every_answer_is_kept(finished):
    (line,) = [line for line in finished.lines if line["ability"] == "restriction"]
    rows = [json.loads(text) for text in (Path(line["folders"][0]) / "answers-restriction.jsonl").open()]
    conditions = {row["condition"] for row in rows}
    assert len(conditions) == 9
    assert len(rows) == 9 * ITEMS
    right = np.mean(
        [row["answer"] == row["expected"] for row in rows if row["condition"] == "unseen, gold, free"]
    )
    assert line["results"]["right: unseen, gold, free"][0] == pytest.approx(right)


@pytest.mark.slow
def test_the_page_tells_every_claim_with_its_pictures_and_needs_nothing_else(finished):
    page = (finished.folder / "abilities.html").read_text()
    for line in finished.lines:
        section = page.partition(f'<section id="{line["ability"]}">')[2].partition("</section>")[0]
        assert section.count("<svg") >= 2
        assert "not shown" in section
        assert f"trivium abilities {line['ability']}" in section
    assert "://" not in page
    report = json.loads((finished.folder / "abilities.json").read_text())
    assert [*report["claims"]] == [*NAMES]


@pytest.fixture
def fits(monkeypatch):
    """The command lines of fits since."""
    import experiments.cli.program as commands

    lines = []
    whole = commands.main

    def noted(arguments):
        if arguments[0] == "fit":
            lines.append(arguments)
        return whole(arguments)

    monkeypatch.setattr(commands, "main", noted)
    return lines


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_what_is_missing_is(finished, fits):
    (job, *_) = jobs_of(made("instructions", "en"), 1, finished.folder)
    asked = ["abilities", "instructions", "--seeds", "1", "--output", str(finished.folder.parent)]
    answers, stamp = job.folder / "answers-instructions.jsonl", job.folder / "answered-instructions"
    before = answers.read_text()
    assert program(asked) == 0
    assert fits == []
    answers.unlink()
    stamp.unlink()
    assert program(asked) == 0  # its export is there: it is only asked
    assert fits == []
    assert answers.read_text() == before


@pytest.mark.slow
def test_models_in_a_folder_that_was_moved_are_not_trained_again(finished, fits, tmp_path, capsys):
    shutil.copytree(finished.folder.parent, tmp_path / "moved")
    assert program(["abilities", "instructions", "--seeds", "1", "--output", str(tmp_path / "moved")]) == 0
    assert fits == []
    assert "with 5 tried earlier" in capsys.readouterr().out


@pytest.mark.slow
def test_a_claim_tried_by_itself_keeps_the_others_on_the_page(finished, capsys):
    """Each with as many seeds as it had; the headlines' p-values are corrected for all that are there."""
    folder = finished.folder
    before = json.loads((folder / "abilities.json").read_text())["claims"]
    asked = ["abilities", "chain-of-thought", "--seeds", "2", "--output", str(folder.parent)]
    assert program([*asked, "--json"]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    report = json.loads((folder / "abilities.json").read_text())
    assert [*report["claims"]] == [*NAMES]
    assert report["claims"]["chain-of-thought"] == line
    assert [claim["seeds"] for claim in report["claims"].values()] == [1, 1, 1, 2, 1, 1]
    p_values = {name: claim["test"]["paired"]["p"] for name, claim in report["claims"].items()}
    assert {n: claim["test"]["p_holm"] for n, claim in report["claims"].items()} == holm(p_values)
    for name in set(NAMES) - {"chain-of-thought"}:
        kept, was = report["claims"][name], before[name]
        assert {**kept, "test": kept["test"] | {"p_holm": 0}} == {**was, "test": was["test"] | {"p_holm": 0}}
    page = (folder / "abilities.html").read_text()
    assert "1 or 2 seeds a claim" in page
    assert "trivium abilities chain-of-thought --seeds 2" in page
    assert all(page.count(f'<section id="{name}">') == 1 for name in NAMES)
    (gone, *_) = jobs_of(made("emergence", "en"), 1, folder)
    (gone.folder / "answers-emergence.jsonl").rename(folder / "away")
    assert program(asked) == 0
    told = capsys.readouterr().out
    assert "left out of the page: emergence: their models have changed since; ask for them again" in told
    assert "with 4 tried earlier" in told
    (folder / "away").rename(gone.folder / "answers-emergence.jsonl")
    assert program([*asked[:1], "--seeds", "1", *asked[4:]]) == 0


@pytest.mark.slow
def test_a_model_of_another_recipe_is_trained_anew(finished, fits, monkeypatch, tmp_path):
    (job, *_) = jobs_of(made("instructions", "en"), 1, finished.folder)
    configs = tmp_path / "configs"
    configs.mkdir()
    for file in arm.CONFIGS.iterdir():
        config = yaml.safe_load(file.read_text())
        if "steps" in config:
            config["steps"] = 3
        (configs / file.name).write_text(yaml.safe_dump(config))
    monkeypatch.setattr(arm, "CONFIGS", configs)
    asked = ["abilities", "instructions", "--seeds", "1", "--output", str(finished.folder.parent)]
    assert program(asked) == 0
    assert len(fits) == 2  # two arms here
    assert yaml.safe_load((job.folder / "config.yaml").read_text())["trainer"]["max_steps"] == 3


@pytest.mark.slow
def test_a_model_learns_to_answer_in_steps_and_cannot_answer_at_once(small, tmp_path, monkeypatch):
    """The chain of thought made smaller: programs of two and four lines."""
    config = yaml.safe_load((ability.CONFIGS / "chain-of-thought.yaml").read_text())
    (tmp_path / "trainer.yaml").write_text((ability.CONFIGS / "trainer.yaml").read_text())
    (tmp_path / "chain-of-thought.yaml").write_text(yaml.safe_dump(config | {"steps": 250}))
    monkeypatch.setattr(arm, "CONFIGS", tmp_path)
    monkeypatch.setattr(chain_of_thought, "LENGTHS", (4, 4))
    monkeypatch.setattr(chain_of_thought, "SHARES", dict.fromkeys(chain_of_thought.SHARES, (0.5, 0.5)))
    monkeypatch.setattr(chain_of_thought, "ROWS", 16_000)
    experiment = made("chain-of-thought", "en", items=200)
    both = experiment.arms()[0]
    arm.run(experiment, both, 0, tmp_path / "run")
    from experiments.abilities.asking import load

    answers = load(arm.answers_file(experiment, tmp_path / "run"), experiment)
    assert answers["steps 4"].right.mean() >= 0.9
    assert answers["direct 4"].right.mean() <= 0.25  # chance is 1/11; a step can be undone or do nothing


@pytest.mark.slow
def test_a_command_that_is_killed_leaves_no_process_behind(tmp_path):
    line = [sys.executable, "-m", "experiments.cli", "abilities", "instructions", "--seeds", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(command.__file__).parents[2])}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    begun = subprocess.Popen([*line, "--workers", "1", "--output", str(tmp_path)], **quiet)
    while not list(tmp_path.glob("en/instructions/*/log.txt")):  # a worker is at it
        assert begun.poll() is None
        time.sleep(0.1)
    processes = psutil.Process(begun.pid).children(recursive=True)
    assert processes
    begun.kill()
    begun.wait()
    _, alive = psutil.wait_procs(processes, timeout=60)
    for process in alive:
        process.kill()
    assert alive == []


def test_a_perfect_predictor_has_no_divergence():
    """The best prediction itself, as a model would give it."""
    import torch

    question = made("in-context", "en", items=5).questions(CHAIN)[0]

    class Best:
        def logits(self, ids):
            best, _, _ = in_context.best_predictions(ids)
            last = np.full((len(ids), 1, 4), 0.25)
            return torch.from_numpy(np.log(np.concatenate([best, last], 1)))

    columns = predicted(Best(), question).columns
    assert np.abs(columns["kl"]).max() < 1e-12
    assert columns["kl_unigram"].mean() > 0.05


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["emergance"], "abilities: no claim `emergance`: there are emergence, in-context"),
        (["--seeds", "0"], "--seeds is 0: give 1 or more"),
        (["--workers", "-1"], "--workers is -1: give 1 or more"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_line(capsys, arguments, line):
    assert program(["abilities", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"trivium: {line}")


def test_a_library_that_is_not_there_is_named_before_anything_is_trained(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    assert program(["abilities", "retrieval", "--output", str(tmp_path / "out")]) == 2
    assert "abilities: this needs bm25s: pip install 'trivium[abilities]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(capsys, tmp_path):
    (tmp_path / "out").write_text("")
    assert program(["abilities", "--output", str(tmp_path / "out")]) == 2
    assert (
        capsys.readouterr().err
        == f"trivium: --output: {tmp_path / 'out' / 'en'} cannot be made: Not a directory\n"
    )


def test_help_lists_the_claims(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert all(name in told for name in NAMES)
