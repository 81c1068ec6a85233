"""The compact binary payload: 28 bytes of header, 12 per channel, then int16 samples. Little-endian throughout."""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import Channel, ChannelKind, Samples
from agent.core.mqtt.block import (
    INVALID,
    Block,
    Limits,
    Reason,
    channel_of,
    clock_of,
    no_lead_twice,
    patients_of,
    refused,
    scale_of,
    text_of,
)

BINARY_TYPE = "application/vnd.deepecg.block"

MAGIC = b"DECG"
VERSION = 1
HEADER = struct.Struct("<4sBBBBIIqHH")
"""magic, version, flags, channels, label bytes, rate (mHz), sequence, clock (µs), samples, patient bytes: 28 bytes."""
CHANNEL = struct.Struct("<IfHH")
"""MDC code, scale (unit per step), divisor of the rate, channel flags: 12 bytes."""
HAS_CLOCK, HAS_SEQUENCE, HAS_PACING, PACED = 1, 2, 4, 8
DERIVED = 1


def decode_binary(payload: bytes, limits: Limits) -> Block:
    """The block of a binary payload. `PayloadError` where the payload breaks the form or ``limits``."""
    if len(payload) < HEADER.size:
        raise refused(Reason.LENGTH, f"the payload is shorter than its header of {HEADER.size} bytes; send it whole")
    magic, version, flags, count, label, rate, sequence, clock, n, patient = HEADER.unpack_from(payload)
    if magic != MAGIC:
        raise refused(Reason.SYNTAX, "the payload does not begin with DECG; send the binary form, or another type")
    if version != VERSION:
        raise refused(Reason.VERSION, f"version {version} of the binary form is unknown; send version {VERSION}")
    if flags & ~(HAS_CLOCK | HAS_SEQUENCE | HAS_PACING | PACED):
        raise refused(Reason.FIELD, "unknown flag bits are set in the header; set them to zero")
    if not 0 < count <= limits.channels:
        raise refused(Reason.CHANNELS, f"a block has 1 to {limits.channels} channels, not {count}")
    if not 0 < n <= limits.samples:
        raise refused(Reason.LENGTH, f"a channel has 1 to {limits.samples} samples, not {n}; send shorter blocks")
    table_end = HEADER.size + CHANNEL.size * count
    if len(payload) < table_end + label + patient:
        raise refused(Reason.LENGTH, "the payload ends before its channel table; send it whole")
    text = len(payload) - label - patient
    channels, scales, lengths = _table(
        payload[HEADER.size : table_end], rate, n, text_of(payload[text : text + label], "filter label")
    )
    if text - table_end != 2 * sum(lengths):
        raise refused(
            Reason.LENGTH,
            f"{sum(lengths)} samples need {2 * sum(lengths)} bytes, the payload has {text - table_end}; "
            "make header and payload agree",
        )
    raw = np.frombuffer(payload, "<i2", sum(lengths), table_end)
    if lengths[0] * count == len(raw):
        block = raw.reshape(count, -1)
        scaled = np.multiply(block, scales, dtype=np.float32)
        if block.min() == INVALID:
            scaled[block == INVALID] = np.nan
        values = tuple(scaled)
    else:
        ends = np.cumsum(lengths)
        parts = np.split(raw, ends[:-1])
        values = tuple(
            np.where(part == INVALID, np.float32(np.nan), part * scale[0]).astype(np.float32, copy=False)
            for part, scale in zip(parts, scales, strict=True)
        )
    return Block(
        channels,
        values,
        start=clock_of(clock / 1e6) if flags & HAS_CLOCK else None,
        sequence=sequence if flags & HAS_SEQUENCE else None,
        paced=bool(flags & PACED) if flags & HAS_PACING else None,
        patient=patients_of(text_of(payload[text + label :], "patient").split("~")) if patient else (),
    )


@lru_cache(maxsize=1024)
def _table(
    table: bytes, millihertz: int, n: int, label: str
) -> tuple[tuple[Channel, ...], NDArray[np.float32], tuple[int, ...]]:
    """Channels, scales (c, 1) and lengths of a channel table: a device sends the same one with every block."""
    channels: list[Channel] = []
    scales: list[float] = []
    lengths: list[int] = []
    for code, scale, divisor, flags in CHANNEL.iter_unpack(table):
        if flags & ~DERIVED:
            raise refused(Reason.FIELD, "unknown flag bits are set in a channel's entry; set them to zero")
        divisor = divisor or 1  # noqa: PLW2901
        if n % divisor:
            raise refused(Reason.RATE, f"a divisor of {divisor} does not divide {n} samples; send a multiple of it")
        channels.append(channel_of(code, millihertz / 1000.0 / divisor, label, derived=bool(flags & DERIVED)))
        scales.append(scale_of(scale))
        lengths.append(n // divisor)
    no_lead_twice(channels)
    return tuple(channels), np.array(scales, np.float32)[:, None], tuple(lengths)


def encode_binary(samples: Samples, *, millivolts: float = 0.001) -> bytes:
    """The payload of a block: ECG in steps of ``millivolts``, other channels in the finest step that holds them.

    Raises:
        ValueError: rates or lengths that the form cannot express; one sentence.
    """
    rates = [c.rate for c in samples.channels]
    base = rates.index(max(rates))
    n = len(samples.values[base])
    table, data = bytearray(), bytearray()
    for channel, values in zip(samples.channels, samples.values, strict=True):
        divisor = round(rates[base] / channel.rate)
        if len(values) * divisor != n or abs(divisor * channel.rate - rates[base]) > 1e-6:
            raise ValueError("the rate of a slower channel must divide the fastest one's, and so must its samples")
        scale = np.float32(millivolts)
        if channel.kind is not ChannelKind.ECG:
            scale = np.float32(max(float(np.nanmax(np.abs(values), initial=0.0)) / 32767, 1e-6))
        table += CHANNEL.pack(channel.code, scale, divisor, DERIVED if channel.derived else 0)
        steps = np.clip(np.rint(values / scale), -32767, 32767)
        data += np.where(np.isnan(steps), INVALID, steps).astype("<i2").tobytes()
    label = next((c.filter_label for c in samples.channels if c.filter_label), "").encode()
    patient = "~".join(samples.encounter.patient_ids if samples.encounter else ()).encode()
    flags = HAS_CLOCK if samples.start is not None else 0
    flags |= HAS_SEQUENCE if samples.sequence is not None else 0
    flags |= HAS_PACING if samples.paced is not None else 0
    flags |= PACED if samples.paced else 0
    header = HEADER.pack(
        MAGIC,
        VERSION,
        flags,
        len(samples.channels),
        len(label),
        round(rates[base] * 1000),
        samples.sequence or 0,
        round((samples.start or 0.0) * 1e6),
        n,
        len(patient),
    )
    return header + bytes(table) + bytes(data) + label + patient
