"""The page in a real browser against a real station."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio

from agent.core.bundle.manifest import Manifest
from agent.core.ecg import Gap, GapReason, Priority
from agent.demo.screenshot import open_browser
from agent.station.health import Health
from agent.station.server import Station

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one browser for all: it takes seconds to start

BEAT = np.exp(-0.5 * ((np.arange(250) / 250.0 - 0.3) / 0.012) ** 2).astype(np.float32)
COLOURS = {
    Priority.HIGH: ("rgb(216, 18, 31)", "***"),
    Priority.MEDIUM: ("rgb(255, 217, 26)", "**"),
    Priority.LOW: ("rgb(55, 219, 238)", "*"),
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser(tool: Callable[[str], str]) -> AsyncIterator[Browser]:
    tool("chromium")
    async with open_browser() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def station(build: Callable[..., Station]) -> AsyncIterator[Station]:
    async with build() as station:
        yield station


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page whose every complaint fails the test: errors, refused resources, violations of the policy."""
    complaints: list[str] = []
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    page = await context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None
    )
    page.on("request", lambda request: complaints.append(request.url) if "127.0.0.1" not in request.url else None)
    yield page
    await context.close()
    lost = "WebSocket connection to"  # what chromium says when the agent is away, which one test provokes
    assert [text for text in complaints if lost not in text] == []


@pytest_asyncio.fixture(loop_scope="module")
async def ward(station: Station, make: SimpleNamespace) -> AsyncIterator[Station]:
    """Two beds in real time: bed 1 with 60 beats a minute, bed 2 the generator's."""

    async def play() -> None:
        for k in range(-6, 600):
            for bed in ("st/icu/1", "st/icu/2"):
                station.samples(
                    make.samples(bed, start=1000.0 + k, received=time.monotonic(), value=BEAT),
                    "mqtt" if "1" in bed else "hl7",
                )
            if k % 5 == 0:
                station.prediction(make.prediction("st/icu/1", [0.05, 0.97, 0.2, 0.99], time.monotonic()))
            if k >= 0:
                await asyncio.sleep(1.0)

    station.check("engine", Health.OK)
    player = asyncio.create_task(play())
    yield station
    player.cancel()


async def _open(page: Page, station: Station) -> None:
    await page.goto(f"http://127.0.0.1:{station.port}/")
    await page.wait_for_selector(".tile")


async def test_tiles_strip_rate_findings_and_banner(ward: Station, page: Page) -> None:
    await _open(page, ward)
    assert (
        await page.locator("#advisory").inner_text() == "Advisory only. Not a medical device. Never the primary alarm."
    )
    assert await page.locator("#advisory").is_visible()
    assert await page.locator(".tile h2").all_inner_texts() == ["1", "2"]
    tile = page.locator(".tile").first
    await tile.locator(".rate strong", has_text="60").wait_for(timeout=15_000)
    findings = await tile.locator(".findings .text").all_inner_texts()
    assert findings == ["Atrial fibrillation", "Right bundle branch block", "Sinus rhythm"]
    assert await tile.locator(".findings .percent").first.inner_text() == "97 %"
    assert (await tile.locator(".leads li[data-from=measured]").all_inner_texts()) == ["I", "II"]
    assert await tile.locator(".lead").inner_text() == "II"
    assert await tile.locator(".transport").inner_text() == "MQTT"
    assert "deepecg-sl-test/1.0" in await page.locator("#model").inner_text()
    assert await page.locator("#health").inner_text() == "agent connected"
    assert await page.locator("#lost").is_hidden()
    assert (await tile.get_attribute("aria-label")) == "Bed 1, heart rate 60"


async def test_the_strip_moves(ward: Station, page: Page) -> None:
    await _open(page, ward)
    await page.wait_for_timeout(1500)
    pictures = []
    for _ in range(4):
        pictures.append(await page.evaluate("document.querySelector('canvas').toDataURL()"))
        await page.wait_for_timeout(300)
    assert len(set(pictures)) == 4


async def test_the_paper_is_true(ward: Station, page: Page) -> None:
    """25 mm/s and 10 mm/mV on the page's own millimetres: a 1 mV beat every second, read off the pixels."""
    await _open(page, ward)
    await page.wait_for_timeout(6000)
    measured = await page.evaluate(
        """() => {
          const canvas = document.querySelector("canvas");
          const { width, height } = canvas;
          const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
          const columns = [];
          let top = height, bottom = 0;
          for (let x = 0; x < width; x++) {
            for (let y = 0; y < height; y++) {
              const i = 4 * (y * width + x);
              if (data[i + 1] > 150 && data[i] < 190) { top = Math.min(top, y); bottom = Math.max(bottom, y); }
            }
          }
          for (let x = 0; x < width; x++) {
            const i = 4 * ((top + 4) * width + x);
            if (data[i + 1] > 120) columns.push(x);
          }
          const grid = Number(/grid at (\\d+) %/.exec(document.getElementById("paper").textContent)?.[1] ?? 100) / 100;
          const gain = parseFloat(document.querySelector(".scale").textContent);
          return { top, bottom, columns, mm: grid * 96 / 25.4, gain };
        }"""
    )
    mm = measured["mm"]
    assert measured["gain"] == 10
    assert (measured["bottom"] - measured["top"]) / mm == pytest.approx(10.0, abs=0.8)
    columns = np.array(measured["columns"])
    peaks = np.array([group.mean() for group in np.split(columns, np.flatnonzero(np.diff(columns) > 5) + 1)])
    spacing = np.diff(peaks) / mm
    assert spacing.size >= 3
    assert np.median(spacing) == pytest.approx(25.0, abs=0.6)


@pytest.mark.parametrize("priority", list(COLOURS))
async def test_an_alert_in_its_colour_and_words(
    ward: Station, page: Page, make: SimpleNamespace, priority: Priority
) -> None:
    await _open(page, ward)
    ward.alert(make.alert("st/icu/2", priority=priority))
    band = page.locator(".tile[aria-label^='Bed 2'] .alert")
    await band.wait_for(state="visible", timeout=3000)
    colour, stars = COLOURS[priority]
    assert await band.evaluate("node => getComputedStyle(node).backgroundColor") == colour
    assert await band.locator(".stars").inner_text() == stars
    assert await band.locator(".what").inner_text() == "Atrial fibrillation"
    assert "✓" not in await band.locator(".more").inner_text()
    assert await page.locator(f".count-alerts[data-priority={priority.value}] dd").inner_text() == "1"
    if priority is not Priority.LOW:
        assert "Bed 2: Atrial fibrillation" in str(await page.locator("#announce").text_content())
    ward.delivered("hl7", "m1")
    await band.locator(".more", has_text="✓").wait_for(timeout=3000)
    await page.locator("label:has(input[value=priority])").click()
    assert await page.locator(".tile h2").all_inner_texts() == ["2", "1"]
    ward.alert(make.alert("st/icu/2", active=False))
    await band.wait_for(state="hidden", timeout=3000)
    assert await page.locator(".tile h2").all_inner_texts() == ["1", "2"]


async def test_a_further_model_s_finding_and_the_button_that_asks_again(
    build: Callable[..., Station], further: Manifest, page: Page, make: SimpleNamespace
) -> None:
    async with build(further) as station:
        station.check("engine", Health.OK)
        station.samples(make.samples("st/icu/1", received=time.monotonic(), value=BEAT), "mqtt")
        await _open(page, station)
        row = page.locator(".models li")
        assert await row.locator(".who").inner_text() == "advisory: lvef"
        assert await row.locator(".text").inner_text() == ""
        assert await row.locator(".when").inner_text() == "not looked yet"
        station.prediction(make.prediction("st/icu/1", [0.83], time.monotonic() - 70, model="lvef/1.0"))
        await row.locator(".percent", has_text="83 %").wait_for(timeout=3000)
        assert await row.locator(".text").inner_text() == "LVEF <= 40"
        assert await row.locator(".percent").inner_text() == "83 % (≥ 80 %)"
        assert await row.locator(".when").inner_text() == "1 min ago"
        assert "advisory" in str(await row.get_attribute("title"))
        assert "over" in str(await row.get_attribute("class"))
        button = row.locator("button")
        await button.click()
        await row.locator(".when", has_text="requested").wait_for(timeout=3000)
        assert await button.is_disabled()
        assert station.take_requests() == [("st/icu/1", "lvef")]
        station.prediction(make.prediction("st/icu/1", [0.12], time.monotonic() + 1, model="lvef/1.0"))
        await row.locator(".percent", has_text="12 %").wait_for(timeout=3000)
        assert await button.is_enabled()
        assert "over" not in str(await row.get_attribute("class"))


async def test_the_engine_that_serves_is_named(ward: Station, page: Page) -> None:
    await _open(page, ward)
    assert await page.locator(".models").first.is_hidden(), "there are no further models"
    assert "openvino-f32" in await page.locator("#model").inner_text()
    note = "Serving on openvino-bf16 because other engines do not fit this machine."
    ward.engines(
        [{"model": "sl", "engine": "openvino-bf16", "note": note, "problem": "", "shadow": "tensorrt-rtx-f16"}]
    )
    ward.trial("sl", "tensorrt-rtx-f16-1-2 is on trial beside it.")
    await page.locator("#model", has_text="openvino-bf16 (fallback)").wait_for(timeout=3000)
    title = str(await page.locator("#model").get_attribute("title"))
    assert "tensorrt-rtx-f16-1-2 is on trial beside it." in title
    assert "tensorrt-rtx-f16 beside it" in await page.locator("#model").inner_text()
    assert note in title


async def test_a_silent_bed_is_greyed_and_a_gap_is_named(
    build: Callable[..., Station], page: Page, make: SimpleNamespace
) -> None:
    async with build(stale_after=1.0, synthetic_beds=("st/icu/1",)) as station:
        for k in range(6):
            station.samples(make.samples(start=1000.0 + k, received=time.monotonic(), value=BEAT), "mqtt")
        station.gap(Gap("st/icu/1", "m1", 0.0, 1.0, GapReason.MISSING))
        await _open(page, station)
        assert await page.locator(".badges .synthetic").inner_text() == "SYNTHETIC"
        assert await page.locator(".note").inner_text() == "samples missing"
        await page.wait_for_selector(".tile[data-stale=yes]", timeout=5000)
        assert (await page.locator(".silent").inner_text()).startswith("No signal for")
        assert await page.locator(".rate strong").inner_text() == "—"
        assert "not measured" in str(await page.locator(".rate").get_attribute("title"))
        station.forget("st/icu/1")
        await page.locator(".tile").wait_for(state="detached", timeout=3000)
        assert await page.locator("#empty").is_visible()


async def test_the_overlay_when_the_agent_dies_and_when_it_comes_back(
    build: Callable[..., Station], page: Page, make: SimpleNamespace
) -> None:
    async with build() as station:
        station.samples(make.samples(received=time.monotonic()), "mqtt")
        await _open(page, station)
        port = station.port
    await page.locator("#lost").wait_for(state="visible", timeout=8000)
    assert "No connection to the agent" in await page.locator("#lost").inner_text()
    box = await page.locator("#lost").bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (1280, 800)
    assert await page.locator("#advisory").is_visible()
    async with build(port=port) as station:
        station.samples(make.samples("st/icu/7", received=time.monotonic()), "mqtt")
        await page.locator("#lost").wait_for(state="hidden", timeout=10_000)
        assert await page.locator(".tile h2").all_inner_texts() == ["7"]


async def test_a_bed_named_like_markup_is_text(station: Station, page: Page, make: SimpleNamespace) -> None:
    station.samples(make.samples("st/icu/<img src=x onerror=alert(1)>", received=time.monotonic()), "mqtt")
    await _open(page, station)
    assert await page.locator(".tile h2").inner_text() == "<img src=x onerror=alert(1)>"
    assert await page.locator(".tile img").count() == 0


@pytest.mark.parametrize("beds", [8, 64])
async def test_a_ward_is_seen_without_scrolling(station: Station, page: Page, make: SimpleNamespace, beds: int) -> None:
    await page.set_viewport_size({"width": 1920, "height": 1080})
    for i in range(beds):
        station.samples(make.samples(f"st/icu/{i + 1}", received=time.monotonic(), value=BEAT), "mqtt")
    await _open(page, station)
    await page.locator(".tile").nth(beds - 1).wait_for(timeout=5000)
    await page.wait_for_timeout(500)
    overflow = await page.evaluate("(g => g.scrollHeight - g.clientHeight)(document.getElementById('ward-grid'))")
    assert overflow <= 1
    assert await page.evaluate("document.documentElement.scrollWidth <= 1920")
    shown = await page.locator(".tile h2").all_inner_texts()
    assert shown == [str(i + 1) for i in range(beds)], "in natural order"
