"""A sweep's picture hides nothing: no label outside it or over another, no legend over a line, no run that
flies off and leaves the others a line."""

from itertools import combinations, product
from pathlib import Path
from random import Random
from typing import Any

import pytest

from experiments.html import pictures
from experiments.sweep.figures import scale_of, window
from experiments.sweep.outcome import SweepResult, result_of
from experiments.sweep.picture import draw, figure_of
from experiments.sweep.spec import spec_of
from experiments.sweep.study import Configuration, Run

RATES = {"values": [0.001, 0.002, 0.004, 0.008]}
LONG = "model.init_args.a_parameter_with_a_name_of_more_than_forty_characters"
UNEVEN = {"values": [0, 20, 50, 100, 200, 400]}
TEXTS = {"values": ["relu", "gelu", "an-activation-with-a-name-of-forty-characters", "tanh", "swiglu", "x"]}
NUMBER = {"min": 0.0, "max": 1.0}
SWEEPS: dict[str, dict[str, Any]] = {
    "grid": {"lr": RATES, "warmup": UNEVEN},
    "texts": {"lr": RATES, "act": TEXTS},
    "long": {LONG: TEXTS, f"{LONG}_too": {"values": ["/data/" + "deep/" * 9, "/data/" + "down/" * 9]}},
    "one value": {"lr": {"value": 0.001}},
    "many": {f"parameter_{n}": NUMBER for n in range(9)},
    "magnitudes": {"lr": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-1}},
    "narrow": {"lr": {"distribution": "log_uniform_values", "min": 3e-4, "max": 4e-4}},
    "scripts": {"lr": RATES, "language": {"values": ["简体中文", "繁體中文（台灣）", "العربية"]}},
    "large": {"tokens": {"values": [10**6, 10**7, 16 * 10**6]}, "on": {"values": [True, False]}},
}


def swept(parameters: dict[str, Any], folder: Path, losses=None, **more: Any) -> SweepResult:
    """A sweep of a few runs, each with a curve; its loss in the end is 2.0, 2.1, … if not given."""
    document = {"program": "x", "method": "random", "metric": {"name": "val/loss"}, "parameters": parameters}
    spec = spec_of({**document, **more}, "toy.yaml", "a sweep with a name that is as long as names may be")
    rng = Random(0)
    listed = [each.choices or [rng.uniform(1e-6, 1e-1) for _ in range(6)] for each in spec.parameters]
    every = list(product(*listed)) if len(listed) < 3 else list(zip(*listed, strict=True))
    configurations = []
    for number, values in enumerate(every):
        loss = 2 + 0.1 * number if losses is None else losses[number % len(losses)]
        run = Run(f"{number:04d}", number, None, "stopped" if number % 5 == 4 else "ended", loss, seconds=1)
        (folder / "runs" / run.name).mkdir(parents=True)
        rows = "".join(f"{step},{loss + 1 / step}\n" for step in range(1, 5))
        (folder / "runs" / run.name / "metrics.csv").write_text(f"step,val/loss\n{rows}")
        named = dict(zip([each.name for each in spec.parameters], values, strict=True))
        configurations.append(Configuration(number, {}, named, (run,)))
    return result_of(spec, folder, configurations)


def inside(tick: Any, limits: tuple[float, float]) -> bool:
    return limits[0] <= tick.get_loc() <= limits[1]


def boxes(artists: Any) -> list[Any]:
    return [artist.get_window_extent() for artist in artists if artist.get_visible() and artist.get_text()]


@pytest.mark.parametrize("name", SWEEPS)
def test_no_label_is_cut_or_covered(name, tmp_path):
    figure = figure_of(swept(SWEEPS[name], tmp_path))
    figure.draw_without_rendering()
    sheet, texts = figure.bbox, [figure._suptitle]  # it has no public name
    for axes in figure.axes:
        ticks = [tick.label1 for tick in axes.xaxis.get_major_ticks() if inside(tick, axes.get_xlim())]
        texts += [axes.title, axes.xaxis.label, *ticks]
        texts += [tick.label1 for tick in axes.yaxis.get_major_ticks() if inside(tick, axes.get_ylim())]
        if not any(tick.get_rotation() for tick in ticks):
            assert not [1 for a, b in combinations(boxes(ticks), 2) if a.overlaps(b)], name
        if legend := axes.get_legend():
            texts += [legend.get_title(), *legend.get_texts()]
            assert not legend.get_window_extent().overlaps(axes.bbox.padded(-2))
    for box in boxes(texts):
        assert sheet.x0 <= box.x0 < box.x1 <= sheet.x1
        assert sheet.y0 <= box.y0 < box.y1 <= sheet.y1
    titles = boxes(axes.title for axes in figure.axes)
    assert not [1 for a, b in combinations(titles, 2) if a.overlaps(b)]


def test_one_run_has_a_picture_and_none_with_a_metric_has_none(tmp_path):
    result = swept({"lr": {"value": 0.001}}, tmp_path)
    assert draw(result, tmp_path / "one.png")
    assert draw(result_of(result.spec, tmp_path, []), tmp_path / "none.png") is False
    assert not (tmp_path / "none.png").exists()


def test_runs_that_fly_off_are_at_the_edge_and_the_others_can_be_told_apart(tmp_path):
    figure = figure_of(swept({"lr": NUMBER}, tmp_path, losses=[2.0, 2.1, 2.2, 1e9]))
    for axes in figure.axes:
        assert axes.get_ylim()[1] < 4
    assert [line.get_marker() for line in figure.axes[1].lines].count("^") == 1


def test_what_is_shown_is_all_but_what_is_far_from_all():
    assert window([[3.0, 2.0], [3.1, 2.1], [2.9, 2.2]]) == (2.0, 3.1)
    assert window([[3.0, 2.0], [3.1, 2.1], [2.9, 2.2], [3.0, 900.0]]) == (2.0, 3.1)
    assert window([[0.1], [0.2], [0.3], [-800.0]]) == (0.1, 0.3)
    assert window([[2.0], [2.0], [2.0], [5.0]]) == (2.0, 5.0)  # no two of three differ: nothing to go by
    assert window([[2.0]]) == (2.0, 2.0)


def test_an_axis_is_logarithmic_where_its_distribution_is(tmp_path):
    uniform, log, listed = (
        spec_of({"program": "x", "method": "random", "parameters": {"x": given}}, "f", "n").parameters[0]
        for given in (NUMBER, {"distribution": "log_normal", "mu": 0.0, "sigma": 1.0}, RATES)
    )
    assert (uniform.is_logarithmic, log.is_logarithmic, listed.is_logarithmic) == (False, True, None)
    values = [0.001, 0.5, 1.0]
    assert scale_of(values, uniform.is_logarithmic).place(0.5) == pytest.approx(0.4995, abs=1e-3)
    assert scale_of(values, log.is_logarithmic).place(0.001**0.5) == pytest.approx(0.5)
    assert scale_of([0.001, 0.002, 0.004], listed.is_logarithmic).is_logarithmic


def test_a_result_as_text_is_no_second_table_in_a_notebook(tmp_path, monkeypatch):
    result = swept({"lr": RATES}, tmp_path)
    text = repr(result)
    assert "best" in text
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)  # where rich displays what it prints
    assert repr(result) == text


@pytest.fixture
def only_matplotlibs_fonts(monkeypatch):
    """A machine that has no fonts of its own."""
    shipped = [each for each in pictures.fontManager.ttflist if "mpl-data" in each.fname]
    monkeypatch.setattr(pictures.fontManager, "ttflist", shipped)
    monkeypatch.setattr(pictures, "findSystemFonts", list)
    for cached in (pictures._fonts, pictures._family):
        cached.cache_clear()
    yield
    for cached in (pictures._fonts, pictures._family):
        cached.cache_clear()


@pytest.mark.usefixtures("only_matplotlibs_fonts")
def test_letters_come_from_any_font_that_has_them_or_as_their_numbers_and_never_as_boxes(tmp_path, recwarn):
    assert (
        pictures.legible("lr ⓐ, 大\n") == "lr ⓐ, \\u5927\n"
    )  # matplotlib brings a font with ⓐ, none with 大
    assert pictures.families(["lr"]) == ["DejaVu Sans"]
    assert len(pictures.families(["ⓐ"])) == 2
    values = {"values": ["ⓐ", "大", "小"]}
    assert draw(swept({"act": values, "lr": RATES}, tmp_path, name="大"), tmp_path / "sweep.png")
    assert [str(each.message) for each in recwarn if "Glyph" in str(each.message)] == []
