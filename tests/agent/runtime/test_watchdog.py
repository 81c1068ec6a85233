"""Once a second: health, readiness and the watchdog, against the engine's real progress."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from agent.core.alerting.models import ModelsAlerting
from agent.core.census import Census
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.windower import Windower
from agent.engines.bundles.bundle import default_bundle, open_bundle
from agent.engines.select import open_backend
from agent.engines.serving.batcher import Batcher
from agent.engines.serving.model import Model
from agent.engines.serving.settings import ServingSettings
from agent.engines.settings import EngineSettings
from agent.ops.metrics import Metrics
from agent.ops.systemd import SystemdNotifier
from agent.runtime import watchdog as module
from agent.runtime.pipeline import Line
from agent.runtime.watchdog import watch
from agent.sinks.outbox import Outbox
from agent.station.health import Health
from agent.station.server import Station, StationInfo
from agent.station.settings import StationSettings


async def _said(manager: socket.socket, seconds: float) -> list[str]:
    said: list[str] = []
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            while True:
                said.append((await loop.sock_recv(manager, 4096)).decode())
    except TimeoutError:
        return said


async def test_the_watchdog_is_fed_while_the_engine_lives_and_starves_when_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TICK", 0.05)
    monkeypatch.setattr(module, "_STALLED", 2.0)
    address = tmp_path / "notify"
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(address))
    manager.setblocking(False)
    bundle, metrics = open_bundle(default_bundle()), Metrics()
    settings = EngineSettings()
    async with AsyncExitStack() as stack:
        stack.callback(manager.close)
        outbox = await stack.enter_async_context(Outbox(tmp_path / "outbox.sqlite", ()))
        batcher = Batcher(
            [Model(bundle.manifest, partial(open_backend, bundle, settings))], settings, ServingSettings(), metrics
        )
        await stack.enter_async_context(batcher)
        info = StationInfo(bundle.manifest, "0", batcher.engine)
        station = await stack.enter_async_context(Station(StationSettings(port=0), metrics, info))
        alerting = ModelsAlerting([bundle.manifest])
        line = Line(Census(), Windower(WindowingSettings()), alerting, batcher, outbox, metrics, station)
        notifier = stack.enter_context(SystemdNotifier(str(address)))
        task = asyncio.create_task(watch(line, station, [], [], notifier))
        stack.callback(task.cancel)
        said = await _said(manager, 2.5)
        assert said.count("READY=1") == 1
        assert said.count("WATCHDOG=1") > 5
        assert station.health()[0] is Health.OK
        monkeypatch.setattr(Batcher, "progress", property(lambda _: 7))  # the engine thread stands still
        await _said(manager, 3.0)
        assert "WATCHDOG=1" not in await _said(manager, 0.5)
        health, reasons = station.health()
        assert health is Health.UNHEALTHY
        assert "engine" in reasons
