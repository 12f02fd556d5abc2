"""A real server on a free port, and a real browser: the system's Chromium."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from experiments.web.access import Access
from experiments.web.server import config, listen


@contextmanager
def served(app: Any, access: Access = Access(port=0)) -> Iterator[str]:  # noqa: B008
    """Runs an application in a thread; gives its address without the slash at the end."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            ready.set()

    ready, taken = threading.Event(), listen(access)
    server = Server(config(app))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([taken])), daemon=True)
    thread.start()
    assert ready.wait(60), "the server has not started"
    try:
        yield f"http://{access.host}:{taken.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        taken.close()


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; a test makes its pages with `browser.new_page(…)`."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # ms for what takes fifty on a machine with nothing else to do
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def findings(page: Any) -> list[str]:
    """What axe finds serious or critical on a page as it stands."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        f"{finding['id']}: {node['html'][:160]}"
        for finding in Axe().run(page).response["violations"]
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]
