"""The JSON, CBOR and offset-binary documents, field by field."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import cbor2
import numpy as np
import pytest

from agent.core.ecg import ChannelKind, Lead
from agent.core.mqtt.block import Block, Limits, OffsetBinary, PayloadError, Reason
from agent.core.mqtt.document import decode_document, load_cbor, load_json


def read(**document: object) -> Block:
    return decode_document(load_json(json.dumps(document).encode()), Limits(), OffsetBinary())


def read_cbor(**document: object) -> Block:
    return decode_document(load_cbor(cbor2.dumps(document)), Limits(), OffsetBinary())


def refused(**document: object) -> str:
    with pytest.raises(PayloadError) as caught:
        read(**document)
    return caught.value.fault.reason


def test_the_readmes_example() -> None:
    block = read(
        rate=250,
        time="2026-01-31T12:00:00.250Z",
        sequence=42,
        leads={"II": [0.012, 0.015, None, 0.021]},
        channels=[{"code": 150452, "rate": 125, "label": "Pleth", "values": [0.51, 0.52]}],
        paced=False,
        filter="0.5-40 Hz",
        patient=["4711^^^NORTH^MR"],
    )
    assert [(c.lead, c.kind, c.label, c.unit, c.rate) for c in block.channels] == [
        (Lead.II, ChannelKind.ECG, "II", "mV", 250.0),
        (None, ChannelKind.PLETH, "Pleth", "1", 125.0),
    ]
    np.testing.assert_allclose(block.values[0], [0.012, 0.015, np.nan, 0.021], rtol=1e-6)
    assert block.start == datetime(2026, 1, 31, 12, 0, 0, 250_000, UTC).timestamp()
    assert (block.sequence, block.paced, block.patient) == (42, False, ("4711^^^NORTH^MR",))


def test_integers_with_a_scale() -> None:
    np.testing.assert_allclose(read(rate=250, scale=0.005, leads={"I": [0, 200, -200]}).values[0], [0, 1, -1])


@pytest.mark.parametrize("name", ["MLII", "DII", "ECG II", "lead_ii", "MDC_ECG_LEAD_II"])
def test_other_names_of_lead_ii(name: str) -> None:
    for document in ({"rate": 360, "leads": {name: [1.0]}}, {name: [2047]}):
        channel = read(**document).channels[0]
        assert (channel.lead, channel.code, channel.label) == (Lead.II, 131330, "II")


def test_what_has_the_shape_of_a_lead_is_named_in_the_refusal_and_nothing_else_is() -> None:
    for name, quoted in (("V7", True), ("CM5", True), ("Canary", False), ("4711", False)):
        with pytest.raises(PayloadError) as caught:
            read(rate=250, leads={name: [1]})
        assert (name in caught.value.fault.text) is quoted


@pytest.mark.parametrize("name", ["aVR", "AVR", "avr", "MDC_ECG_ELEC_POTL_AVR", "MDC_ECG_LEAD_AVR"])
def test_names_of_leads(name: str) -> None:
    assert read(rate=250, leads={name: [1]}).channels[0].lead is Lead.AVR


@pytest.mark.parametrize("name", ["V", "MCL", "ECG"])
def test_unassigned_electrodes_are_ecg_without_a_lead(name: str) -> None:
    channel = read(rate=250, leads={name: [1]}).channels[0]
    assert (channel.kind, channel.lead) == (ChannelKind.ECG, None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([1000, -1000, -32768], "<i2").tobytes(), [1, -1, np.nan]),
        (cbor2.CBORTag(77, np.array([1000, -1000, -32768], "<i2").tobytes()), [1, -1, np.nan]),
        (cbor2.CBORTag(73, np.array([1000, -1000, -32768], ">i2").tobytes()), [1, -1, np.nan]),
        (cbor2.CBORTag(85, np.array([1000, -1000, np.nan], "<f4").tobytes()), [1, -1, np.nan]),
        (cbor2.CBORTag(82, np.array([1000, -1000, np.nan], ">f8").tobytes()), [1, -1, np.nan]),
        (cbor2.CBORTag(78, np.array([1000, -1000, -32768], "<i4").tobytes()), [1, -1, -32.768]),
        ([1000, -1000.0, None], [1, -1, np.nan]),
    ],
)
def test_arrays_of_cbor(values: object, expected: list[float]) -> None:
    block = read_cbor(rate=500, scale=0.001, leads={"II": values})
    np.testing.assert_allclose(block.values[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "time",
    [
        1769860800.25,
        "2026-01-31T12:00:00.250Z",
        "2026-01-31T13:00:00.250+01:00",
        datetime(2026, 1, 31, 12, 0, 0, 250_000, UTC),
    ],
)
def test_times(time: object) -> None:
    assert read_cbor(rate=500, time=time, leads={"II": [1]}).start == 1769860800.25


def test_units_of_an_ecg_channel_are_converted() -> None:
    block = read(rate=500, channels=[{"code": 131330, "unit": "uV", "values": [1000, -500]}])
    np.testing.assert_allclose(block.values[0], [1, -0.5])
    assert (block.channels[0].unit, block.channels[0].lead) == ("mV", Lead.II)


@pytest.mark.parametrize(
    ("code", "unit", "expected", "ucum"),
    [
        (131330, "microvolts", 0.12, "mV"),
        (131330, "\u00b5V", 0.12, "mV"),
        (131330, "\u03bcV", 0.12, "mV"),
        (150036, "mmHg", 120, "mm[Hg]"),
        (150036, "kPa", 900.0744, "mm[Hg]"),
        (1, "furlong", 120, "furlong"),
    ],
)
def test_a_unit_that_is_known_is_converted_and_another_kept(code: int, unit: str, expected: float, ucum: str) -> None:
    block = read(rate=500, channels=[{"code": code, "unit": unit, "values": [120]}])
    np.testing.assert_allclose(block.values[0], [expected], rtol=1e-6)
    assert block.channels[0].unit == ucum


def test_a_device_may_say_that_a_lead_is_derived() -> None:
    block = read(rate=500, channels=[{"code": 131330, "derived": True, "values": [1]}, {"code": 131359, "values": [1]}])
    assert [(c.lead, c.derived) for c in block.channels] == [(Lead.II, True), (Lead.I, True)]


def test_offset_binary_as_seen_in_the_field() -> None:
    block = read(rate="250/s", resolution="1.5uV", baseline=2047, II=[2047, 2147, 4095, None], battery=80)
    np.testing.assert_allclose(block.values[0], [0, 0.15, 3.072, np.nan], rtol=1e-6)
    assert block.channels[0].rate == 250.0
    np.testing.assert_allclose(read(baseline=2000, leads={"I": [2100]}, rate=125).values[0], [0.15], rtol=1e-6)
    np.testing.assert_allclose(read(I=[2047, 2048], V=[0, 1]).values[0], [0, 0.0015], rtol=1e-6)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"leads": {"II": [1]}}, Reason.RATE),
        ({"rate": 0, "leads": {"II": [1]}}, Reason.RATE),
        ({"rate": True, "leads": {"II": [1]}}, Reason.RATE),
        ({"rate": "fast", "leads": {"II": [1]}}, Reason.RATE),
        ({"rate": 99, "leads": {"II": [1]}}, Reason.RATE),
        ({"rate": 1001, "leads": {"II": [1]}}, Reason.RATE),
        ({"rate": 250, "leads": {}}, Reason.CHANNELS),
        ({"rate": 250, "leads": []}, Reason.FIELD),
        ({"rate": 250, "leads": {"VII": [1]}}, Reason.CHANNELS),
        ({"rate": 250, "leads": {"II": [1], "ii": [1]}}, Reason.CHANNELS),
        ({"rate": 250, "leads": {"II": []}}, Reason.VALUES),
        ({"rate": 250, "leads": {"II": 1}}, Reason.VALUES),
        ({"rate": 250, "leads": {"II": ["1"]}}, Reason.VALUES),
        ({"rate": 250, "leads": {"II": [True]}}, Reason.VALUES),
        ({"rate": 250, "leads": {"II": [[1]]}}, Reason.VALUES),
        ({"rate": 250, "leads": {"II": [1e10]}}, Reason.VALUES),
        ({"rate": 250, "leads": {"II": [1], "I": [1, 2]}}, Reason.LENGTH),
        ({"rate": 250, "leads": {"II": [1] * 20}, "channels": [{"code": 1, "rate": 50, "values": [1]}]}, Reason.LENGTH),
        ({"rate": 250, "scale": 0, "leads": {"II": [1]}}, Reason.SCALE),
        ({"rate": 250, "scale": "1", "leads": {"II": [1]}}, Reason.SCALE),
        ({"rate": 250, "time": "yesterday", "leads": {"II": [1]}}, Reason.TIME),
        ({"rate": 250, "time": "2026-01-31T12:00:00", "leads": {"II": [1]}}, Reason.TIME),
        ({"rate": 250, "time": 1769860800250, "leads": {"II": [1]}}, Reason.TIME),
        ({"rate": 250, "time": [], "leads": {"II": [1]}}, Reason.TIME),
        ({"rate": 250, "sequence": -1, "leads": {"II": [1]}}, Reason.SEQUENCE),
        ({"rate": 250, "sequence": 1.0, "leads": {"II": [1]}}, Reason.SEQUENCE),
        ({"rate": 250, "paced": "no", "leads": {"II": [1]}}, Reason.FIELD),
        ({"rate": 250, "filter": 40, "leads": {"II": [1]}}, Reason.FIELD),
        ({"rate": 250, "patient": 4711, "leads": {"II": [1]}}, Reason.PATIENT),
        ({"rate": 250, "patient": ["a\rPID|"], "leads": {"II": [1]}}, Reason.PATIENT),
        ({"rate": 250, "patient": ["a~b"], "leads": {"II": [1]}}, Reason.PATIENT),
        ({"rate": 250, "channels": [1]}, Reason.FIELD),
        ({"rate": 250, "channels": {}}, Reason.FIELD),
        ({"rate": 250, "channels": [{"code": "pleth", "values": [1]}]}, Reason.FIELD),
        ({"rate": 250, "channels": [{"code": 131330, "unit": "bpm", "values": [1]}]}, Reason.SCALE),
        ({"rate": 250, "channels": [{"code": 1, "label": "x" * 65, "values": [1]}]}, Reason.FIELD),
        ({"II": [5000]}, Reason.VALUES),
        ({"II": [-1]}, Reason.VALUES),
        ({"II": [1], "resolution": "1.5 bananas"}, Reason.SCALE),
        ({"II": [1], "baseline": "middle"}, Reason.FIELD),
        ({"hello": [1]}, Reason.CHANNELS),
    ],
)  # fmt: skip
def test_every_field_is_checked(document: dict[str, object], reason: Reason) -> None:
    assert refused(**document) == reason


def test_fields_that_we_do_not_know_are_passed_over() -> None:
    assert read(rate=250, leads={"II": [1]}, battery=80, firmware="1.2").channels[0].lead is Lead.II
