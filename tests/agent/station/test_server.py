"""The station on a real port, with real clients, hostile and slow ones among them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from types import SimpleNamespace

import aiohttp
import pytest

from agent.core.bundle.manifest import Manifest
from agent.ops.metrics import Metrics
from agent.station.health import Health
from agent.station.server import Station

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
