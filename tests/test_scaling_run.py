"""A family of sizes at several budgets: shared trunks change nothing, what has ended is not repeated."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from experiments.cli.program import main
from experiments.scaling import callbacks
from experiments.scaling.family import QUICK, Point, Rate, Size, points_of, read_family
from experiments.scaling.points import read_points
from experiments.scaling.training import pieces

CONFIGS = QUICK.parent.parent
FAMILY = {
    "folder": "family",
    "stage": str(CONFIGS / "pretrain.yaml"),
    "sizes": {"d32": {"hidden_size": 32}, "d64": {"hidden_size": 64, "num_hidden_layers": 1}},
    "budgets": [4.0e8, 6.0e8],
    "learning_rate": {"peak": 2.0e-3, "width": 32, "power": -0.5},
    "warmup_steps": 2,
    "decay_share": 0.25,
    "min_lr_ratio": 0.1,
    "precision": "32-true",
}


@pytest.fixture
def overrides(tiny_files, tiny_tokenizer, tiny_config):
    """Options of `trivium fit` that put the tiny network and corpus in the place of the stage's."""
    source = {split: str(tiny_files / f"a.{split}.jsonl") for split in ("train", "val")}
    options = {"tokenizer": tiny_tokenizer, "sequence_length": 32, "sources": json.dumps({"a": source})}
    network = f"--model.init_args.config={json.dumps(tiny_config)}"
    data = [f"--data.init_args.{name}={value}" for name, value in options.items()]
    return [network, *data, "--checkpoint_minutes=0.000001"]  # at every step


@pytest.fixture
def family(overrides, tmp_path, monkeypatch):
    """Runs `trivium scaling run` on the tiny corpus with changes to the family; gives its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*options: str, **changes) -> int:
        Path("family.yaml").write_text(yaml.safe_dump({**FAMILY, **changes}))
        return main(["scaling", "run", "family.yaml", *options, *overrides])

    return run


def results(folder: str) -> list[dict[str, str]]:
    with open(Path(folder) / "results.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def test_an_interrupted_family_goes_on_and_shared_trunks_change_nothing(family, monkeypatch, capsys):
    """The largest budget is cut off within its decay; afterwards it ends as a run by itself does, in fp32 to
    the last bit, for it has taken the same steps on the same rows."""
    sizes = {"d32": {}}
    move = callbacks.FamilyBar._move

    def cut_off(bar, trainer):
        move(bar, trainer)
        if trainer.max_steps == steps and trainer.global_step == steps - 2:
            raise RuntimeError("the machine went down")

    assert family("--plan", sizes=sizes) == 0
    (size,) = [line.split("│") for line in capsys.readouterr().out.splitlines() if "d32" in line]
    steps = int(size[-2])
    monkeypatch.setattr(callbacks.FamilyBar, "_move", cut_off)
    assert family(sizes=sizes) == 1
    ended = {file: file.stat().st_mtime_ns for file in Path("family").glob("*/export/model.safetensors")}
    assert len(ended) == 3  # two stretches of the trunk, and the smaller budget
    assert len(results("family")) == 1

    monkeypatch.setattr(callbacks.FamilyBar, "_move", move)
    assert family("--json", sizes=sizes) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {file: file.stat().st_mtime_ns for file in ended} == ended
    log = Path("family/d32-6e8/log.txt").read_text()
    assert "--ckpt_path family/d32-6e8/checkpoints/last.ckpt" in log
    rows = results("family")
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in told]
    assert [row["budget"] for row in rows] == ["400000000.0", "600000000.0"]
    points = read_points(Path("family/results.csv"), fewest=2)
    assert points.flops == pytest.approx([4e8, 6e8], rel=0.1)  # whole steps, of which there are about ten
    assert points.flops == pytest.approx(6 * points.parameters * points.tokens)

    assert family("--size=d32", "--budget=6e8", "--folder=alone", sizes=sizes) == 0
    assert not list(Path("alone").glob("*trunk*"))
    assert [row["loss"] for row in results("alone")] == [rows[1]["loss"]]

    capsys.readouterr()
    assert family(sizes=sizes, min_lr_ratio=0.2) == 2
    assert "was trained with other settings than it would be now" in capsys.readouterr().err


def test_sizes_are_counted_with_and_without_embeddings(overrides):
    """By hand: a block of d = 32 has 4 · 32² + 3 · 32 · 64 weights and two norms of 32."""
    block = 4 * 32**2 + 3 * 32 * 64 + 2 * 32
    family = read_family(QUICK)._replace(sizes={"d32": {}, "deep": {"num_hidden_layers": 3}}, warmup_steps=2)
    points = points_of(family._replace(budgets=(1e9,), rate=Rate(4e-3, 128, -0.5)), overrides)
    for point, layers in zip(points, (2, 3), strict=True):
        size = point.size
        assert size.without_embeddings == layers * block + 32
        assert (size.parameters - size.without_embeddings) % 32 == 0  # the vocabulary, tied, once
        assert size.step_tokens == 8 * 32
        assert size.learning_rate == 8e-3  # 4e-3 · (32 / 128)^-0.5
        assert point.steps == round(1e9 / 6 / size.parameters / 256)
        assert point.flops == pytest.approx(1e9, rel=0.05)


def test_the_plan_of_a_run_offers_the_users_own_fit(overrides, tmp_path, capsys):
    file, stage = tmp_path / "scaling.json", str(CONFIGS / "pretrain.yaml")
    file.write_text(json.dumps({"E": 1.0, "A": 400.0, "B": 400.0, "alpha": 0.5, "beta": 0.5}))
    assert main(["plan", "--config", stage, *overrides, "--fit", str(file), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["scaling"]["optimal_tokens"]["own"] == pytest.approx(
        plan["parameters"]["model"]
    )  # N = D by it


def test_trunks_are_shared_and_what_is_trained_adds_up():
    """10, 30 and 60 steps, of which 0.8 are trunk: 8 + 2, 16 + 6, 24 + 12 steps instead of 100."""
    size = Size("s", (), 1e-3, 100, 50, 300, 10, 1, "")
    order = pieces([Point(size, float(steps), steps, steps * 8 // 10) for steps in (10, 30, 60)])
    assert [(each.first, each.last) for each in order] == [
        (0, 8),
        (8, 10),
        (8, 24),
        (24, 30),
        (24, 48),
        (48, 60),
    ]
    assert [each.after for each in order] == [
        *(None, "s-trunk-8", "s-trunk-8", "s-trunk-24", "s-trunk-24", "s-trunk-48"),
    ]
    assert sum(each.flops for each in order) == 6 * 100 * 10 * (48 + 2 + 6 + 12)


@pytest.fixture
def refusal(family, capsys):
    """Runs a family that is refused before anything is trained; gives the lines."""

    def run(*options: str, **changes) -> str:
        assert family(*options, **changes) == 2
        assert not Path("family").exists()
        printed = capsys.readouterr()
        return "\n".join(line for line in printed.err.splitlines() if line.startswith("trivium: "))

    return run


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sizes": {}}, "sizes is no mapping of names"),
        ({"sizes": {"a": 3}}, "sizes is no mapping of names"),
        ({"budgets": []}, "budgets is no list"),
        ({"budgets": [-1]}, "budgets: -1 is -1: give a number above 0"),
        ({"learning_rate": 1e-3}, "learning_rate: give peak, width and power"),
        ({"learning_rate": {"peak": 1, "width": 0, "power": 0}}, "learning_rate.width is 0"),
        ({"learning_rate": {"peak": 1, "width": 1, "power": "x"}}, "learning_rate.power is 'x'"),
        ({"decay_share": 1}, "decay_share is 1: give a share of each run between 0 and 1"),
        ({"warmup": 3}, "there is no field warmup: take it out"),
        ({"warmup_steps": 500}, "within the 500 of warm-up"),
        ({"stage": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_a_family_that_cannot_be_is_refused(changes, told, refusal):
    assert told in refusal(**changes)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--size=d33", "--budget=4e8"], "--size: there is no d33: did you mean `d32`?"),
        (["--size=d32", "--budget=2e9"], "--budget is 2e9: choose from 4e8, 6e8"),
        (["--size=d32"], "--size and --budget name one point together"),
        (["--quick"], "give either a YAML or --quick"),
    ],
)
def test_options_that_cannot_be_are_refused(options, told, refusal):
    assert told in refusal(*options)


def test_the_quick_family_wants_the_quickstarts_corpus(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["scaling", "run", "--quick", "--plan"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "runs/quickstart/tokenizer is not there: run `trivium quickstart`, which makes it" in line


def test_the_quick_family_has_four_sizes_and_three_budgets():
    family = read_family(QUICK)
    assert len(family.sizes) == 4
    assert family.budgets == (1e13, 3e13, 6e13)
    assert family.stage == CONFIGS / "pretrain.yaml"


def test_a_sweep_trains_the_points_of_the_quick_family():
    sweep = yaml.safe_load((CONFIGS / "sweeps" / "scaling.yaml").read_text())
    family = read_family(QUICK)
    assert sweep["method"] == "grid"
    assert sweep["metric"] == {"name": "val/loss", "goal": "minimize"}
    assert sweep["parameters"]["size"]["values"] == list(family.sizes)
    assert sweep["parameters"]["budget"]["values"] == list(family.budgets)  # numbers, for YAML too
    assert sweep["command"] == ["${env}", "${program}", "scaling", "run", "--quick", "${args}"]
