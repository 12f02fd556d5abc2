"""Draws the pictures of the pages on which people chat and rank, in a real browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.docs.browsing import chromium, served
from experiments.web.access import Access
from experiments.web.hosted import check, load
from experiments.web.rank.app import rank_app
from experiments.web.rank.ledger import Ledger
from experiments.web.rank.prompts import read_replies
from experiments.web.rank.session import Session
from experiments.web.serve import application, parser

QUESTION = "Write a movie review in one sentence."


def serve_page(run: Path, file: Path) -> Path:
    """A question to the SFT and PPO models of a quickstart, side by side."""
    given = [f"{run}/{stage}/export" for stage in ("sft", "ppo", "reward")]
    hosted, access = load(*check(given, given[0]), given[0]), Access(port=0)
    options = parser().parse_args([*given, "--max-new-tokens", "40"])
    with served(application(hosted, access, options)) as url, _page(1000) as page:
        page.goto(url)
        page.select_option("#model-1", "ppo")
        page.click("#settings summary")
        page.fill("#temperature", "0.7")
        page.fill("#seed", "1")
        page.select_option("#colour", "logprob")
        page.click("#settings summary")
        page.fill("#message", QUESTION)
        page.press("#message", "Enter")
        for place in range(2):
            page.locator(".scores").nth(place).wait_for()
        page.locator(".reply [data-part=tokens] summary").nth(1).click()
        page.locator("tbody tr").first.wait_for()
        _take(page, file)
    return file


def rank_page(replies: Path, file: Path) -> Path:
    """The first prompt of the replies that `trivium rank` has sampled, three of them ranked, two tied."""
    with TemporaryDirectory() as scratch:
        answers = Ledger(Path(scratch, "ranks.jsonl"))
        people = Session(read_replies(str(replies)), answers, 1, 0)
        with served(rank_app(people, Access(port=0))) as url, _page(700) as page:
            page.goto(url)
            page.fill("#person", "Ann")
            page.keyboard.press("Enter")
            page.wait_for_selector("#work .card")
            for key in "314=":
                page.keyboard.press(key)
            _take(page, file)
        answers.close()
    return file


def rank_report(html: Path, file: Path) -> Path:
    """The page of `trivium rank report`."""
    with _page(640) as page:
        page.goto(html.resolve().as_uri())
        _take(page, file)
    return file


@contextmanager
def _page(height: int) -> Iterator[Any]:
    with chromium() as browser:
        page = browser.new_page(locale="en-GB", viewport={"width": 900, "height": height})
        page.set_default_timeout(120_000)
        yield page


def _take(page: Any, file: Path) -> None:
    # the button to the other language has a Chinese name, for which not every machine has a font
    for button in page.locator("#language").all():
        button.evaluate("node => node.remove()")
    page.screenshot(path=str(file))
