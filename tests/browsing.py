"""What tests ask of a page in a real browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from experiments.docs import browsing
from experiments.docs.browsing import served

__all__ = ["chromium", "findings", "new_page", "served"]

PATIENCE = 60_000  # ms for what takes fifty on a machine with nothing else to do


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; a test makes its pages with `new_page`."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    with browsing.chromium() as browser:
        yield browser


def new_page(browser: Any, **options: Any) -> Any:
    """A page of its own, with playwright's `options`."""
    page = browser.new_page(**options)
    page.set_default_timeout(PATIENCE)
    return page


def findings(page: Any) -> list[str]:
    """What axe finds serious or critical on a page as it stands."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        f"{finding['id']}: {node['html'][:160]}"
        for finding in Axe().run(page).response["violations"]
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]
