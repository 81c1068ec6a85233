"""ECG over MQTT: the four payloads that a device may publish. Bytes in, `Samples` out.

No standard exists for ECG over MQTT, so the agent defines one block of simultaneous channels in a compact binary form
(`agent.core.mqtt.binary`) and, by the same field names, in CBOR and JSON; the flat offset-binary JSON of simple 12-bit
devices is read too (`agent.core.mqtt.document`). `docs/mqtt.md` documents each byte for device makers.

A payload is taken whole or not at all.
"""

from __future__ import annotations

from agent.core.ecg import Encounter, Fault, Samples
from agent.core.mqtt.binary import BINARY_TYPE, MAGIC, decode_binary
from agent.core.mqtt.block import Block, Limits, OffsetBinary, PayloadError, Reason, refused
from agent.core.mqtt.document import CBOR_TYPE, JSON_TYPE, decode_document, load_cbor, load_json
from agent.core.mqtt.topic import TopicTemplate

_LIMITS = Limits()
_OFFSET = OffsetBinary()


def decode(
    topic: str,
    payload: bytes,
    content_type: str,
    template: TopicTemplate,
    received: float,
    *,
    limits: Limits = _LIMITS,
    offset: OffsetBinary = _OFFSET,
) -> Samples:
    """The block of one message. ``content_type`` is MQTT 5's property, empty where there is none.

    Raises:
        PayloadError: whatever is wrong with the message; nothing else is ever raised.
    """
    if (address := template.match(topic)) is None:
        raise refused(Reason.TOPIC, "the topic does not fit the template; publish on the configured topic")
    try:
        block = _decode(payload, content_type, limits, offset)
    except PayloadError as error:
        fault = error.fault
        raise PayloadError(Fault(fault.reason, fault.text, address.bed)) from None
    encounter = Encounter(patient_ids=block.patient) if block.patient else None
    return Samples(
        bed=address.bed,
        device=address.device,
        channels=block.channels,
        values=block.values,
        start=block.start,
        received=received,
        sequence=block.sequence,
        paced=block.paced,
        encounter=encounter,
        transport="mqtt",
    )


def _decode(payload: bytes, content_type: str, limits: Limits, offset: OffsetBinary) -> Block:
    if len(payload) > limits.payload:
        raise refused(Reason.TOO_LARGE, f"the payload has more than {limits.payload} bytes; send shorter blocks")
    match content_type.partition(";")[0].strip().lower():
        case "application/vnd.deepecg.block":
            return decode_binary(payload, limits)
        case "application/cbor":
            return decode_document(load_cbor(payload), limits, offset)
        case "application/json":
            return decode_document(load_json(payload), limits, offset)
        case "" | "application/octet-stream":
            return _sniff(payload, limits, offset)
    raise refused(Reason.CONTENT_TYPE, f"unknown content type; use {BINARY_TYPE}, {CBOR_TYPE}, {JSON_TYPE} or none")


def _sniff(payload: bytes, limits: Limits, offset: OffsetBinary) -> Block:
    """By the first bytes: the magic, a JSON object, or a CBOR map (major type 5, or RFC 8949's self-description)."""
    if payload.startswith(MAGIC):
        return decode_binary(payload, limits)
    if payload[:64].lstrip()[:1] == b"{":
        return decode_document(load_json(payload), limits, offset)
    if payload and (payload[0] >> 5 == 5 or payload.startswith(b"\xd9\xd9\xf7")):
        return decode_document(load_cbor(payload), limits, offset)
    raise refused(Reason.SYNTAX, "the payload is neither binary, CBOR nor JSON; begin it with DECG, a CBOR map or {")
