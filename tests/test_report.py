"""The quickstart's report: one file, nothing from outside, no foreign markup; it says what is missing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.html.charts import number, spread, visible
from experiments.quickstart.page import duration, finite, pivot, running_mean, verdict, write_report

STAGES = ("pretrain", "sft", "reward", "ppo")
ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
Curves = dict[str, dict[str, list[tuple[int, float]]]]


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(attribute)) is not None]


def whole_report() -> dict[str, Any]:
    metrics: dict[str, dict[str, float]] = {
        "pretrain": {"unigram/english": 6.5, "val/loss/english": 4.5, "improvement/english": 2.0},
        "sft": {"sft/loss_before/sums/zh": 2.4, "sft/loss_after/sums/zh": 1.1, "sft/eos_share": 0.98},
        "reward": {"reward/accuracy": 0.73, "reward/accuracy_stderr": 0.01, "vader/accuracy": 0.68},
        "ppo": {"judge/before": 0.11, "judge/after": 0.54, "judge/stderr": 0.03, "ppo/kl_per_sequence": 7.4},
    }
    bar = {
        "stage": "ppo",
        "name": "KL",
        "value": 7.4,
        "bar": 15.0,
        "at_least": False,
        "unit": "nats",
        "note": "",
    }
    return {
        "stages": {
            name: {"seconds": 60.0, "tokens": 1000, "metrics": metrics[name], "export": f"{name}/export"}
            for name in STAGES
        },
        "mixture": {"english": {"weight": 0.4, "realised": 0.4003, "tokens": 1000, "epochs": 0.5}},
        "judge": {"before": 0.11, "after": 0.54, "stderr": 0.03, "kl": 7.4},
        "versions": {"torch": "2.13.0"},
        "bars": [
            bar,
            {**bar, "name": "too far", "value": 16.0},
            {**bar, "name": "lost", "value": float("nan")},
        ],
        "samples": [
            {"stage": name, "prompt": "给我写", "before": "", "after": "很好 good", "note": "a note"}
            for name in STAGES
        ],
        "licences": {"reviews": "MIT"},
        "minutes": 10,
        "total_seconds": 552.0,
        "command": "trivium quickstart --minutes 10",
    }


def whole_curves() -> Curves:
    falling = [(step, 8 - step / 100) for step in range(1, 101)]
    return {
        "pretrain": {
            "train/loss": falling,
            "val/loss/english": [(50, 5.0), (100, 4.5)],
            "val/loss/maths": [(50, 5.0), (100, 4.5)],
            "data/share/english": [(50, 0.4), (100, 0.4)],
        },
        "sft": {"train/loss": falling},
        "reward": {"train/loss": falling, "reward/accuracy": [(100, 0.7)]},
        "ppo": {"ppo/score": falling, "ppo/kl_per_sequence": falling},
    }


def written(folder: Path, report: dict[str, Any], curves: Curves) -> Page:
    write_report(report, curves, folder)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_report_json_comes_back_as_it_was_given(tmp_path: Path) -> None:
    report = whole_report()
    write_report(report, whole_curves(), tmp_path)
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found["bars"][2].pop("value") is None
    assert np.isnan(report["bars"][2].pop("value"))
    assert found == report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_nan_and_infinity_become_null_and_a_dash(tmp_path: Path) -> None:
    report, curves = whole_report(), whole_curves()
    report["stages"]["sft"]["metrics"] = {"sft/loss_before/sums": float("inf"), "sft/loss_after/sums": 1.0}
    report["stages"]["ppo"]["metrics"]["judge/before"] = float("nan")
    curves["sft"]["train/loss"] = [(1, float("nan")), (2, float("inf")), (3, 2.5)]
    curves["ppo"]["ppo/score"] = [(1, float("nan"))]
    page = written(tmp_path, report, curves)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["stages"]["ppo"]["metrics"]["judge/before"] is None
    assert "–" in page.text
    assert not re.search(r"\b(nan|inf|None)\b", page.text)


@pytest.mark.parametrize("key", ["prompt", "before", "after", "note"])
def test_markup_in_model_text_is_shown_and_never_run(tmp_path: Path, key: str) -> None:
    report = whole_report()
    report["samples"] = [{**report["samples"][1], key: ATTACK}]
    page = written(tmp_path, report, whole_curves())
    assert ATTACK in page.text
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.tags)


def test_markup_in_names_is_shown_and_never_run(tmp_path: Path) -> None:
    report, curves = whole_report(), whole_curves()
    report["mixture"] = {ATTACK: report["mixture"]["english"]}
    report["stages"]["pretrain"]["metrics"] = {f"unigram/{ATTACK}": 6.0, f"val/loss/{ATTACK}": 4.0}
    curves["pretrain"] |= {f"val/loss/{ATTACK}": [(1, 5.0), (2, 4.0)], "val/loss/$x_1$ #000005": [(1, 2.0)]}
    page = written(tmp_path, report, curves)
    assert page.text.count(ATTACK) == 2  # in the tables of losses and of sources
    assert page.text.count(ATTACK[:19] + "…") >= 3  # in charts
    assert any(ATTACK in label for label in page.values("aria-label"))
    assert "$x_1$ #000005" in page.text
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_control_characters_are_made_visible(tmp_path: Path) -> None:
    report = whole_report()
    report["samples"][1]["after"] = "\x1b[31mred\x00\x07\r\n\tcode \u202eback \ud800 é 很 👩‍👧"
    written(tmp_path, report, whole_curves())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert r"\u001b[31mred\u0000\u0007" in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", page)
    assert visible("a\n\tb é 很 👩‍👧") == "a\n\tb é 很 👩‍👧"
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found["samples"][1]["after"] == report["samples"][1]["after"]


def test_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    page = written(tmp_path, whole_report(), whole_curves())
    links = [
        link
        for name in ("src", "href", "xlink:href", "srcset", "action", "data")
        for link in page.values(name)
    ]
    assert links, "the charts' own references"
    assert all(link.startswith("#") for link in links)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "@import" not in source
    assert not re.search(r"url\((?!#)", source)
    assert not re.search(r"https?://", source)
    assert "default-src 'none'" in page.values("content")[-1]


def test_inlined_charts_do_not_share_ids_and_point_to_their_own(tmp_path: Path) -> None:
    page = written(tmp_path, whole_report(), whole_curves())
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    used = [link[1:] for link in page.values("href")]
    used += [path[5:-1] for path in page.values("clip-path")]
    assert set(used) <= set(ids)


def test_every_chart_says_in_words_what_it_shows(tmp_path: Path) -> None:
    page = written(tmp_path, whole_report(), whole_curves())
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) == 13
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert charts[0]["aria-label"] == "Training loss, nats per token: from 7.99 to 7"
    assert {chart["viewbox"].split()[2] for chart in charts if chart["viewbox"]} == {"360"}


def test_charts_take_their_colours_from_the_page(tmp_path: Path) -> None:
    write_report(whole_report(), whole_curves(), tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    style, body = source.split("</style>")
    used = set(re.findall(r"var\(--([\w-]+)\)", body))
    assert {"ink", "muted", "rule", "series-1", "series-2"} <= used
    assert all(style.count(f"--{name}:") == 2 for name in used), "one colour for light, one for dark"
    assert not re.search(r"#[0-9a-f]{6}\b", body)


def test_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_report(whole_report(), whole_curves(), tmp_path / name)
    one, two = ((tmp_path / name / "report.html").read_text() for name in ("one", "two"))
    assert one.replace(str(tmp_path / "one"), "") == two.replace(str(tmp_path / "two"), "")


def test_bars_say_in_words_whether_they_were_met(tmp_path: Path) -> None:
    page = written(tmp_path, whole_report(), whole_curves())
    text = " ".join(page.text.split())
    assert "It met 1 of the 3 bars set for it, and missed 1. Not measured: 1." in text
    assert "KL nats 7.4 ≤ 15 ✓ met" in text
    assert "too far nats 16 ≤ 15 ✗ missed" in text
    assert "lost nats – ≤ 15 not measured" in text


def test_bar_of_the_whole_run_is_not_left_out(tmp_path: Path) -> None:
    report = whole_report()
    report["bars"].append({**report["bars"][0], "stage": "The whole run", "name": "minutes"})
    assert "The whole run minutes nats 7.4" in " ".join(written(tmp_path, report, {}).text.split())


def test_partial_run_says_what_has_not_run_yet(tmp_path: Path) -> None:
    report = whole_report()
    partial = {"stages": {"pretrain": report["stages"]["pretrain"]}}
    page = written(tmp_path, partial, {name: whole_curves()[name] for name in ("pretrain", "sft")})
    text = " ".join(page.text.split())
    assert "So far, 1 of 4 stages" in text
    assert "Still to come: Supervised fine-tuning, Reward model, PPO." in text
    assert text.count("Not finished yet.") == 1  # SFT has a curve
    assert text.count("Not run yet.") == 2
    assert f"trivium chat {tmp_path}/pretrain/export" in text
    assert "sft/export" not in text


def test_report_of_nothing_renders(tmp_path: Path) -> None:
    page = written(tmp_path, {"stages": {}}, {})
    assert page.text.count("Not run yet.") == 4
    assert "svg" not in [tag for tag, _ in page.tags]


def test_numbers_are_written_for_people() -> None:
    values = (None, 0.72914, -1.5, 1638400.0, 15)
    assert [number(value) for value in values] == ["–", "0.7291", "−1.5", "1,638,400", "15"]
    assert [number(value, 2) for value in (1.1, 1234.5, None)] == ["1.10", "1,234", "–"]
    assert [duration(value) for value in (9.6, 552, 3900)] == ["10 s", "9 min 12 s", "65 min 0 s"]
    assert finite({"a": (1, float("nan"))}) == {"a": [1, None]}
    bar = {"value": 4.0, "bar": 4.0, "at_least": True}
    assert [verdict(bar), verdict({**bar, "value": 3.9}), verdict({**bar, "value": None})] == [
        "met",
        "missed",
        "not measured",
    ]
    assert pivot({"a/x/en": 1.0, "b/x/en": 2.0, "b/y": 3.0}, ["a/", "b/"]) == {
        "x/en": [1.0, 2.0],
        "y": [None, 3.0],
    }


def test_running_mean_keeps_short_curves_and_levels_long_ones() -> None:
    assert running_mean([1.0, 5.0, 3.0]).tolist() == [1.0, 5.0, 3.0]
    level = running_mean([0.0, 2.0] * 50)  # eleven points, five on each side
    assert level[50] == pytest.approx(12 / 11)
    assert level[0] == pytest.approx(1.0)


def test_labels_keep_their_order_and_their_distance() -> None:
    assert spread([5.0, 1.0], 2.0) == [5.0, 1.0]
    assert spread([1.0, 1.0, 9.0], 3.0) == pytest.approx([0.0, 3.0, 8.0])
