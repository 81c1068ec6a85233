"""The reader of PUBLISH against paho's own writer, and PUBACK byte by byte."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.mqtt.packets import parse_publish, pubacks

text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"), max_size=20)


def packed(**values: object) -> bytes:
    properties = Properties(PacketTypes.PUBLISH)
    for name, value in values.items():
        if value is not None:
            setattr(properties, name, value)
    return bytes(properties.pack())


@settings(max_examples=80, deadline=None)
@given(
    topic=text,
    qos=st.sampled_from([0, 1]),
    mid=st.integers(1, 65535),
    body=st.binary(max_size=40),
    known=st.fixed_dictionaries(
        {},
        optional={
            "ContentType": text,
            "MessageExpiryInterval": st.integers(0, 2**32 - 1),
            "PayloadFormatIndicator": st.sampled_from([0, 1]),
            "ResponseTopic": text,
            "CorrelationData": st.binary(max_size=200),
            "TopicAlias": st.integers(1, 65535),
            "UserProperty": st.lists(st.tuples(text, text), min_size=1, max_size=5),
            "SubscriptionIdentifier": st.integers(1, 268435455),
        },
    ),
)
def test_what_paho_packs_is_parsed(topic: str, qos: int, mid: int, body: bytes, known: dict[str, object]) -> None:
    name = topic.encode()
    head = len(name).to_bytes(2, "big") + name + (mid.to_bytes(2, "big") if qos else b"")
    command = 0x30 | qos << 1
    packet = head + packed(**known) + body
    got = parse_publish(command, packet, properties=True)
    assert got == (topic, mid if qos else 0, known.get("ContentType", ""), len(packet) - len(body))
    assert parse_publish(command, bytearray(head + body), properties=False) == (topic, got[1], "", len(head))


@settings(max_examples=150, deadline=None)
@given(st.integers(0x30, 0x3F), st.binary(max_size=60), st.booleans())
def test_any_packet_is_parsed_or_refused(command: int, packet: bytes, properties: bool) -> None:
    try:
        *_, at = parse_publish(command, packet, properties=properties)
    except IndexError:
        return
    assert 2 <= at <= len(packet)


def test_a_topic_that_is_no_utf8_is_taken_but_fits_nothing() -> None:
    assert parse_publish(0x30, b"\x00\x02\xff\xfe", properties=False)[0] == "\ufffd\ufffd"


def test_acknowledgements_stand_one_after_the_other() -> None:
    assert pubacks([1, 0xFFFE]) == bytes.fromhex("40020001 4002fffe")
