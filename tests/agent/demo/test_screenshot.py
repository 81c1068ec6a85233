"""The picture for the README, taken of a page that a small server of the test's own serves."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from agent.demo.screenshot import ScreenshotError, screenshot


@pytest.fixture(autouse=True)
def _chromium(tool: Callable[[str], str]) -> None:
    tool("chromium")


async def test_a_picture_of_the_wanted_size(free_port: int, tmp_path: Path) -> None:
    app = web.Application()

    async def index(_: web.Request) -> web.Response:
        tile = (
            '<p class="tile"><b class="findings"><i class="bar">x</i></b><b class="rate" data-measured="yes">60</b></p>'
        )
        return web.Response(text=tile, content_type="text/html")

    app.router.add_get("/", index)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", free_port).start()
    path = tmp_path / "docs" / "page.png"
    try:
        await screenshot(f"http://127.0.0.1:{free_port}/", path, width=640, height=360, settle=0.1)
    finally:
        await runner.cleanup()
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == (640, 360)


async def test_no_agent_is_one_clear_sentence(free_port: int, tmp_path: Path) -> None:
    with pytest.raises(ScreenshotError, match="is the agent running"):
        await screenshot(f"http://127.0.0.1:{free_port}/", tmp_path / "page.png", patience=0.5, settle=0.1)
