"""A picture of the live page, taken by a real browser: Debian's chromium, driven by playwright."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent.core.errors import DeepECGError

if TYPE_CHECKING:
    from playwright.async_api import Browser

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_FILLED = """() => {
  const tiles = [...document.querySelectorAll(".tile")];
  const shows = (selector) => tiles.filter((tile) => tile.querySelector(selector)).length;
  return tiles.length > 0 && 2 * Math.min(shows(".findings .bar"), shows(".rate[data-measured=yes]")) > tiles.length;
}"""


class ScreenshotError(DeepECGError):
    """No picture could be taken; one sentence with the remedy."""


@contextlib.asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """A headless chromium with an empty profile, which looks up nothing but what it is told to.

    Raises:
        ScreenshotError: chromium or playwright is not installed.
    """
    try:
        from playwright.async_api import async_playwright
    except ImportError as error:
        raise ScreenshotError("playwright is not installed; pip install playwright") from error
    binary = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if binary is None:
        raise ScreenshotError("no chromium is installed; apt-get install chromium")
    flags = [*_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]  # as root chromium's sandbox refuses to start
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=binary, args=flags)
        try:
            yield browser
        finally:
            await browser.close()


async def screenshot(
    url: str, path: Path, *, width: int = 1600, height: int = 900, patience: float = 60.0, settle: float = 8.0
) -> None:
    """Save the page at ``url`` as a PNG once most of its tiles show findings and a heart rate.

    Args:
        url: of the live page.
        path: of the picture; its folder is made.
        width: of the window, CSS pixels.
        height: of the window, CSS pixels.
        patience: seconds after which the picture is taken as the page is.
        settle: seconds before it for the strips to sweep once over their paper.

    Raises:
        ScreenshotError: there is no browser, or the page cannot be opened.
    """
    async with open_browser() as browser:
        from playwright.async_api import Error

        try:
            page = await browser.new_page(viewport={"width": width, "height": height})
            await page.goto(url)
            # Asked again and again from outside: the page's own policy forbids playwright to wait inside it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    while not await page.evaluate(_FILLED):  # noqa: ASYNC110 (it cannot call us)
                        await asyncio.sleep(0.5)
            await asyncio.sleep(settle)
            path.parent.mkdir(parents=True, exist_ok=True)
            await page.screenshot(path=path)
        except Error as error:
            reason = error.message.splitlines()[0]
            raise ScreenshotError(f"{url} cannot be shown ({reason}); is the agent running?") from error
