"""The station on a real port, with real clients, hostile and slow ones among them."""

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
from pydantic import ValidationError

from agent.core.bundle.manifest import Manifest
from agent.ops.metrics import Metrics
from agent.station.board import Board
from agent.station.health import Health
from agent.station.server import Station, StationSettings

Build = Callable[..., Station]


async def _get(station: Station, path: str, **headers: str) -> tuple[int, aiohttp.typedefs.LooseHeaders, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{station.port}{path}", headers=headers, allow_redirects=False) as response,
    ):
        return response.status, response.headers, await response.read()


async def test_page_and_static_files_with_their_policy(station: Station) -> None:
    for path, kind in {
        "/": "text/html",
        "/static/station.js": "text/javascript",
        "/static/strip.js": "text/javascript",
        "/static/station.css": "text/css",
        "/static/icon.svg": "image/svg+xml",
    }.items():
        status, headers, body = await _get(station, path)
        assert status == 200
        assert headers["Content-Type"].startswith(kind)
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in body
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers
    page = (await _get(station, "/"))[2]
    assert b"<script>" not in page
    assert b"style=" not in page
    assert b"Advisory only. Not a medical device. Never the primary alarm." in page


@pytest.mark.parametrize("path", ["/static/../server.py", "/static/%2e%2e/server.py", "/static/", "/etc/passwd"])
async def test_no_other_files(station: Station, path: str) -> None:
    status, headers, _ = await _get(station, path)
    assert status == 404
    assert "Content-Security-Policy" in headers


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/api/state", "/ws"])
async def test_foreign_hosts_and_origins_are_refused(station: Station, path: str) -> None:
    assert (await _get(station, path, Host="evil.example"))[0] == 421
    assert (await _get(station, path, Host="evil.example:8080"))[0] == 421
    assert (await _get(station, path, Host="127.0.0.1.evil.example"))[0] == 421
    assert (await _get(station, path, Origin="https://evil.example"))[0] == 403
    assert (await _get(station, path, Origin="null"))[0] == 403


async def test_named_hosts_are_welcome(build: Build) -> None:
    async with build(allowed_hosts=("Ward.Hospital.example",)) as station:
        for host in ("ward.hospital.example", "localhost:1", "[::1]:8080", "127.0.0.1"):
            assert (await _get(station, "/healthz", Host=host))[0] == 503


def test_an_open_port_must_be_meant() -> None:
    with pytest.raises(ValidationError, match="allow_remote"):
        StationSettings(host="0.0.0.0")
    assert StationSettings(host="0.0.0.0", allow_remote=True).host == "0.0.0.0"
    assert StationSettings(host="::1").port == 8080
    with pytest.raises(ValidationError):
        StationSettings.model_validate({"prot": 1})


async def test_a_taken_port_is_an_error_and_leaves_nothing_behind(build: Build, station: Station) -> None:
    with pytest.raises(OSError, match="in use"):
        async with build(port=station.port):
            pass
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "station viewer"]


async def test_health(station: Station, metrics: Metrics) -> None:
    status, _, body = await _get(station, "/healthz")
    assert (status, json.loads(body)["status"]) == (503, "unhealthy")
    station.check("engine", Health.OK)
    assert (await _get(station, "/healthz"))[0] == 200
    assert b"deepecg_healthy 1.0" in (await _get(station, "/metrics"))[2]
    station.check("hl7 sink", Health.DEGRADED, "The receiver does not answer.")
    status, _, body = await _get(station, "/healthz")
    assert (status, json.loads(body)) == (
        200,
        {"status": "degraded", "reasons": {"hl7 sink": "The receiver does not answer."}},
    )
    station.check("outbox", Health.UNHEALTHY, "The disk is full.")
    assert (await _get(station, "/healthz"))[0] == 503
    status, headers, body = await _get(station, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"deepecg_healthy 0.0" in body


async def test_state(station: Station, make: SimpleNamespace) -> None:
    now = time.monotonic()
    for k in range(10):
        station.samples(make.samples(start=1000.0 + k, received=now), "mqtt")
    station.prediction(make.prediction("st/icu/1", [0.1, 0.97, 0.2, 0.3], now))
    station.alert(make.alert())
    state = json.loads((await _get(station, "/api/state"))[2])
    assert state["model"] == "deepecg-sl-test/1.0"
    assert state["alerting"] == ["Atrial fibrillation"]
    assert state["advisory"].startswith("Advisory only.")
    (bed,) = state["beds"]
    assert bed["alerts"][0]["label"] == "Afib"
    assert bed["findings"][0]["text"] == "Atrial fibrillation"


async def _ask(station: Station, path: str, **headers: str) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{station.port}{path}", headers=headers) as response,
    ):
        assert "Content-Security-Policy" in response.headers
        assert "Access-Control-Allow-Origin" not in response.headers
        return response.status


ASK = {"X-DeepECG-Request": "1"}


async def test_a_further_model_can_be_asked_to_look_again(
    build: Build, further: Manifest, make: SimpleNamespace
) -> None:
    async with build(further) as station:
        station.samples(make.samples(received=time.monotonic()), "mqtt")
        path = "/api/beds/st/icu/1/request/lvef"
        assert await _ask(station, path, **ASK) == 202
        assert await _ask(station, "/api/beds/st%2Ficu%2F1/request/lvef", **ASK) == 202
        assert station.take_requests() == [("st/icu/1", "lvef")]
        assert station.take_requests() == []
        state = json.loads((await _get(station, "/api/state"))[2])
        assert state["beds"][0]["models"][0]["requested"] is True
        for wrong in ("/api/beds/st/icu/2/request/lvef", "/api/beds/st/icu/1/request/ssl", "/api/beds//request/lvef"):
            assert await _ask(station, wrong, **ASK) == 404
        assert (await _get(station, path))[0] == 405
        assert station.take_requests() == []


async def test_another_site_cannot_ask(build: Build, further: Manifest, make: SimpleNamespace) -> None:
    """A form or a link of another site sends no header of ours, and a script is stopped by its browser."""
    async with build(further) as station:
        station.samples(make.samples(received=time.monotonic()), "mqtt")
        path = "/api/beds/st/icu/1/request/lvef"
        assert await _ask(station, path) == 403
        assert await _ask(station, path, Origin="https://evil.example", **ASK) == 403
        assert await _ask(station, path, Origin="null", **ASK) == 403
        assert await _ask(station, path, Host="evil.example", **ASK) == 421
        async with (
            aiohttp.ClientSession() as session,
            session.options(
                f"http://127.0.0.1:{station.port}{path}",
                headers={
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "x-deepecg-request",
                },
            ) as preflight,
        ):
            assert preflight.status == 405
            assert not [name for name in preflight.headers if name.startswith("Access-Control")]
        assert station.take_requests() == []


async def test_the_state_of_the_engines_is_told(station: Station) -> None:
    states = [
        {"model": "deepecg-sl-test", "engine": "openvino-bf16", "note": "no GPU", "problem": "", "shadow": ""},
        {"model": "lvef", "engine": "", "note": "", "problem": "it is damaged", "shadow": ""},
    ]
    state = json.loads((await _get(station, "/api/state"))[2])
    assert (state["engine"], state["engines"]) == ("openvino-f32", [])
    station.engines(states)
    state = json.loads((await _get(station, "/api/state"))[2])
    assert state["engine"] == "openvino-bf16"
    assert state["engines"] == [one | {"trial": ""} for one in states]
    station.trial("lvef", "tensorrt-bf16 was rejected.")
    state = json.loads((await _get(station, "/api/state"))[2])
    assert [one["trial"] for one in state["engines"]] == ["", "tensorrt-bf16 was rejected."]


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


async def test_leaving_closes_viewers_in_good_time(build: Build) -> None:
    async with aiohttp.ClientSession() as session:
        async with build() as station:
            ws = await session.ws_connect(f"http://127.0.0.1:{station.port}/ws")
            await _next(ws, "hello")
            began = time.monotonic()
        assert time.monotonic() - began < 3.0
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
    status, _, body = await _get(station, "/healthz")
    assert (status, json.loads(body)["status"]) == (200, "degraded")
    assert "page" in json.loads(body)["reasons"]


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
    """One viewer reads slowly or not at all; another sees everything; the line's calls stay in the microseconds."""
    calls: list[float] = []
    blocks = [[make.samples(f"a/b/{bed}", seconds=10.0, start=10.0 * k) for bed in range(40)] for k in range(8)]
    with await _open_raw(station.port) as slow:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{station.port}/ws") as ws:
            await _next(ws, "hello")
            received = k = 0
            end = time.monotonic() + 30.0
            while time.monotonic() < end and not _dropped(metrics):
                for block in blocks[k % len(blocks)]:
                    begin = time.perf_counter()
                    station.samples(block, "mqtt")
                    calls.append(time.perf_counter() - begin)
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
    calls.sort()
    assert calls[len(calls) // 2] < 100e-6, "typically 3 microseconds; a page that waits would take milliseconds"


def _dropped(metrics: Metrics) -> float:
    return next(s.value for f in metrics.frames_dropped.collect() for s in f.samples if s.name.endswith("_total"))
