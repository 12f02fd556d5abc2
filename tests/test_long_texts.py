"""Pages stay readable whatever people and models write: at a phone's width nothing leaves the screen or
scrolls in a box, and a long text opens whole by a key."""

import json
from pathlib import Path

import pytest

from experiments.data.inspect import main as inspect
from experiments.html.charts import short
from experiments.html.pages import is_long
from experiments.quickstart.page import write_report
from experiments.web.rank.ledger import Ledger
from experiments.web.rank.report_command import main as rank_report
from experiments.web.rank.session import Session
from tests.browsing import chromium, findings
from tests.ranking import item, rank

WORD = "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz" * 3
LONG = ("It begins slowly, and then it rains. " * 100, "从前有座山，" * 200, "a\n" * 40)
LEAVES = """() => [...document.querySelectorAll('body *')].filter(e => !e.closest('svg') && (
  e.getBoundingClientRect().right > innerWidth + 1
  || (getComputedStyle(e).overflowY === 'auto' && e.scrollHeight > e.clientHeight + 1)
)).map(e => e.outerHTML)"""


def quickstart(folder: Path) -> Path:
    texts = [*LONG, WORD]
    samples = [
        {"stage": stage, "prompt": text, "before": WORD, "after": text, "note": WORD}
        for stage, text in zip(("pretrain", "sft", "reward", "ppo"), texts, strict=True)
    ]
    estimates = dict.fromkeys(("pretrained", "tuned", "after PPO"), "0.500 [0.400, 0.600]")
    abilities = [{"task": "sentiment", "words": WORD, "items": 9, "estimates": estimates, "p": 0.1}]
    mixture = {WORD: {"weight": 1.0, "realised": 1.0, "tokens": 12345678, "epochs": 1.0}}
    write_report({"stages": {}, "samples": samples, "abilities": abilities, "mixture": mixture}, {}, folder)
    return folder / "report.html"


def inspected(folder: Path) -> Path:
    rows = [{"text": text, WORD: WORD} for text in LONG]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    inspect([str(folder / "rows.jsonl"), "--output", str(folder / "rows.html")])
    return folder / "rows.html"


def ranked(folder: Path) -> Path:
    texts = tuple(f"reply {letter} {text}" for letter, text in zip("abcd", [*LONG, WORD], strict=True))
    items = [item(0, *texts, models=(WORD, "ppo", "sft", "模型" * 20))]
    people = Session(items, Ledger(folder / "ranks.jsonl"), 2, 0)
    rank(people, WORD[:60], "abcd")
    rank(people, "周" * 30, "dcba")
    rank_report([str(folder / "ranks.jsonl"), "--output", str(folder / "rank.html")])
    return folder / "rank.html"


@pytest.mark.parametrize("page_of", [quickstart, inspected, ranked])
def test_long_texts_fit_a_phone_and_open_whole_by_a_key(page_of, tmp_path, recwarn):
    file = page_of(tmp_path)
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(file.as_uri())
        assert page.evaluate(LEAVES) == []
        text, fold = page.locator(".long > p.text").first, page.locator(".long summary").first
        cut = text.bounding_box()["height"]
        assert fold.inner_text().startswith("Show all, ")
        fold.press("Enter")
        assert text.bounding_box()["height"] > cut + 50
        assert text.evaluate("e => e.scrollHeight <= e.clientHeight + 1")
        assert fold.inner_text() == "Show less"
        assert findings(page) == []


def test_only_what_fills_many_lines_is_folded():
    assert all(map(is_long, LONG))
    assert not any(map(is_long, ("", "short", WORD, "a\n" * 16, "x" * 960, "中" * 480)))
    assert is_long("x" * 961)
    assert is_long("中" * 481)


def test_a_wide_name_in_a_chart_is_cut_by_its_width():
    names = {"中" * 10: "中" * 10, "中" * 11: "中" * 9 + "…", "a" * 21: "a" * 19 + "…"}
    assert [short(name) for name in names] == list(names.values())
