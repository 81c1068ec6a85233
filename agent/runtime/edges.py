"""Where the agent meets the world: its page, the feeds that come in, the receivers that alerts go out to.

Built once the engine is there (`agent.runtime.daemon`). What listens is entered in the order in which it is left: feeds
and sinks before the page.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TypeVar

from agent import __version__
from agent.config import Config
from agent.ops.metrics import Metrics
from agent.runtime.build import Parts, StartError
from agent.sinks.hl7 import Hl7Sink
from agent.sinks.mqtt import MqttSink
from agent.sinks.outbox import Outbox
from agent.sources.hl7.server import HL7Source
from agent.sources.mqtt import MqttSource
from agent.station.health import Health
from agent.station.server import Station, StationInfo

_Listener = TypeVar("_Listener", Station, HL7Source)


async def open_station(stack: AsyncExitStack, config: Config, metrics: Metrics, parts: Parts) -> Station:
    """The page, /metrics and /healthz; it says at once which further models could not be had.

    Raises:
        StartError: its port is taken.
    """
    info = StationInfo(parts.manifest, __version__, parts.batcher.engine, parts.further)
    station = await _enter(stack, Station(config.station, metrics, info), "station")
    for name, reason in parts.missing.items():
        station.check(f"models.{name}", Health.DEGRADED, reason)
    return station


async def open_sources(stack: AsyncExitStack, config: Config, metrics: Metrics) -> list[MqttSource | HL7Source]:
    """The feeds that are configured.

    Raises:
        StartError: the HL7 port is taken.
        TlsError: certificates cannot be used.
    """
    sources: list[MqttSource | HL7Source] = []
    if config.sources.hl7 is not None:
        sources.append(await _enter(stack, HL7Source(config.sources.hl7, metrics), "sources.hl7"))
    if config.sources.mqtt is not None:
        sources.append(await stack.enter_async_context(MqttSource(config.sources.mqtt, metrics)))
    return sources


async def open_sinks(
    stack: AsyncExitStack, config: Config, metrics: Metrics, outbox: Outbox
) -> list[MqttSink | Hl7Sink]:
    """The receivers that are configured.

    Raises:
        TlsError: certificates cannot be used.
    """
    sinks: list[MqttSink | Hl7Sink] = []
    if config.sinks.hl7 is not None:
        sinks.append(Hl7Sink(config.sinks.hl7, outbox, metrics))
    if config.sinks.mqtt is not None:
        sinks.append(await stack.enter_async_context(MqttSink(config.sinks.mqtt, outbox, metrics)))
    return sinks


async def _enter(stack: AsyncExitStack, listener: _Listener, table: str) -> _Listener:
    """Enter what listens on a port; a port that is taken is one sentence."""
    try:
        await stack.enter_async_context(listener)
    except OSError as error:
        raise StartError(f"[{table}] cannot listen ({error.strerror}); set another {table}.port or host") from error
    return listener
