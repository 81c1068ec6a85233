"""The line looked at once a second: its silence, its health for ``/healthz``, and the service manager's watchdog."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict

import structlog

from agent.ops.systemd import SystemdNotifier
from agent.runtime.pipeline import Line
from agent.sinks.hl7 import Hl7Sink
from agent.sinks.mqtt import MqttSink
from agent.sources.hl7.server import HL7Source
from agent.sources.mqtt import MqttSource
from agent.station.health import Health
from agent.station.server import Station

log = structlog.get_logger()

_TICK = 1.0
_STALLED = 10.0
"""Seconds without progress of the engine thread after which the agent is unhealthy and the watchdog starves."""


async def watch(
    line: Line,
    station: Station,
    sources: Sequence[MqttSource | HL7Source],
    sinks: Sequence[MqttSink | Hl7Sink],
    systemd: SystemdNotifier,
) -> None:
    """Every second: silence, health, and the service manager's watchdog, fed only while the engine goes on."""
    progress, seen, ready = -1, time.monotonic(), False
    subscriptions = [source.subscribed for source in sources if isinstance(source, MqttSource)]
    while True:
        await line.tick()
        now = time.monotonic()
        if line.batcher.progress != progress:
            progress, seen = line.batcher.progress, now
        alive = now - seen < _STALLED
        station.check("engine", Health.OK if alive else Health.UNHEALTHY, "The engine makes no progress.", _STALLED)
        states = line.batcher.states()
        station.engines([asdict(state) for state in states])
        for state in states[1:]:  # what is wrong with the first ends the process
            station.check(f"models.{state.model}", Health.DEGRADED if state.problem else Health.OK, state.problem)
        problem = line.outbox.problem
        station.check("outbox", Health.UNHEALTHY if problem else Health.OK, problem or "")
        subscribed = all(event.is_set() for event in subscriptions)
        if subscriptions:
            reason = "No subscription at the MQTT broker."
            station.check("sources.mqtt", Health.OK if subscribed else Health.UNHEALTHY, reason)
        for sink in sinks:
            if isinstance(sink, Hl7Sink):
                station.check("sinks.hl7", Health.DEGRADED if sink.problem else Health.OK, sink.problem or "")
            else:
                reason = "The alerts' MQTT broker is away."
                station.check("sinks.mqtt", Health.OK if sink.connected.is_set() else Health.DEGRADED, reason)
        if subscribed and not ready:
            ready = True
            systemd.ready()
            log.info("agent_ready")
        if alive:
            systemd.watchdog()
        systemd.status(f"{len(line.windower.beds)} beds, {len(line.alerting.open_alerts())} open advisories")
        await asyncio.sleep(_TICK)
