"""The messages that a broker delivered, and the queue that they wait in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agent.ops.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Message:
    """A message that a broker delivered. Acknowledge it with `MqttLink.ack` once it is held."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    duplicate: bool
    """The broker says that it may have sent it before."""
    content_type: str
    """MQTT 5's property; empty where there is none."""
    received: float
    """Monotonic seconds."""
    connection: int
    """Which connection of this link it came over: an acknowledgement is good for that one only."""
    mid: int


class Inbox:
    """Messages between paho and their consumer, with a bound for each quality of service."""

    def __init__(self, most_qos_0: int, most_qos_1: int, metrics: Metrics, transport: str) -> None:
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._waiting = [0, 0]
        self._bounds = (most_qos_0, most_qos_1)
        self._dropped = metrics.messages_dropped.labels(transport, "overflow")
        self._drained = asyncio.Event()

    def put(self, message: Message) -> None:
        """QoS 0 beyond its bound is dropped and counted; QoS 1 never is, the sender is held back instead (`full`)."""
        if message.qos == 0 and self._waiting[0] >= self._bounds[0]:
            self._dropped.inc()
            return
        self._waiting[min(message.qos, 1)] += 1
        self._queue.put_nowait(message)

    async def get(self) -> Message:
        """The oldest message."""
        message = await self._queue.get()
        self._waiting[min(message.qos, 1)] -= 1
        if self._waiting[1] * 2 <= self._bounds[1]:
            self._drained.set()
        return message

    @property
    def full(self) -> bool:
        """More QoS 1 messages wait than we asked for: MQTT 3.1.1 has no receive maximum, so stop reading instead."""
        return self._waiting[1] > self._bounds[1]

    async def drained(self) -> None:
        """Return when at most half of the bound waits."""
        while self._waiting[1] * 2 > self._bounds[1]:
            self._drained.clear()
            await self._drained.wait()
