"""The page's viewers on a real port: one that reads, one that is slow, one that is stuck, and what they are told."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from agent.ops.metrics import Metrics
from agent.station.board import Board
from agent.station.health import Health
from agent.station.server import Station

Build = Callable[..., Station]


async def _next(ws: aiohttp.ClientWebSocketResponse, kind: str) -> Any:
    async with asyncio.timeout(5.0):
        while True:
            message = await ws.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                if kind == "binary":
                    return message.data
            elif message.type is aiohttp.WSMsgType.TEXT:
                if json.loads(message.data)["type"] == kind:
                    return json.loads(message.data)
            elif kind == "close":
                return message
            else:
                raise AssertionError(message)


async def test_a_viewer_gets_a_snapshot_then_what_changes(station: Station, make: SimpleNamespace) -> None:
    for k in range(5):
        station.samples(make.samples(start=1000.0 + k, received=time.monotonic()), "mqtt")
    async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{station.port}/ws") as ws:
        hello = await _next(ws, "hello")
        assert [bed["bed"] for bed in hello["beds"]] == ["st/icu/1"]
        history = await _next(ws, "binary")
        assert struct.unpack_from("<4sI", history) == (b"ECG1", 1)
        assert len(history) == 8 + 24 + 2 * 1250
        station.samples(make.samples(start=1005.0, received=time.monotonic()), "mqtt")
        more = await _next(ws, "binary")
        assert struct.unpack_from("<IIIfd", more, 8) == (0, 1, 250, 250.0, 1250.0)
        station.alert(make.alert())
        assert (await _next(ws, "beds"))["beds"][0]["alerts"][0]["priority"] == "PM"
        beat = await _next(ws, "beat")
        assert beat["ages"]["st/icu/1"] < 5
        station.samples(make.samples("st/icu/2"), "hl7")
        assert (await _next(ws, "roster"))["beds"] == ["st/icu/1", "st/icu/2"]
        station.forget("st/icu/2")
        assert (await _next(ws, "roster"))["beds"] == ["st/icu/1"]


async def test_viewers_are_counted_and_talk_is_limited(build: Build) -> None:
    async with build(max_viewers=1) as station, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{station.port}/ws"
        async with session.ws_connect(url) as ws:
            await _next(ws, "hello")
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(url)
            assert refused.value.status == 503
            await ws.send_str("x" * 100_000)
            assert (await _next(ws, "close")).data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        await asyncio.sleep(0.3)
        async with session.ws_connect(url) as ws:
            await _next(ws, "hello")


async def test_leaving_closes_viewers_and_does_not_wait_for_them(build: Build) -> None:
    async with aiohttp.ClientSession() as session:
        station = build()
        await station.__aenter__()
        ws = await session.ws_connect(f"http://127.0.0.1:{station.port}/ws")
        await _next(ws, "hello")
        async with asyncio.timeout(60.0):  # no measure: a close that waits for the viewer hangs for ever
            await station.__aexit__(None, None, None)
        assert (await _next(ws, "close")).data == aiohttp.WSCloseCode.GOING_AWAY


async def test_an_error_of_the_page_ends_the_page_and_not_the_line(
    station: Station, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.check("engine", Health.OK)
    async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{station.port}/ws") as ws:
        await _next(ws, "beat")
        monkeypatch.setattr(Board, "tick", _broken)
        await _next(ws, "close")
    station.samples(make.samples(), "mqtt")
    health, reasons = station.health()
    assert health is Health.DEGRADED
    assert "page" in reasons


def _broken(board: Board, now: float) -> None:
    raise ArithmeticError(f"{board} at {now}: an error that nobody thought of")


async def _open_raw(port: int) -> socket.socket:
    """A websocket of which nobody reads but the test."""
    loop = asyncio.get_running_loop()
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await loop.sock_connect(raw, ("127.0.0.1", port))
    handshake = (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await loop.sock_sendall(raw, handshake.encode())
    return raw


@pytest.mark.parametrize("reads", [True, False], ids=["slow", "stuck"])
async def test_a_slow_viewer_loses_frames_and_the_line_does_not_wait(
    station: Station, make: SimpleNamespace, metrics: Metrics, reads: bool
) -> None:
    """One viewer reads slowly or not at all; another sees everything, and the line's calls return."""
    blocks = [[make.samples(f"a/b/{bed}", seconds=10.0, start=10.0 * k) for bed in range(40)] for k in range(8)]
    with await _open_raw(station.port) as slow:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{station.port}/ws") as ws:
            await _next(ws, "hello")
            received = k = 0
            end = time.monotonic() + 30.0
            while time.monotonic() < end and not _dropped(metrics):
                for block in blocks[k % len(blocks)]:
                    station.samples(block, "mqtt")
                k += 1
                await _next(ws, "binary")
                received += 1
                if reads:
                    await asyncio.get_running_loop().sock_recv(slow, 65536)
                await asyncio.sleep(0.05)
            assert _dropped(metrics) > 0
            assert received >= 0.9 * k
            station.alert(make.alert("a/b/0"))
            tiles = (await _next(ws, "beds"))["beds"]
            while not any(tile["alerts"] for tile in tiles):
                tiles = (await _next(ws, "beds"))["beds"]


def _dropped(metrics: Metrics) -> float:
    return next(s.value for f in metrics.frames_dropped.collect() for s in f.samples if s.name.endswith("_total"))
