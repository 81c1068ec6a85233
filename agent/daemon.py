"""Composition root: the only file that builds objects, queues and tasks.

Start-up is written top to bottom inside one ``AsyncExitStack`` and one ``TaskGroup``; shutdown is its reverse, done by
the language. A task that fails ends the process, and the service manager starts a new one: nothing limps on.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import structlog

from agent import __version__
from agent.config import AgentSettings, Config
from agent.core.alerting import Alerting
from agent.core.ecg import Event
from agent.core.windowing import Windower
from agent.engines.backend import EngineError, open_backend
from agent.engines.batcher import Batcher
from agent.engines.bundle import Bundle, default_bundle, open_bundle
from agent.line import Line
from agent.metrics import Metrics, totals
from agent.sinks.hl7 import Hl7Sink
from agent.sinks.mqtt import MqttSink
from agent.sinks.outbox import Outbox, OutboxError
from agent.sources.hl7 import HL7Source
from agent.sources.mqtt import MqttSource
from agent.sources.replay import ReplaySource
from agent.station.health import Health
from agent.station.server import Station, StationInfo
from agent.systemd_notify import SystemdNotifier

log = structlog.get_logger()

_QUEUE = 512
"""Events between the sources and the line: a second of a large ward. Full, it holds the senders back."""
_TICK = 1.0


class StartError(Exception):
    """The agent cannot start; one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What stands once the agent has started."""

    line: Line
    bundle: Bundle
    queue: asyncio.Queue[Event]


def configure_logging(settings: AgentSettings) -> None:
    """One JSON object a line on stderr, or lines for a person."""
    renderer: Any = (
        structlog.processors.JSONRenderer() if settings.log_format == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


async def run_until_signal(config: Config) -> None:
    """The agent as a service: until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(config, stop)


async def run(config: Config, stop: asyncio.Event) -> None:
    """Run the agent until ``stop`` is set.

    Raises:
        BundleError, StartError: it cannot start.
        ExceptionGroup: a part of it failed beyond repair.
    """
    metrics = Metrics()
    sinks = tuple(name for name in ("hl7", "mqtt") if getattr(config.sinks, name) is not None)
    async with AsyncExitStack() as stack:
        systemd = stack.enter_context(SystemdNotifier())
        info = StationInfo(open_bundle(config.engine.bundle or default_bundle()).manifest, __version__)
        station = await _enter_station(stack, config, metrics, info)
        parts = await stack.enter_async_context(_line(config, metrics, sinks, station, config.agent.state_dir))
        line = parts.line
        sources: list[MqttSource | HL7Source] = []
        if config.sources.hl7 is not None:
            sources.append(await _listen(stack, HL7Source(config.sources.hl7, metrics)))
        if config.sources.mqtt is not None:
            sources.append(await stack.enter_async_context(MqttSource(config.sources.mqtt, metrics)))
        async with asyncio.TaskGroup() as group:
            deliveries: list[asyncio.Task[None]] = [group.create_task(line.outbox.run(), name="outbox")]
            if config.sinks.hl7 is not None:
                sink = Hl7Sink(config.sinks.hl7, line.outbox, metrics)
                deliveries.append(group.create_task(sink.run(), name="sink-hl7"))
            if config.sinks.mqtt is not None:
                mqtt_sink = await stack.enter_async_context(MqttSink(config.sinks.mqtt, line.outbox, metrics))
                deliveries.append(group.create_task(mqtt_sink.run(), name="sink-mqtt"))
            feeds = [group.create_task(s.run(parts.queue), name=type(s).__name__) for s in sources]
            work = [
                group.create_task(line.feed(parts.queue), name="line"),
                group.create_task(line.decide(), name="decide"),
                group.create_task(_watch(line, station, sources, systemd), name="watch"),
            ]
            log.info("agent_started", version=__version__, model=parts.bundle.manifest.model_id, port=station.port)
            await stop.wait()
            systemd.stopping()
            log.info("agent_stopping")
            await _end(feeds)
            await _end(work)
            await line.close()
            await _drain(line.outbox, sinks, seconds=5.0)
            await _end(deliveries)


async def replay(config: Config, path: Path, speed: float) -> dict[str, object]:
    """Run recorded ECG through the same line; no sinks, no page, an outbox of its own that goes with it."""
    metrics = Metrics()
    # A recording can wait for the engine, so a bed's queue need not be short; `drain` keeps it so.
    config = config.model_copy(update={"engine": config.engine.model_copy(update={"queue_per_bed": 64})})
    with TemporaryDirectory(prefix="deepecg-replay-") as folder:
        async with _line(config, metrics, (), None, Path(folder)) as parts, asyncio.TaskGroup() as group:
            source = ReplaySource(path, metrics, speed=speed)
            began = time.monotonic()
            decide = group.create_task(parts.line.decide(), name="decide")
            play = group.create_task(source.run(parts.queue), name="replay")
            while not (play.done() and parts.queue.empty()):
                try:
                    event = await asyncio.wait_for(parts.queue.get(), 0.1)
                except TimeoutError:
                    continue
                await parts.line.take(event)
                if speed == 0:
                    await parts.line.batcher.drain(waiting=config.engine.max_batch)
            await parts.line.batcher.drain()
            await parts.line.close()
            await _end([decide])
            seconds = time.monotonic() - began
    windows = sum(totals(metrics.windows).values())
    return {
        "model": parts.bundle.manifest.model_id,
        "seconds": round(seconds, 2),
        "windows": windows,
        "windows_per_second": round(windows / seconds, 1),
        "windows_dropped": totals(metrics.windows_dropped),
        "gaps": totals(metrics.gaps),
        "alerts": totals(metrics.alerts),
    }


@asynccontextmanager
async def _line(
    config: Config, metrics: Metrics, sinks: tuple[str, ...], station: Station | None, state: Path
) -> AsyncIterator[Parts]:
    """Engine, outbox, windower and alerting, joined."""
    bundle = open_bundle(config.engine.bundle or default_bundle())
    async with AsyncExitStack() as stack:
        outbox = Outbox(
            state / config.outbox.path,
            sinks,
            keep_days=config.outbox.keep_days,
            max_bytes=config.outbox.max_bytes,
            backlog=config.outbox.backlog,
        )
        batcher = Batcher(lambda: open_backend(bundle, config.engine), bundle.manifest, config.engine, metrics)
        try:
            await stack.enter_async_context(outbox)
            alerting = Alerting(bundle.manifest, config.alerts, await outbox.open_alerts())
            await stack.enter_async_context(batcher)
        except (OutboxError, EngineError, ValueError) as error:
            raise StartError(str(error)) from error
        queue: asyncio.Queue[Event] = asyncio.Queue(_QUEUE)
        yield Parts(
            Line(Windower(config.windows, time.time() - time.monotonic()), alerting, batcher, outbox, metrics, station),
            bundle,
            queue,
        )


async def _enter_station(stack: AsyncExitStack, config: Config, metrics: Metrics, info: StationInfo) -> Station:
    try:
        return await stack.enter_async_context(Station(config.station, metrics, info))
    except OSError as error:
        at = f"{config.station.host}:{config.station.port}"
        raise StartError(f"the page cannot listen on {at} ({error.strerror}); set another station.port") from error


async def _listen(stack: AsyncExitStack, source: HL7Source) -> HL7Source:
    try:
        return await stack.enter_async_context(source)
    except OSError as error:
        raise StartError(f"the HL7 feed cannot listen ({error.strerror}); set another sources.hl7.port") from error


async def _watch(
    line: Line, station: Station, sources: Sequence[MqttSource | HL7Source], systemd: SystemdNotifier
) -> None:
    """Every second: silence, health, and the service manager's watchdog, fed only while the engine goes on."""
    progress, seen = -1, time.monotonic()
    ready = False
    while True:
        await line.tick()
        now = time.monotonic()
        if line.batcher.progress != progress:
            progress, seen = line.batcher.progress, now
        alive = now - seen < 10 * _TICK
        station.check("engine", Health.OK if alive else Health.UNHEALTHY, "The engine makes no progress.", 5 * _TICK)
        problem = line.outbox.problem
        station.check("outbox", Health.UNHEALTHY if problem else Health.OK, problem or "")
        for source in sources:
            if isinstance(source, MqttSource):
                up = source.subscribed.is_set()
                station.check("mqtt", Health.OK if up else Health.UNHEALTHY, "No subscription at the MQTT broker.")
        if not ready and all(s.subscribed.is_set() for s in sources if isinstance(s, MqttSource)):
            ready = True
            systemd.ready()
            log.info("agent_ready")
        for name in line.outbox.sinks:
            line.metrics.undelivered.labels(sink=name).set(await line.outbox.undelivered(name))
        if alive:
            systemd.watchdog()
        systemd.status(f"{len(line.windower.beds)} beds, {len(line.alerting.open_alerts())} open advisories")
        await asyncio.sleep(_TICK)


async def _drain(outbox: Outbox, sinks: Sequence[str], seconds: float) -> None:
    """Give the receivers a moment for the last messages; what they do not take waits for the next start."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and any([await outbox.undelivered(name) for name in sinks]):
        await asyncio.sleep(0.05)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
