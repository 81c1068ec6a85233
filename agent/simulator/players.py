"""Monitors that play one bed's signal in real time, over MQTT or over HL7, and tell what is answered.

A block is sent when its last sample has been "measured", as a monitor does. The beds' seconds are spread over the
second, because real monitors are not in step.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import numpy as np

from agent.core.ecg import Channel, ChannelKind, Encounter, FloatArray, Lead, Samples
from agent.core.hl7 import mllp
from agent.core.hl7.alert import parse_acknowledgement
from agent.core.mqtt.binary import BINARY_TYPE, encode_binary
from agent.core.mqtt.block import code_of_lead
from agent.core.mqtt.document import CBOR_TYPE, JSON_TYPE, encode_cbor, encode_json
from agent.mqtt.errors import MqttError
from agent.mqtt.link import MqttLink
from agent.simulator.monitors import CADENCE, hl7_message

PayloadKind = Literal["binary", "cbor", "json"]
_ENCODERS = {
    "binary": (encode_binary, BINARY_TYPE),
    "cbor": (encode_cbor, CBOR_TYPE),
    "json": (encode_json, JSON_TYPE),
}
DEVICE = "monitor"


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """What a bed plays, again from the beginning when it ends."""

    leads: tuple[Lead, ...]
    rate: float
    values: FloatArray
    """(leads, samples) in mV; NaN = invalid."""

    def cut(self, first: int, samples: int) -> FloatArray:
        """``samples`` from the ``first`` one on, counted from the start of play."""
        return np.take(self.values, range(first, first + samples), axis=1, mode="wrap")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one message."""

    accepted: bool
    code: str
    """MSA-1, ``PUBACK``, or the reason for which a broker did not take it; empty where the connection was closed."""
    text: str = ""
    """Why it was not accepted, as the other side says it."""


@dataclass(slots=True)
class Tally:
    """What the players sent."""

    sent: int = 0
    failed: int = 0
    """Messages that nobody answered."""
    refused: dict[str, int] = field(default_factory=dict)
    """By the answer's code."""

    def add(self, answer: Answer) -> None:
        """Count one message."""
        self.sent += 1
        if not answer.code:
            self.failed += 1
        elif not answer.accepted:
            self.refused[answer.code] = self.refused.get(answer.code, 0) + 1


async def _until(moment: float) -> None:
    """Sleep until a time of the wall clock, epoch seconds."""
    if (ahead := moment - time.time()) > 0:
        await asyncio.sleep(ahead)


async def play_mqtt(
    link: MqttLink,
    topic: str,
    bed: str,
    signal: Signal,
    kind: PayloadKind,
    begin: float,
    encounter: Encounter | None = None,
) -> AsyncGenerator[Answer, None]:
    """Publish one bed's signal at QoS 1, a message a second, without end; each answer of the broker.

    ``begin``: epoch seconds.
    """
    encode, content_type = _ENCODERS[kind]
    channels = tuple(
        Channel(ChannelKind.ECG, code_of_lead(lead.value), lead.value, "mV", signal.rate, lead) for lead in signal.leads
    )
    for number in count():
        first, after = (round(n * signal.rate) for n in (number, number + 1))
        values = tuple(signal.cut(first, after - first))
        start = begin + first / signal.rate
        block = Samples(bed, DEVICE, channels, values, start, 0.0, sequence=number, encounter=encounter)
        await _until(begin + after / signal.rate)
        try:
            heard = await link.publish(topic, encode(block), qos=1, content_type=content_type)
        except MqttError as error:
            yield Answer(False, error.reason, str(error))
        else:
            yield Answer(True, "PUBACK") if heard else Answer(False, "no_subscriber", f"nobody subscribes to {topic}")


async def play_hl7(
    host: str,
    port: int,
    dialect: str,
    bed: str,
    signal: Signal,
    encounter: Encounter | None,
    begin: float,
    tls: ssl.SSLContext | None = None,
) -> AsyncGenerator[Answer, None]:
    """Send one bed's signal in a maker's dialect, each message after the last one's answer, until that is none.

    Raises:
        OSError: the connection cannot be made, or breaks.
    """
    seconds, cadence = CADENCE[dialect]
    samples = round(seconds * signal.rate)
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    frames = mllp.Decoder()
    answers: deque[Answer] = deque()
    try:
        for number in count():
            first = round(number * cadence * signal.rate)
            start = begin + first / signal.rate
            values = signal.cut(first, samples)
            await _until(start + seconds)
            message = hl7_message(dialect, bed, signal.leads, values, signal.rate, start, number, encounter)
            writer.write(mllp.encode(message))
            await writer.drain()
            while not answers:
                if not (data := await reader.read(65536)):
                    yield Answer(False, "", "the connection was closed instead of an answer")
                    return
                answers.extend(map(_answer, frames.feed(data)))
            yield answers.popleft()
    finally:
        writer.close()


def _answer(message: bytes) -> Answer:
    """What an acknowledgement says."""
    found = parse_acknowledgement(message)
    return Answer(found.accepted, found.code, " ".join(filter(None, (found.error, found.text))))
