"""A page as a person sees it: an application behind a real server, and the system's Chromium."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from experiments.web.access import Access
from experiments.web.server import config, listen

PATIENCE = 60  # seconds for the start and the end of a server


@contextmanager
def served(app: Any, access: Access = Access(port=0)) -> Iterator[str]:  # noqa: B008
    """Runs an application in a thread; gives its address without the slash at the end."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            ready.set()

    ready, taken = threading.Event(), listen(access)
    server = Server(config(app))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([taken])), daemon=True)
    thread.start()
    assert ready.wait(PATIENCE), "the server has not started"
    try:
        yield f"http://{access.host}:{taken.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        taken.close()


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser, which makes pages by `browser.new_page(…)`; it needs playwright."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
