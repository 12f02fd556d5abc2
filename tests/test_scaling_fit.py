"""Fits of scaling laws: constants that are known are found again, what cannot be fitted is refused."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.cli.program import main
from experiments.plan.scaling import FITS, Fit, loss, optimum
from experiments.scaling.fit import Fitted, draw
from experiments.scaling.isoflop import exponent, parabolas
from experiments.scaling.law import bootstrap, fit_law, objective
from experiments.scaling.points import Points

EPOCH = FITS["epoch"]  # Besiroglu et al. 2024, as published
BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21)  # Chinchilla's (Hoffmann et al. 2022, §3.2)


def grid(fit: Fit = EPOCH, budgets=BUDGETS, sizes: int = 12) -> Points:
    """Runs of a law without noise: at each budget, sizes from a quarter of the best one to four times it."""
    runs = [(c, optimum(fit, c).parameters * f) for c in budgets for f in np.geomspace(0.25, 4, sizes)]
    flops, parameters = np.array(runs).T
    tokens = flops / 6 / parameters
    losses = np.array([loss(fit, n, d) for n, d in zip(parameters, tokens, strict=True)])
    return Points(parameters, tokens, losses, flops)


def write(file: Path, points: Points, **columns) -> str:
    named = {"parameters": points.parameters, "tokens": points.tokens, "loss": points.loss, **columns}
    with open(file, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(named)
        writer.writerows(zip(*(map(repr, map(float, column)) for column in named.values()), strict=True))
    return str(file)


@pytest.fixture(scope="module")
def noisy():
    """The published law's runs on Chinchilla's grid with 0.1 % of noise and seven runs that went wrong."""
    points, rng = grid(), np.random.default_rng(0)
    losses = points.loss * np.exp(rng.normal(0, 1e-3, len(points.loss)))
    losses[rng.choice(len(losses), 7, replace=False)] *= 1.2
    points = points._replace(loss=losses)
    law = fit_law(points)
    return points, law, bootstrap(points, law, 40)


def test_the_objective_is_hubers_and_its_gradient_is_that_of_small_steps():
    """By hand: log L predicted is log(1 + 2/4 + 3/9) = log(11/6); the first run's is 0.0005 off, the second's
    0.1: Σ = ½·0.0005² + 0.001·(0.1 − 0.0005)."""
    x = np.array([np.log(2), np.log(3), 0.0, 0.5, 1.0])
    log_n, log_d = np.log([16.0, 16.0]), np.log([9.0, 9.0])
    log_loss = np.log(11 / 6) - np.array([0.0005, 0.1])
    value, gradient = objective(x, log_n, log_d, log_loss)
    assert value == pytest.approx(0.5 * 0.0005**2 + 0.001 * (0.1 - 0.0005), rel=1e-9)
    for place in range(5):
        step = np.zeros(5)
        step[place] = 1e-6
        up, down = (objective(x + sign * step, log_n, log_d, log_loss)[0] for sign in (1, -1))
        assert gradient[place] == pytest.approx((up - down) / 2e-6, rel=1e-5)  # central differences, to h²


def test_a_law_without_noise_is_found_again_exactly():
    """The objective is flat to 1e-12 along the ridge of A and α, B and β, hence not the last digits."""
    found = fit_law(grid(sizes=6))
    for name, tolerance in {"E": 1e-4, "alpha": 1e-3, "beta": 1e-3}.items():
        assert getattr(found.fit, name) == pytest.approx(getattr(EPOCH, name), abs=tolerance)
    assert found.objective < 1e-9


def test_the_published_law_is_found_through_noise_and_outliers(noisy):
    """Within three of its own standard errors, and closer than those of the 240 published points, whose noise
    is larger (0.0257, 0.0154, 0.0206)."""
    _, law, spread = noisy
    for name, published in {"E": 0.0257, "alpha": 0.0154, "beta": 0.0206}.items():
        off = abs(getattr(law.fit, name) - getattr(EPOCH, name))
        assert off < 3 * spread.stderr[name]
        assert off < published
        assert 0 < spread.stderr[name] < published
        low, high = spread.interval[name]
        assert low < getattr(law.fit, name) < high
    assert spread.at_edge == 0


def test_runs_that_went_wrong_do_not_move_the_law(noisy):
    """What Huber's loss is for: by squares, the mean of the residuals would be 0 and their median below."""
    points, law, _ = noisy
    predicted = np.log([loss(law.fit, n, d) for n, d in zip(points.parameters, points.tokens, strict=True)])
    residuals = np.log(points.loss) - predicted
    assert abs(np.median(residuals)) < 2e-4  # of noise of 1e-3 over 101 runs, 1.25 / √101 · 1e-3 = 1.2e-4
    assert residuals.mean() > 5e-3  # 7 of 108 runs are 18 % up in log L: 0.0118


def test_the_optimum_for_a_budget_is_that_of_the_law(noisy):
    _, law, _ = noisy
    assert optimum(law.fit, 5.76e23).tokens_per_parameter == pytest.approx(18.3, rel=0.2)  # published: 18.3


def test_parabolas_find_the_best_size_of_each_budget():
    """A law's curve is no parabola, but near its lowest point it is: within 5 % in size on half to double."""
    points = grid(budgets=(1e19, 1e20, 1e21))
    middle = np.array(
        [
            0.5 < n / optimum(EPOCH, c).parameters < 2
            for n, c in zip(points.parameters, points.flops, strict=True)
        ]
    )
    curves = parabolas(points.kept(middle))
    assert [curve.flops for curve in curves] == pytest.approx([1e19, 1e20, 1e21])
    for curve in curves:
        best = optimum(EPOCH, curve.flops)
        assert curve.parameters == pytest.approx(best.parameters, rel=0.05)
        assert curve.tokens == pytest.approx(best.tokens, rel=0.05)
        assert curve.loss(curve.parameters) == pytest.approx(best.loss, abs=2e-3)
    assert exponent(curves) == pytest.approx(EPOCH.beta / (EPOCH.alpha + EPOCH.beta), abs=0.01)


def test_a_parabola_through_three_points_by_hand():
    """Losses 3, 2, 3 at log N = 10, 11, 12: lowest at 11, where it is 2."""
    parameters = np.exp([10.0, 11, 12])
    flops = np.full(3, 1e15)
    points = Points(parameters, flops / 6 / parameters, np.array([3.0, 2, 3]), flops)
    (curve,) = parabolas(points)
    assert curve.parameters == pytest.approx(np.exp(11), rel=1e-6)
    assert curve.loss(curve.parameters) == pytest.approx(2)
    (falling,) = parabolas(points._replace(loss=np.array([3.0, 2, 1.5])))
    assert falling.parameters is None  # its lowest point is beyond the sizes


def test_the_command_writes_what_a_plan_reads(tmp_path, capsys):
    points = grid(sizes=4, budgets=BUDGETS[::2])
    smaller = points.parameters * 0.9
    file = write(tmp_path / "runs.csv", points, parameters_without_embeddings=smaller, flops=points.flops)
    assert main(["scaling", "fit", file, "--resamples", "5", "--flops", "1e22", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed)[:7] == ["E", "A", "B", "alpha", "beta", "objective", "stderr"]
    assert set(printed["stderr"]) == {"E", "A", "B", "alpha", "beta"}
    assert printed == json.loads((tmp_path / "scaling.json").read_text())
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    # N' = 0.9 N: the same curve with A' = A · 0.9^α
    assert printed["without_embeddings"]["alpha"] == pytest.approx(printed["alpha"], abs=2e-3)
    assert printed["uses"]["20x"]["parameters"] == pytest.approx((1e22 / 120) ** 0.5)
    assert printed["uses"]["1.7x"]["tokens_per_parameter"] == pytest.approx(1.7)
    assert printed["uses"]["own"]["loss"] <= min(printed["uses"][rule]["loss"] for rule in ("1.7x", "20x"))

    own = str(tmp_path / "scaling.json")
    assert main(["plan", "--compute", "1e22", "--fit", own, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["optimum"]["own"] == pytest.approx(printed["uses"]["own"])
    assert main(["plan", "--compute", "1e22", "--fit", own]) == 0
    lines = capsys.readouterr().out
    assert "20x, by own fit" in lines
    assert main(["plan", "--parameters", "1e9", "--fit", own, "--json"]) == 0
    tokens = json.loads(capsys.readouterr().out)["tokens"]
    assert set(tokens) == {"1.7x", "20x", "own"}
    # (βB·N^α/αA)^(1/β) of the published constants: (762.96 · 1349.9 / 167.65)^(1/0.36585) = 2.265e10
    assert tokens["own"] == pytest.approx(2.265e10, rel=0.02)


def test_the_largest_run_is_predicted_from_the_others(tmp_path, capsys):
    points = grid(sizes=4, budgets=BUDGETS[::2])
    largest = points.flops == points.flops.max()
    points.loss[largest] += 0.1  # which the smaller runs cannot know
    file = write(tmp_path / "runs.csv", points)
    assert main(["scaling", "predict", file, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fitted_points"] == 16
    assert len(told["runs"]) == 4
    assert told["largest"]["parameters"] == points.parameters.max()
    assert told["largest"]["error"] == pytest.approx(-0.1, abs=1e-3)
    assert main(["scaling", "predict", file]) == 0
    assert "an error of -0.100" in capsys.readouterr().out

    (tmp_path / "own.json").write_text(json.dumps(EPOCH._asdict()))
    assert main(["scaling", "predict", file, "--fit", str(tmp_path / "own.json"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["runs"]) == 20
    assert [run["error"] for run in told["runs"][4:]] == pytest.approx([0] * 16, abs=1e-9)


def test_without_matplotlib_there_is_no_picture_and_a_line_says_why(noisy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "experiments.scaling.picture", raising=False)
    told = draw(Fitted(*noisy, parabolas(noisy[0])), tmp_path / "scaling.png")
    assert told == "; the picture needs matplotlib: pip install 'trivium[abilities]'"
    assert not (tmp_path / "scaling.png").exists()


@pytest.fixture
def refusal(tmp_path, capsys):
    """Runs a command that is refused, with nothing written; gives its line."""

    def run(*line: str) -> str:
        before = sorted(tmp_path.iterdir())
        assert main([*line]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert sorted(tmp_path.iterdir()) == before
        (told,) = [text for text in printed.err.splitlines() if text.startswith("trivium: ")]
        return told

    return run


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("parameters,tokens\n1,2\n", "no column loss; it has parameters, tokens"),
        ("", "no column parameters, tokens, loss; it has none"),
        ("parameters,tokens,loss\n1,2,3\n1,,3\n", "line 3: tokens is missing"),
        ("parameters,tokens,loss\n1,2\n", "line 2: loss is missing"),
        ("parameters,tokens,loss\n1,2,-3\n", "line 2: loss is -3: give a number above 0"),
        ("parameters,tokens,loss\n1,0,3\n", "line 2: tokens is 0: give a number above 0"),
        ("parameters,tokens,loss\n1,2,nan\n", "line 2: loss is nan"),
        ("parameters,tokens,loss\nmany,2,3\n", "line 2: parameters is many"),
        ("parameters,tokens,loss,flops\n1,2,3,inf\n", "line 2: flops is inf"),
        ("parameters,tokens,loss\n" + "1,2,3\n" * 5, "5 points, but a fit of five constants needs 6 or more"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "predict"])
def test_a_file_that_holds_no_points_is_refused(command, text, told, refusal, tmp_path):
    file = tmp_path / "points.csv"
    file.write_text(text)
    line = refusal("scaling", command, str(file))
    assert str(file) in line
    assert told in line


def test_a_file_that_is_not_there_is_refused(refusal, tmp_path):
    assert "No such file" in refusal("scaling", "fit", str(tmp_path / "nowhere.csv"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    assert "no CSV in UTF-8" in refusal("scaling", "fit", str(tmp_path / "binary.csv"))


@pytest.mark.parametrize("line", ["one size", "one length", "20 tokens a parameter", "one budget"])
def test_runs_along_a_line_do_not_determine_a_law(line, refusal, tmp_path):
    """Without noise a fit of 20 tokens a parameter would be perfect, and its β 0.81 instead of 0.37."""
    many = np.geomspace(1e8, 1e10, 8)
    parameters, tokens = {
        "one size": (np.full(8, 1e8), 20 * many),
        "one length": (many, np.full(8, 1e10)),
        "20 tokens a parameter": (many, 20 * many),
        "one budget": (many, 1e20 / 6 / many),
    }[line]
    points = Points(parameters, tokens, EPOCH.E + EPOCH.A / parameters**0.35 + EPOCH.B / tokens**0.37, tokens)
    told = refusal("scaling", "fit", write(tmp_path / "line.csv", points))
    assert "8 points of " in told
    assert "lie on a line, as where all have the same tokens a parameter or one budget" in told


def test_two_lengths_do_not_determine_a_law(refusal, tmp_path):
    """Three unknowns, E, B and β, of two lengths: other constants fit as well."""
    parameters, tokens = np.tile(np.geomspace(1e8, 1e10, 5), 2), np.repeat([1e9, 1e10], 5)
    points = Points(parameters, tokens, EPOCH.E + EPOCH.A / parameters**0.35 + EPOCH.B / tokens**0.37, tokens)
    told = refusal("scaling", "fit", write(tmp_path / "two.csv", points))
    assert "10 points of 5 sizes and 2 numbers of tokens do not" in told


def test_an_optimum_at_the_edge_is_refused(refusal, tmp_path):
    """Losses that fall by a power of the tokens alone, without an irreducible part: E goes to 0."""
    points = grid(sizes=4, budgets=BUDGETS[::2])
    points = points._replace(loss=400 / points.parameters**0.35 + 2000 / points.tokens**0.36)
    line = refusal("scaling", "fit", write(tmp_path / "edge.csv", points))
    assert "at the edge of what is searched (" in line
    assert "E = 0.00" in line


def test_too_few_smaller_runs_to_predict_from_are_refused(refusal, tmp_path):
    points = grid(sizes=5, budgets=(1e19, 1e20))
    line = refusal("scaling", "predict", write(tmp_path / "two.csv", points))
    assert "without the 5 runs of the largest budget 5 are left" in line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "No such file"),
        ("E = 1", "is no JSON"),
        ("[]", "E is None"),
        ('{"E": 1, "A": 1, "B": 1, "alpha": 0.3, "beta": -1}', "beta is -1, no number above 0"),
    ],
)
def test_a_plan_refuses_a_file_that_holds_no_fit(text, told, refusal, tmp_path):
    file = tmp_path / "fit.json"
    if text is not None:
        file.write_text(text)
    line = refusal("plan", "--compute", "1e20", "--fit", str(file))
    assert told in line
    assert line.endswith("give the scaling.json that `trivium scaling fit` wrote")


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--resamples", "1", "--resamples is '1': give a number of 2 or more"),
        ("--flops", "-1", "--flops is '-1': give a number above 0"),
        ("--output", "points.csv", "is a file: name a folder"),
    ],
)
def test_an_option_that_cannot_be_is_refused(option, value, told, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "points.csv", grid(sizes=3))
    assert told in refusal("scaling", "fit", "points.csv", f"{option}={value}")
