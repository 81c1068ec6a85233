"""The demo's monitors: each plays one bed's recording in real time, over MQTT or over HL7.

A block is sent when its last sample has been "measured", as a monitor does. The beds' seconds are spread over the
second, because real monitors are not in step.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import numpy as np

from agent.core.ecg import Channel, ChannelKind, Encounter, FloatArray, Lead, Samples
from agent.core.hl7 import mllp
from agent.core.hl7.alert import parse_acknowledgement
from agent.core.mqtt.block import code_of_lead
from agent.core.mqtt.decode import BINARY_TYPE, CBOR_TYPE, JSON_TYPE, encode_binary, encode_cbor, encode_json
from agent.mqtt.link import MqttError, MqttLink
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


@dataclass(slots=True)
class Tally:
    """What the players sent."""

    sent: int = 0
    failed: int = 0
    refused: dict[str, int] = field(default_factory=dict)


async def _until(moment: float) -> None:
    """Sleep until a time of the wall clock, epoch seconds."""
    if (ahead := moment - time.time()) > 0:
        await asyncio.sleep(ahead)


async def play_mqtt(
    link: MqttLink, topic: str, bed: str, signal: Signal, kind: PayloadKind, begin: float, tally: Tally
) -> None:
    """Publish one bed's signal at QoS 1, a message a second, until cancelled. ``begin``: epoch seconds."""
    encode, content_type = _ENCODERS[kind]
    channels = tuple(
        Channel(ChannelKind.ECG, code_of_lead(lead.value), lead.value, "mV", signal.rate, lead) for lead in signal.leads
    )
    for number in count():
        first, after = (round(n * signal.rate) for n in (number, number + 1))
        values = tuple(signal.cut(first, after - first))
        block = Samples(bed, DEVICE, channels, values, begin + first / signal.rate, 0.0, sequence=number)
        await _until(begin + after / signal.rate)
        try:
            await link.publish(topic, encode(block), qos=1, content_type=content_type)
            tally.sent += 1
        except MqttError:
            tally.failed += 1


async def play_hl7(
    host: str,
    port: int,
    dialect: str,
    bed: str,
    signal: Signal,
    encounter: Encounter | None,
    begin: float,
    tally: Tally,
) -> None:
    """Send one bed's signal in a maker's dialect, each message after the last one's ack, until cancelled."""
    seconds, cadence = CADENCE[dialect]
    samples = round(seconds * signal.rate)
    reader, writer = await asyncio.open_connection(host, port)
    frames = mllp.Decoder()
    try:
        for number in count():
            first = round(number * cadence * signal.rate)
            start = begin + first / signal.rate
            values = signal.cut(first, samples)
            await _until(start + seconds)
            message = hl7_message(dialect, bed, signal.leads, values, signal.rate, start, number, encounter)
            writer.write(mllp.encode(message))
            await writer.drain()
            answer = await _answer(reader, frames)
            tally.sent += 1
            if answer not in {"AA", "CA"}:
                tally.refused[answer] = tally.refused.get(answer, 0) + 1
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, frames: mllp.Decoder) -> str:
    """MSA-1 of the next acknowledgement; empty when the agent has closed the connection."""
    while True:
        data = await reader.read(65536)
        if not data:
            return ""
        for message in frames.feed(data):
            return parse_acknowledgement(message).code
