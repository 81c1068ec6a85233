"""paho-mqtt's client with a faster way in for PUBLISH, and the queue that its messages wait in."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import MQTTErrorCode

from agent.ops.metrics import Metrics

_CHUNK = 1 << 17
"""Bytes asked of the socket at once."""


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


class FastClient(Client):
    """paho's client with a faster way in for the one packet that comes by the hundred each second, PUBLISH.

    paho takes the first bytes of each packet one by one, a system call each, and makes an object of all the properties
    that MQTT 5 knows: several times the cost of decoding the ECG. Both seams are paho's own, though not public ones.
    """

    inbox: Inbox
    number: int
    _ahead = b""
    _at = 0
    _drained = False

    @property
    def unread(self) -> bool:
        """Bytes are read from the socket, or decrypted, that no packet has taken yet: no event will tell of them."""
        sock = self._sock
        return self._at < len(self._ahead) or (isinstance(sock, ssl.SSLSocket) and sock.pending() > 0)

    def wake(self) -> None:
        """The socket is readable again."""
        self._drained = False

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._at >= len(self._ahead):
            if self._drained and not self.unread:
                raise BlockingIOError  # a short read has emptied the socket: the next event is waited for
            self._ahead, self._at = super()._sock_recv(_CHUNK), 0
            self._drained = len(self._ahead) < _CHUNK
        piece = self._ahead[self._at : self._at + bufsize]
        self._at += len(piece)
        return piece

    def acknowledge(self, mids: Sequence[int]) -> None:
        """One PUBACK (section 3.4) for each packet, all in one write."""
        packets = b"".join(b"\x40\x02" + mid.to_bytes(2, "big") for mid in mids)
        self._packet_queue(0x40, packets, mids[-1], 1)

    def _handle_publish(self) -> MQTTErrorCode:
        command = self._in_packet["command"]
        packet = self._in_packet["packet"]
        try:
            topic, mid, content_type, at = parse_publish(command, packet, properties=self._protocol == MQTTv5)
        except IndexError:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        self.inbox.put(
            Message(
                topic=topic,
                payload=bytes(memoryview(packet)[at:]),
                qos=command >> 1 & 3,
                retain=bool(command & 1),
                duplicate=bool(command & 8),
                content_type=content_type,
                received=time.monotonic(),
                connection=self.number,
                mid=mid,
            )
        )
        return MQTTErrorCode.MQTT_ERR_SUCCESS


def parse_publish(command: int, packet: bytes | bytearray, *, properties: bool) -> tuple[str, int, str, int]:
    """Topic, packet id (0 with QoS 0), content type and where the payload begins: section 3.3.

    A topic that is not UTF-8 is taken with replacement characters: it fits no template, and is refused like any other.

    Raises:
        IndexError: the packet ends too soon, or has a property that a PUBLISH has not.
    """
    at = 2 + (packet[0] << 8 | packet[1])
    topic = packet[2:at].decode("utf-8", "replace")
    mid = 0
    if command & 6:
        mid = packet[at] << 8 | packet[at + 1]
        at += 2
    content_type = ""
    if properties:
        length, at = _variable(packet, at)
        end = at + length
        while at < end:
            name = packet[at]
            at += 1
            if name == 0x03:
                size = packet[at] << 8 | packet[at + 1]
                content_type = packet[at + 2 : at + 2 + size].decode("utf-8", "replace")
                at += 2 + size
            else:
                at = _past_property(name, packet, at)
        at = end
    if at > len(packet):
        raise IndexError("the packet ends too soon")
    return topic, mid, content_type, at


def _past_property(name: int, packet: bytes | bytearray, at: int) -> int:
    """Where the value of a PUBLISH's property ends: table 2-4."""
    if name in (0x01, 0x02, 0x23):  # payload format, message expiry, topic alias
        return at + {0x01: 1, 0x02: 4, 0x23: 2}[name]
    if name == 0x0B:  # subscription identifier
        return _variable(packet, at)[1]
    if name in (0x08, 0x09, 0x26):  # response topic, correlation data, user property: one or two length-prefixed values
        for _ in range(2 if name == 0x26 else 1):
            at += 2 + (packet[at] << 8 | packet[at + 1])
        return at
    raise IndexError("no property of a PUBLISH")


def _variable(packet: bytes | bytearray, at: int) -> tuple[int, int]:
    """A variable byte integer (section 1.5.5) and where it ends."""
    value = 0
    for shift in (0, 7, 14, 21):
        byte = packet[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError("a variable byte integer has at most four bytes")
