"""A real browser for tests: the system's Chromium where there is one, else Playwright's own."""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import uvicorn
from axe_playwright_python.async_playwright import Axe
from fastapi import FastAPI
from playwright.async_api import Browser, Page, async_playwright

from services.demo.servers import LocalServer

INSTALLED: Final = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
ARGUMENTS: Final = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")
PHONE: Final = {"width": 320, "height": 640}
DESK: Final = {"width": 1280, "height": 900}


class Chromium(LocalServer):
    """A headless browser that talks to nobody but the pages under test, driven by Playwright's own server."""

    NAME = "Chromium"
    STOP = "SIGTERM"

    @property
    def address(self) -> str:
        """For Playwright's `connect`."""
        return f"ws://127.0.0.1:{self.port}/chromium"

    def _launch(self) -> None:
        wanted = {"host": "127.0.0.1", "port": self.port, "wsPath": "/chromium", "args": ARGUMENTS}
        if installed := next((path for path in INSTALLED if Path(path).exists()), None):
            wanted["executablePath"] = installed
        configuration = self.folder / "launch.json"
        configuration.write_text(json.dumps(wanted), encoding="utf-8")
        command = [sys.executable, "-m", "playwright", "launch-server", "--browser", "chromium"]
        self._keep([*command, "--config", str(configuration)], cwd=self.folder)

    async def _answers(self) -> bool:
        _, probe = await asyncio.open_connection("127.0.0.1", self.port)
        probe.close()
        return True


@contextlib.asynccontextmanager
async def chromium(server: Chromium) -> AsyncIterator[Browser]:
    """The browser as one test sees it: what the test opened is closed at its end."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect(server.address)
        try:
            yield browser
        finally:
            await browser.close()


_SMALL: Final = """least => [...document.querySelectorAll(
    'button, a, summary, label.chip, label.pick, input[type=text], input[type=email], select')]
  .filter(e => e.checkVisibility() && !e.closest('p') && !e.matches('.skip'))
  .filter(e => e.getBoundingClientRect().height < least - 0.5)
  .map(e => e.outerHTML.slice(0, 80))"""


@contextlib.asynccontextmanager
async def served(app: FastAPI, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """The app on a free port of this machine; gives its base URL."""
    bound = socket.create_server((host, 0))
    bound.setblocking(False)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    running = asyncio.create_task(server.serve([bound]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield f"http://{host}:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


async def axe_faults(page: Page, tags: Sequence[str] = ("wcag2a", "wcag2aa", "wcag21aa", "wcag22aa")) -> list[str]:
    """What axe-core finds against WCAG, as `rule: element`."""
    found: Any = await Axe().run(page, options={"runOnly": {"type": "tag", "values": [*tags, "best-practice"]}})
    return [f"{fault['id']}: {node['html'][:100]}" for fault in found.response["violations"] for node in fault["nodes"]]


async def too_wide(page: Page) -> int:
    """By how many pixels the page is wider than its window; 0 where nothing scrolls sideways."""
    return int(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


async def small_targets(page: Page, least: int = 48) -> list[str]:
    """Buttons, fields and links outside running text that are lower than `least` pixels."""
    return list(await page.evaluate(_SMALL, least))
