"""Topics, the choice of a decoder, and what holds for every payload: round trips, and no error but PayloadError."""

from __future__ import annotations

import json

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.ecg import LEADS, Lead, Samples
from agent.core.mqtt.binary import BINARY_TYPE, encode_binary
from agent.core.mqtt.block import Limits, OffsetBinary, PayloadError, Reason, ecg_block
from agent.core.mqtt.decode import decode
from agent.core.mqtt.document import CBOR_TYPE, JSON_TYPE, encode_cbor, encode_json, encode_offset_binary
from agent.core.mqtt.topic import TopicTemplate

TEMPLATE = TopicTemplate()
TOPIC = "ward/v1/north/icu/7/ecg/monitor-1"
TYPES = ("", BINARY_TYPE, CBOR_TYPE, JSON_TYPE, "application/octet-stream", "application/json; charset=utf-8", "text/x")


def take(payload: bytes, content_type: str = "", topic: str = TOPIC, **options: object) -> Samples:
    return decode(topic, payload, content_type, TEMPLATE, 12.5, **options)  # type: ignore[arg-type]


def twelve_leads(n: int = 500, rate: float = 500.0, **fields: object) -> Samples:
    rng = np.random.default_rng(7)
    leads = {lead: rng.normal(0, 0.5, n).astype(np.float32) for lead in LEADS}
    return ecg_block("north/icu/7", "monitor-1", leads, rate, received=12.5, **fields)  # type: ignore[arg-type]


def assert_same(got: Samples, sent: Samples, step: float) -> None:
    assert (got.bed, got.device, got.received) == (sent.bed, sent.device, sent.received)
    assert [(c.kind, c.code, c.rate, c.lead, c.unit) for c in got.channels] == [
        (c.kind, c.code, c.rate, c.lead, c.unit) for c in sent.channels
    ]
    for mine, theirs in zip(got.values, sent.values, strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, theirs, atol=step * 0.51, rtol=1e-6)
    assert got.sequence == sent.sequence
    assert got.paced == sent.paced
    assert got.start == (None if sent.start is None else pytest.approx(sent.start, abs=1e-6))
    assert (got.encounter.patient_ids if got.encounter else ()) == (
        sent.encounter.patient_ids if sent.encounter else ()
    )


# --- topics


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "ward/v1/n/i/7/ecg",
        "ward/v1/n/i/7/ecg/d/x",
        "ward/v1/n//7/ecg/d",
        "ward/v2/n/i/7/ecg/d",
        "ward/v1/n/i/7/ecg/\n",
    ],
)
def test_a_block_on_another_topic_is_refused(topic: str) -> None:
    with pytest.raises(PayloadError) as caught:
        take(encode_binary(twelve_leads()), topic=topic)
    assert caught.value.fault.reason == Reason.TOPIC
    assert caught.value.fault.bed is None


@pytest.mark.parametrize(
    ("payload", "content_type"),
    [
        (encode_binary(twelve_leads()), BINARY_TYPE),
        (encode_cbor(twelve_leads()), CBOR_TYPE),
        (encode_json(twelve_leads()), JSON_TYPE),
        (encode_json(twelve_leads()), "Application/JSON; charset=utf-8"),
        (b"\xd9\xd9\xf7" + encode_cbor(twelve_leads()), CBOR_TYPE),
        (b" \r\n" + encode_json(twelve_leads()), JSON_TYPE),
    ],
)
def test_content_type_and_first_bytes_choose_alike(payload: bytes, content_type: str) -> None:
    assert_same(take(payload, content_type), twelve_leads(), 0.001)
    assert_same(take(payload, ""), twelve_leads(), 0.001)
    assert_same(take(payload, "application/octet-stream"), twelve_leads(), 0.001)


def test_the_content_type_has_the_last_word() -> None:
    for content_type in (CBOR_TYPE, JSON_TYPE):
        with pytest.raises(PayloadError) as caught:
            take(encode_binary(twelve_leads()), content_type)
        assert caught.value.fault.reason == Reason.SYNTAX
    with pytest.raises(PayloadError) as caught:
        take(encode_binary(twelve_leads()), "image/png")
    assert caught.value.fault.reason == Reason.CONTENT_TYPE


def test_limits() -> None:
    payload = encode_binary(twelve_leads())
    for limits, reason in (
        (Limits(payload=100), Reason.TOO_LARGE),
        (Limits(channels=11), Reason.CHANNELS),
        (Limits(samples=499), Reason.LENGTH),
    ):
        with pytest.raises(PayloadError) as caught:
            take(payload, limits=limits)
        assert caught.value.fault.reason == reason
        assert caught.value.fault.bed == "north/icu/7"


# --- round trips


blocks = st.builds(
    lambda leads, n, rate, seed, start, sequence, paced, label, patient: ecg_block(
        "north/icu/7",
        "monitor-1",
        {lead: np.random.default_rng(seed + i).uniform(-5, 5, n).astype(np.float32) for i, lead in enumerate(leads)},
        rate,
        start=start,
        sequence=sequence,
        received=12.5,
        paced=paced,
        filter_label=label,
        patient=patient,
    ),
    st.lists(st.sampled_from(LEADS), min_size=1, max_size=12, unique=True),
    st.integers(1, 300),
    st.sampled_from([100.0, 125.0, 240.0, 250.0, 499.75, 500.0, 1000.0]),
    st.integers(0, 1000),
    st.none() | st.floats(0, 4e9).map(lambda t: round(t, 6)),
    st.none() | st.integers(0, 2**32 - 1),
    st.none() | st.booleans(),
    st.sampled_from(["", "0.5-40 Hz", "0,05–150 Hz"]),
    st.lists(st.sampled_from(["4711^^^NORTH^MR", "Ü-1", "x" * 250]), max_size=3, unique=True).map(tuple),
)


@settings(max_examples=25, deadline=None)
@given(blocks)
def test_round_trip_of_every_form(block: Samples) -> None:
    assert_same(take(encode_binary(block)), block, 0.001)
    assert_same(take(encode_cbor(block)), block, 0.001)
    assert_same(take(encode_json(block)), block, 0.0001)
    for payload in (encode_binary(block), encode_cbor(block), encode_json(block)):
        assert {c.filter_label for c in take(payload).channels} == {c.filter_label for c in block.channels}


def test_invalid_samples_stay_invalid() -> None:
    values = np.array([0.1, np.nan, -0.2, np.nan], np.float32)
    block = ecg_block("north/icu/7", "monitor-1", {Lead.II: values, Lead.V1: np.zeros(4, np.float32)}, 250.0)
    for payload in (encode_binary(block), encode_cbor(block), encode_json(block), encode_offset_binary(block)):
        got = take(payload)
        assert np.isnan(got.values[0]).tolist() == [False, True, False, True]
        assert not np.isnan(got.values[1]).any()


def test_offset_binary_round_trip() -> None:
    block = twelve_leads(250, 250.0, sequence=3, start=1.75e9)
    got = take(encode_offset_binary(block))
    assert_same(got, block, 0.0015)


def test_decoding_leaves_nothing_of_the_payload_behind() -> None:
    payload = bytearray(encode_binary(twelve_leads()))
    got = take(bytes(payload))
    before = [v.copy() for v in got.values]
    payload[:] = bytes(len(payload))
    for mine, theirs in zip(got.values, before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


# --- hostile bytes

forms = (
    encode_binary(twelve_leads(20, start=1.75e9, sequence=9, paced=True, filter_label="0.5-40 Hz", patient=("4711",))),
    encode_cbor(twelve_leads(20, start=1.75e9, sequence=9, paced=True, patient=("4711",))),
    encode_json(twelve_leads(5, start=1.75e9, sequence=9, paced=True, patient=("4711",))),
    encode_offset_binary(twelve_leads(5, 250.0, start=1.75e9, sequence=9)),
)


def survives(payload: bytes, content_type: str = "") -> None:
    """Either a sound block or a PayloadError of the closed list: nothing else is raised."""
    try:
        got = take(payload, content_type)
    except PayloadError as error:
        assert error.fault.reason in set(Reason)
        assert error.fault.bed == "north/icu/7"
        assert "4711" not in error.fault.text
        assert error.fault.text.isprintable()
    else:
        assert len(got.channels) == len(got.values) > 0
        for channel, values in zip(got.channels, got.values, strict=True):
            assert channel.rate > 0
            assert values.dtype == np.float32
            assert not np.isinf(values).any()


@pytest.mark.parametrize("payload", forms)
def test_cut_short_anywhere(payload: bytes) -> None:
    for end in range(len(payload)):
        with pytest.raises(PayloadError):
            take(payload[:end])


@pytest.mark.parametrize("payload", forms)
def test_trailing_garbage_is_refused(payload: bytes) -> None:
    for tail in (b"\x00", b"}", b"\xff" * 40, payload):
        with pytest.raises(PayloadError):
            take(payload + tail)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(TYPES))
def test_any_bytes(payload: bytes, content_type: str) -> None:
    survives(payload, content_type)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(forms),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
    st.sampled_from(TYPES),
)
def test_any_bytes_changed(payload: bytes, changes: list[tuple[int, int]], content_type: str) -> None:
    mutable = bytearray(payload)
    for at, value in changes:
        mutable[at % min(len(mutable), 200)] = value
    survives(bytes(mutable), content_type)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.binary(max_size=10)
anything = st.recursive(
    scalars | st.builds(cbor2.CBORTag, st.sampled_from([0, 1, 2, 4, 5, 30, 35, 73, 77, 85, 258]), scalars),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(
    [
        "rate",
        "time",
        "sequence",
        "scale",
        "leads",
        "channels",
        "paced",
        "filter",
        "patient",
        "baseline",
        "resolution",
        "II",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(fields, anything, max_size=6), st.booleans())
def test_any_document(document: dict[str, object], sound: bool) -> None:
    base = {"rate": 250, "leads": {"II": [0.1, None, 0.3]}} if sound else {}
    survives(cbor2.dumps(base | document), CBOR_TYPE)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        fields,
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
            max_leaves=8,
        ),
    )
)
def test_any_json_document(document: dict[str, object]) -> None:
    survives(json.dumps({"rate": 250, "leads": {"II": [1, 2]}} | document).encode(), JSON_TYPE)


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 100_000,
        b'{"leads":' * 50_000,
        b'{"rate":' + b"9" * 10_000 + b"}",
        b'{"rate":1e999,"leads":{"II":[1]}}',
        b'{"rate":250,"leads":{"II":[1e308,-1e308]}}',
        b'{"rate":250,"leads":{"II":[' + b"9" * 4000 + b"]}}",
        b'{"rate":250,"leads":{"II":[NaN]}}',
        b"\xa1" * 100_000,
        b"\xbb\x00\x00\x00\xff\xff\xff\xff\xff",
        b"\xa1\x61r\x5b\x00\x00\x00\xff\xff\xff\xff\xff",
        b"\xbf\x61a\xd8\x1c\x81\xd8\x1d\x00\xff",
        b'{"rate":250,"leads":{"II":[1]},"rate":"\xff"}',
    ],
    ids=range(12),
)
def test_bombs(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        take(payload)


def test_the_flat_form_uses_what_the_configuration_says() -> None:
    offset = OffsetBinary(baseline=512, lowest=0, highest=1023, microvolts=4.88, rate=125.0)
    got = take(b'{"II":[512,612,0,1023]}', offset=offset)
    np.testing.assert_allclose(got.values[0], [0, 0.488, -2.49856, 2.49368], atol=1e-5)
    assert got.channels[0].rate == 125.0
    with pytest.raises(PayloadError) as caught:
        take(b'{"II":[512,1024]}', offset=offset)
    assert caught.value.fault.reason == Reason.VALUES
