"""The two packets that come and go by the hundred each second: PUBLISH is read here, PUBACK written.

Quoted sections are those of MQTT Version 5.0 (OASIS); MQTT 3.1.1 has the same packets without properties.
"""

from __future__ import annotations

from collections.abc import Iterable


def pubacks(mids: Iterable[int]) -> bytes:
    """One PUBACK (section 3.4) for each packet id, for one write."""
    return b"".join(b"\x40\x02" + mid.to_bytes(2, "big") for mid in mids)


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
