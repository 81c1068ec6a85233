"""The compact binary payload, byte by byte as the README documents it."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from agent.core.ecg import Channel, ChannelKind, Lead, Samples
from agent.core.mqtt.binary import decode_binary, encode_binary
from agent.core.mqtt.block import Limits, PayloadError, Reason, ecg_block

GOLDEN = (
    bytes.fromhex(
        "44454347"
        "01"
        "0f"
        "02"
        "09"  # DECG, version 1, clock + sequence + pacing known + paced, 2 channels, 9 bytes of filter label
        "90d00300"
        "2a000000"
        "00b094c7293c0600"  # 250000 mHz, sequence 42, 1755000000.000000 s
        "0400"
        "0400"  # 4 samples, 4 bytes of patient
        "02010200"
        "6f12833a"
        "0000"
        "0000"  # 131330 lead II, 0.001 mV
        "b44b0200"
        "0000803f"
        "0200"
        "0000"  # 150452 pleth, 1.0, half the rate
        "0000"
        "e803"
        "18fc"
        "0080"  # 0, 1 mV, -1 mV, invalid
        "0100"
        "0200"
    )
    + b"0.5-40 Hz"
    + b"4711"
)


def refused(payload: bytes) -> str:
    with pytest.raises(PayloadError) as caught:
        decode_binary(payload, Limits())
    return caught.value.fault.reason


def patched(at: int, form: str, value: float) -> bytes:
    data = bytearray(GOLDEN)
    struct.pack_into(form, data, at, value)
    return bytes(data)


def test_golden_bytes() -> None:
    block = decode_binary(GOLDEN, Limits())
    ii, pleth = block.channels
    assert (ii.kind, ii.lead, ii.code, ii.unit, ii.rate, ii.filter_label) == (
        ChannelKind.ECG, Lead.II, 131330, "mV", 250.0, "0.5-40 Hz",
    )  # fmt: skip
    assert (pleth.kind, pleth.code, pleth.unit, pleth.rate, pleth.lead) == (ChannelKind.PLETH, 150452, "1", 125.0, None)
    np.testing.assert_allclose(block.values[0], [0, 1, -1, np.nan], rtol=1e-6)
    np.testing.assert_allclose(block.values[1], [1, 2])
    assert (block.start, block.sequence, block.paced, block.patient) == (1755000000.0, 42, True, ("4711",))


def test_without_clock_sequence_and_pacing() -> None:
    block = decode_binary(patched(5, "<B", 0), Limits())
    assert (block.start, block.sequence, block.paced) == (None, None, None)


@pytest.mark.parametrize(
    ("at", "form", "value", "reason"),
    [
        (0, "<B", 0x45, Reason.SYNTAX),
        (4, "<B", 2, Reason.VERSION),
        (5, "<B", 0x1F, Reason.FIELD),
        (6, "<B", 0, Reason.CHANNELS),
        (6, "<B", 65, Reason.CHANNELS),
        (7, "<B", 200, Reason.LENGTH),
        (8, "<I", 99_000, Reason.RATE),
        (8, "<I", 1_000_001, Reason.RATE),
        (8, "<I", 0, Reason.RATE),
        (16, "<q", -1, Reason.TIME),
        (16, "<q", 1 << 62, Reason.TIME),
        (24, "<H", 0, Reason.LENGTH),
        (24, "<H", 5, Reason.RATE),  # the pleth's divisor 2 does not divide 5
        (24, "<H", 6, Reason.LENGTH),
        (26, "<H", 40, Reason.LENGTH),
        (32, "<f", float("nan"), Reason.SCALE),
        (32, "<f", float("inf"), Reason.SCALE),
        (32, "<f", 0.0, Reason.SCALE),
        (32, "<f", -1.0, Reason.SCALE),
        (36, "<H", 4, Reason.RATE),  # an ECG channel of 62.5 Hz
        (38, "<H", 2, Reason.FIELD),
        (40, "<I", 131330, Reason.CHANNELS),
    ],
)
def test_every_field_is_checked(at: int, form: str, value: float, reason: Reason) -> None:
    assert refused(patched(at, form, value)) == reason


def test_a_lead_twice_is_refused() -> None:
    payload = bytearray(GOLDEN)
    struct.pack_into("<IfH", payload, 40, 131330, 0.001, 0)
    assert refused(bytes(payload[:-13]) + b"\x00\x00" * 2 + b"0.5-40 Hz4711") == Reason.CHANNELS


def test_texts_must_be_printable_utf8() -> None:
    assert refused(GOLDEN[:-4] + b"\xff\xfe\xfd\xfc") == Reason.FIELD
    assert refused(GOLDEN[:-4] + b"47\r1") == Reason.FIELD
    assert refused(GOLDEN[:-13] + b"0.5\n40 Hz4711") == Reason.FIELD


def test_encoder_refuses_rates_that_do_not_divide() -> None:
    def channel(code: int, rate: float) -> Channel:
        return Channel(ChannelKind.OTHER, code, "", "1", rate)

    samples = Samples("a/b/c", "d", (channel(1, 500), channel(2, 150)), (np.zeros(500), np.zeros(150)), None, 0.0)
    with pytest.raises(ValueError, match="divide"):
        encode_binary(samples)


def test_range_and_step() -> None:
    block = ecg_block("a/b/c", "d", {Lead.I: np.array([40, -40, 0.0004, 0.0006], np.float32)}, 250)
    np.testing.assert_allclose(
        decode_binary(encode_binary(block), Limits()).values[0], [32.767, -32.767, 0, 0.001], 1e-5
    )
