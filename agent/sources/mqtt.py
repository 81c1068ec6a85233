"""ECG from an MQTT broker: decode, tell what comes again from what is missing, put, then acknowledge.

MQTT has no sender's identity: a message says on which topic it was published, and nothing of by whom. Who may publish
for which bed is therefore the broker's business (its ACL, by user or client certificate; deploy it so that a monitor
may write to its own bed's topic only). What this agent adds is `beds`: the beds that this broker may speak for at all.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from contextlib import AsyncExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self

import structlog

from agent.core.ecg import Event, Fault, Samples
from agent.core.mqtt.block import Limits, OffsetBinary, PayloadError, Reason
from agent.core.mqtt.decode import decode
from agent.core.mqtt.topic import Address, TopicTemplate
from agent.mqtt.inbox import Message
from agent.mqtt.link import MqttLink
from agent.ops.metrics import Metrics
from agent.sources.mqtt_settings import MqttSourceSettings
from agent.sources.sequence import Arrival, SequenceTracker

log = structlog.get_logger()

_TRANSPORT = "mqtt"


@dataclass(slots=True)
class _Quiet:
    """When a fault was last logged, and how many came since."""

    at: float
    suppressed: int = 0


class FaultLog:
    """Logs each kind of fault of each device at once, then at most once a minute with the number left out.

    A sender that invents devices does not fill the log: at most ``lines`` in ``seconds``, whoever they are about.
    """

    def __init__(self, seconds: float = 60.0, most: int = 1024, lines: int = 100) -> None:
        self._seconds = seconds
        self._most = most
        self._lines = lines
        self._written: deque[float] = deque()
        self._unwritten = 0
        self._last: OrderedDict[tuple[str, str, str], _Quiet] = OrderedDict()

    def report(self, fault: Fault, address: Address | None, now: float, event: str = "mqtt_message_refused") -> None:
        """``fault`` of the sender at ``address``; None where the topic names nobody."""
        bed, device = (address.bed, address.device) if address else ("", "")
        key = (bed, device, fault.reason)
        quiet = self._last.get(key)
        if quiet is not None and now - quiet.at < self._seconds:
            quiet.suppressed += 1
            return
        while self._written and now - self._written[0] >= self._seconds:
            self._written.popleft()
        if len(self._written) >= self._lines:
            self._unwritten += 1
            return
        self._written.append(now)
        log.warning(
            event,
            reason=fault.reason,
            text=fault.text,
            bed=bed,
            device=device,
            more=quiet.suppressed if quiet else 0,
            of_others=self._unwritten,
        )
        self._unwritten = 0
        self._last[key] = _Quiet(now)
        self._last.move_to_end(key)
        if len(self._last) > self._most:
            self._last.popitem(last=False)


class MqttSource:
    """``async with MqttSource(settings, metrics) as source: await source.run(queue)``.

    Nothing that a sender publishes raises out of `run`, and nothing of one device touches another's state.
    """

    def __init__(self, settings: MqttSourceSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._templates = settings.templates()
        self._limits = Limits(settings.max_payload, settings.max_channels, settings.max_samples)
        self._offset = OffsetBinary(**settings.offset_binary.model_dump())
        subscriptions = [(template.filter, settings.qos) for template in self._templates]
        self._link = MqttLink(settings, metrics, _TRANSPORT, list(dict.fromkeys(subscriptions)))
        self._sequences: OrderedDict[tuple[str, str], SequenceTracker] = OrderedDict()
        self._faults = FaultLog()
        self._messages = metrics.messages.labels(_TRANSPORT)
        self._stack = AsyncExitStack()

    @property
    def subscribed(self) -> asyncio.Event:
        """Set while the broker has granted the subscription: the first time is the agent's *ready*."""
        return self._link.subscribed

    @property
    def connected(self) -> asyncio.Event:
        """Set while the broker holds a session for us."""
        return self._link.connected

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._link)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def run(self, queue: asyncio.Queue[Event]) -> None:
        """Forever: each block into ``queue``, and acknowledged once it is there. A full queue holds the broker back."""
        async for message in self._link.messages():
            samples = self.take(message)
            if samples is not None:
                await queue.put(samples)
            self._link.ack(message)

    def take(self, message: Message) -> Samples | None:
        """The block of a message; None where it is refused or came before, which is counted."""
        self._messages.inc()
        address: Address | None = None
        try:
            if message.retain:
                self._metrics.messages_dropped.labels(_TRANSPORT, "retained").inc()  # stale by definition
                return None
            template, address = self._address(message.topic)
            samples = decode(
                message.topic,
                message.payload,
                message.content_type,
                template,
                message.received,
                limits=self._limits,
                offset=self._offset,
            )
        except PayloadError as error:
            self._metrics.faults.labels(_TRANSPORT, error.fault.reason).inc()
            self._faults.report(error.fault, address, time.monotonic())
            return None
        return samples if samples.sequence is None or self._is_new(samples, message.payload) else None

    def _address(self, topic: str) -> tuple[TopicTemplate, Address]:
        for template in self._templates:
            if (address := template.match(topic)) is not None:
                break
        else:
            raise PayloadError(Fault(Reason.TOPIC, "the topic fits no template; publish on a configured topic"))
        if not any(fnmatchcase(address.bed, pattern) for pattern in self._settings.beds):
            self._metrics.refused.labels(_TRANSPORT, "bed").inc()
            raise PayloadError(
                Fault(Reason.TOPIC, "this broker may not speak for the bed; add it to `beds`, or mend the topic")
            )
        return template, address

    def _is_new(self, samples: Samples, payload: bytes) -> bool:
        key = (samples.bed, samples.device)
        sequence = self._sequences.get(key)
        if sequence is None:
            sequence = self._sequences[key] = SequenceTracker(self._settings.remember)
            if len(self._sequences) > self._settings.max_devices:
                self._sequences.popitem(last=False)
        self._sequences.move_to_end(key)
        arrival, missing = sequence.judge(samples.sequence or 0, samples.start, payload)
        if arrival is Arrival.DUPLICATE:
            self._metrics.duplicates.labels(_TRANSPORT).inc()
            return False
        if arrival is Arrival.GAP:
            self._metrics.sequence_gaps.labels(_TRANSPORT).inc(missing)
        elif arrival is Arrival.RESTART:
            fault = Fault("restart", "the sequence began anew; two devices of one name seem to do so with every block")
            address = Address(samples.bed, samples.device)
            self._faults.report(fault, address, time.monotonic(), "mqtt_sequence_restarted")
        return True
