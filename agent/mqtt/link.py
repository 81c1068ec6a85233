"""One connection to an MQTT broker, on the asyncio loop, for as long as it takes.

paho-mqtt speaks the protocol; this module drives it: only the dialling (DNS, TCP, TLS) runs in a thread, everything
else in the loop's own reader, writer and a tick. Messages come out of a bounded queue and are acknowledged by whoever
took them, after they are held; `MqttLink.publish` returns when the broker has acknowledged. Each connection gets a
client of its own, so that nothing half-acknowledged is carried over inside paho: what the broker has not seen
acknowledged it sends again, and what we have not seen acknowledged our caller sends again.

MQTT 5 is spoken first, 3.1.1 with a broker that refuses it or hangs up on it. A broker that is slow is neither: it is
asked for MQTT 5 again. Quoted sections are those of MQTT Version 5.0 (OASIS).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog
from paho.mqtt.client import MQTTv5, MQTTv311
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.mqtt.connection import FAILURE, Connection, Up
from agent.mqtt.errors import (
    ConnectionLostError,
    HungUpError,
    MqttError,
    NoAnswerError,
    NotConnectedError,
    ProtocolRefusedError,
    PublishRefusedError,
)
from agent.mqtt.inbox import Inbox, Message
from agent.mqtt.settings import BrokerSettings
from agent.ops.metrics import Metrics
from agent.ops.tls import RotatingContext, client_context

log = structlog.get_logger()

_STABLE = 30.0
"""Seconds after which a connection counts as good, and the next loss begins the back-off anew."""


class MqttLink:
    """A broker, reached again and again: ``async with MqttLink(settings, metrics, "mqtt", subscriptions) as link:``.

    Entering starts the connecting and does not wait for it; `connected` and `subscribed` tell. Leaving publishes the
    retained state ``offline``, says good-bye and ends every task.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        metrics: Metrics,
        transport: str,
        subscriptions: Sequence[tuple[str, int]] = (),
    ) -> None:
        """``subscriptions``: pairs of topic filter and QoS (0 or 1). ``transport`` labels the metrics."""
        self.connected = asyncio.Event()
        """Set while the broker holds a session for us."""
        self.subscribed = asyncio.Event()
        """Set while the broker has granted at least one subscription; stays clear for a link that has none."""
        self.protocol = ""
        """``5`` or ``3.1.1`` once connected."""
        self._settings = settings
        self._metrics = metrics
        self._transport = transport
        self._subscriptions = tuple(subscriptions)
        self._status_topic = settings.status_topic.replace("{client_id}", settings.client_id)
        self._inbox = Inbox(settings.queue, settings.receive_maximum, metrics, transport)
        self._tls = RotatingContext(settings.tls, client_context) if settings.tls else None
        self._up: Connection | None = None
        self._number = 0
        self._session_since = 0
        self._connects = 0
        self._leaving = False
        self._tasks = asyncio.TaskGroup()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._task = self._tasks.create_task(self._run(), name=f"mqtt-link-{self._transport}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving = True
        up = self._up
        if up is not None and not up.closed.done():
            if self._status_topic:
                with suppress(MqttError):
                    await up.publish(self._status_topic, self._state("offline", "stopped"), 1, True, None, 1.0)
            await up.close()
        if self._task is not None:
            self._task.cancel()
        # A cancellation may be the group's own, after a failure of `_run`; any other error passes on as it is.
        ours = isinstance(error, asyncio.CancelledError)
        await self._tasks.__aexit__(*((kind, error, trace) if ours else (None, None, None)))

    async def get(self) -> Message:
        """The next message, in the order of arrival. What the broker will send again anyway is passed over."""
        while True:
            message = await self._inbox.get()
            # Of an earlier connection of a session that goes on: unacknowledged, so it comes once more (section 4.4).
            if message.qos and self._session_since <= message.connection < self._number:
                continue
            return message

    async def messages(self) -> AsyncIterator[Message]:
        """`get`, for ever."""
        while True:
            yield await self.get()

    def ack(self, message: Message) -> None:
        """Tell the broker that ``message`` is held. Over another connection than its own it would name another one."""
        up = self._up
        if message.qos and up is not None and message.connection == up.number and not up.closed.done():
            up.ack(message.mid)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        content_type: str = "",
        expiry: int | None = None,
        within: float = 10.0,
    ) -> bool:
        """Return once the broker has acknowledged (QoS 1) or the packet is written (QoS 0).

        ``content_type`` and ``expiry`` (seconds) are MQTT 5's properties; 3.1.1 has none. False where the broker says
        that nobody subscribes to the topic (section 3.4.2.1, reason 0x10), which only MQTT 5 brokers tell.

        Raises:
            MqttError: NotConnectedError, ConnectionLostError, PublishTimeoutError or PublishRefusedError.
        """
        if qos not in (0, 1):
            raise PublishRefusedError("only QoS 0 and 1 are spoken; de-duplicate by an id instead of QoS 2")
        up = self._up
        if up is None or up.closed.done():
            raise NotConnectedError("there is no connection to the broker; wait for it and send again")
        properties = None
        if up.protocol == MQTTv5 and (content_type or expiry is not None):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            if content_type:
                properties.ContentType = content_type
            if expiry is not None:
                properties.MessageExpiryInterval = expiry
        code = await up.publish(topic, payload, qos, retain, properties, within)
        if code >= FAILURE:
            raise PublishRefusedError(f"the broker refuses the message (0x{code:02x}); look after its ACL and quotas")
        return code != 0x10

    async def _run(self) -> None:
        """One connection after the other, until `__aexit__`."""
        preferred = MQTTv311 if self._settings.protocol == "3.1.1" else MQTTv5
        failures, protocol = 0, preferred
        while True:
            began = time.monotonic()
            self._number += 1
            end = await self._live(
                Connection(self._number, protocol, self._settings, self._inbox, clean=not self._subscriptions)
            )
            if self._leaving:
                return
            old = protocol == MQTTv5 and isinstance(end, ProtocolRefusedError | HungUpError)
            if old and self._settings.protocol == "auto":
                # One of 3.1.1 alone answers with return code 1 (3.1.1, section 3.1.2.2) or 0x84, and is not asked for
                # MQTT 5 again. Or it just hangs up, as one that is being started does too: so only the next connection
                # is of 3.1.1. Silence is no answer: it may be busy.
                if isinstance(end, ProtocolRefusedError):
                    preferred = MQTTv311
                log.warning("mqtt_falls_back", broker=self._settings.host, to="3.1.1", why=str(end))
                protocol = MQTTv311
                continue
            protocol = preferred
            stable = isinstance(end, ConnectionLostError) and time.monotonic() - began > _STABLE
            failures = 0 if stable else failures + 1
            await self._pause(failures, end)

    async def _pause(self, failures: int, end: Exception) -> None:
        """Full jitter: beds' gateways and agents that lost the same broker must not all come back at once."""
        why = str(end) or type(end).__name__
        if isinstance(end, NoAnswerError) and self._settings.protocol == "auto":
            why += '; if it only speaks MQTT 3.1.1, set protocol = "3.1.1"'
        bound = min(self._settings.reconnect_max, self._settings.reconnect_min * 2 ** min(failures - 1, 16))
        pause = random.uniform(0.0, bound)  # noqa: S311
        log.warning("mqtt_disconnected", broker=self._settings.host, why=why, retry_in=round(pause, 2))
        await asyncio.sleep(pause)

    async def _live(self, connection: Connection) -> Exception:
        """One connection from its dialling to its end, and why it ended."""
        settings = self._settings
        try:
            password = settings.password_file.read_text().rstrip("\r\n") if settings.password_file else None
            will = (self._status_topic, self._state("offline", "lost")) if self._status_topic else None
            await connection.open(self._tls.context() if self._tls else None, password, will)
            self._begin(connection, await connection.answer())
            async with asyncio.TaskGroup() as tasks:
                greeting = tasks.create_task(self._greet(connection))
                while not connection.closed.done():
                    connection.tick()
                    await asyncio.wait((connection.closed,), timeout=1.0)
                greeting.cancel()
            return ConnectionLostError(connection.closed.result())
        except (OSError, ValueError, MqttError) as error:  # TlsError is a ValueError, TimeoutError an OSError
            return error
        finally:
            connection.drop("given up")
            self._end()

    def _begin(self, connection: Connection, answer: Up) -> None:
        """The broker has taken us."""
        if not answer.session_present:
            self._session_since = connection.number
        self._up = connection
        self.protocol = "5" if connection.protocol == MQTTv5 else "3.1.1"
        self._connects += 1
        if self._connects > 1:
            self._metrics.reconnects.labels(self._transport).inc()
        self.connected.set()
        log.info("mqtt_connected", broker=self._settings.host, protocol=self.protocol, session=answer.session_present)

    def _end(self) -> None:
        self._up = None
        self.connected.clear()
        self.subscribed.clear()
        if self._subscriptions:
            self._metrics.connections.labels(self._transport).set(0)

    async def _greet(self, connection: Connection) -> None:
        """Subscribe, then say that we are online."""
        settings = self._settings
        try:
            if self._subscriptions:
                codes = await connection.subscribe(self._subscriptions)
                refused = [
                    topic for (topic, _), code in zip(self._subscriptions, codes, strict=False) if code >= FAILURE
                ]
                if refused:
                    self._metrics.refused.labels(self._transport, "subscription").inc(len(refused))
                    log.error("mqtt_subscription_refused", broker=settings.host, filters=refused)
                if len(refused) == len(self._subscriptions):
                    connection.drop("the broker refuses every subscription; look after its ACL")
                    return
                self._metrics.connections.labels(self._transport).set(1)
                self.subscribed.set()
            if self._status_topic:
                state = self._state("online", "started")
                code = await connection.publish(self._status_topic, state, 1, True, None, settings.connect_timeout)
                if code >= FAILURE:
                    log.warning("mqtt_status_refused", broker=settings.host, topic=self._status_topic)
        except MqttError:
            return  # the connection is closed, and the loop of `_live` sees it

    def _state(self, state: str, why: str) -> bytes:
        body = {"state": state, "why": why, "client_id": self._settings.client_id, "advisory": True}
        return json.dumps(body).encode()
