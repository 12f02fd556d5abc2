"""Draws the picture of `serve.md` in a real browser: `python -m experiments.web.serve_picture RUN [FOLDER]`.

RUN is a finished quickstart's folder; it needs Chromium and playwright.
"""

import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from experiments.web.access import Access
from experiments.web.hosted import check, load
from experiments.web.serve import application, parser
from experiments.web.server import config, listen

DOCS = Path(__file__).parent.parent / "docs"
QUESTION = "Write a movie review in one sentence."


def main(run: str, folder: str) -> Path:
    """Writes `serve.png`; returns its file."""
    import uvicorn

    given = [f"{run}/{stage}/export" for stage in ("sft", "ppo", "reward")]
    hosted = load(*check(given, given[0]), given[0])
    access = Access(port=0)
    options = parser().parse_args([*given, "--max-new-tokens", "40"])
    with listen(access) as taken:
        server = uvicorn.Server(config(application(hosted, access, options)))
        thread = threading.Thread(target=server.run, args=([taken],), daemon=True)
        thread.start()
        file = Path(folder, "serve.png")
        picture(access.url(taken.getsockname()[1]), file)
        server.should_exit = True
        thread.join()
    return file


def picture(url: str, file: Path) -> None:
    """Asks on the page, and takes its picture."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(locale="en-GB", viewport={"width": 900, "height": 1000})
        page.set_default_timeout(120_000)
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
        # its name is Chinese, for which not every machine has a font
        page.locator("#language").evaluate("node => node.remove()")
        page.screenshot(path=str(file))
        browser.close()


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else str(DOCS)))
