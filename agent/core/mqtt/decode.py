"""ECG over MQTT: topics, and the four payloads that a device may publish. Bytes in, `Samples` out.

No standard exists for ECG over MQTT, so the agent defines one block of simultaneous channels in a compact binary form
(`mqtt_binary`) and, by the same field names, in CBOR and JSON; the flat offset-binary JSON of simple 12-bit devices is
read too (`mqtt_document`). The README, *Sending ECG over MQTT*, documents each byte for device makers.

A payload is taken whole or not at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.core.ecg import Encounter, Fault, Samples
from agent.core.errors import DeepECGError
from agent.core.mqtt.binary import BINARY_TYPE, MAGIC, decode_binary, encode_binary
from agent.core.mqtt.block import Block, Limits, OffsetBinary, PayloadError, Reason, ecg_block, refused
from agent.core.mqtt.document import (
    CBOR_TYPE,
    JSON_TYPE,
    decode_document,
    encode_cbor,
    encode_json,
    encode_offset_binary,
    load_cbor,
    load_json,
)

__all__ = [
    "BINARY_TYPE",
    "CBOR_TYPE",
    "DEFAULT_TOPIC",
    "JSON_TYPE",
    "Address",
    "Limits",
    "OffsetBinary",
    "PayloadError",
    "Reason",
    "TemplateError",
    "TopicTemplate",
    "decode",
    "ecg_block",
    "encode_binary",
    "encode_cbor",
    "encode_json",
    "encode_offset_binary",
]

DEFAULT_TOPIC = "ward/v1/{site}/{unit}/{bed}/ecg/{device}"

_PART = re.compile(r"[^/+#\x00-\x1f\x7f-\x9f]{1,64}")


class TemplateError(DeepECGError, ValueError):
    """A topic template of the configuration cannot be used; one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Address:
    """Whom a topic speaks of."""

    bed: str
    """``site/unit/bed``."""
    device: str


class TopicTemplate:
    """A topic with placeholders: ``{site}``, ``{unit}``, ``{bed}`` and ``{device}``, each a whole level.

    Where the topic lacks one of site, unit or device, the constant given here stands in for it.

    Raises:
        TemplateError: unknown, repeated or missing placeholder, or a level that MQTT does not allow.
    """

    def __init__(self, text: str = DEFAULT_TOPIC, *, site: str = "", unit: str = "", device: str = "") -> None:
        self.text = text
        self._constants = {"site": site, "unit": unit, "device": device}
        levels = text.split("/")
        names = [level[1:-1] for level in levels if level.startswith("{") and level.endswith("}")]
        for level in levels:
            if level.startswith("{") and level.endswith("}"):
                if level[1:-1] not in {"site", "unit", "bed", "device"}:
                    raise TemplateError(
                        f"topic {text!r}: {level} is none of {{site}}, {{unit}}, {{bed}} and {{device}}"
                    )
            elif not _PART.fullmatch(level) or "{" in level or "}" in level:
                raise TemplateError(
                    f"topic {text!r}: level {level!r} must be a plain word, or one placeholder by itself; "
                    "wildcards are put in by the agent"
                )
        if len(set(names)) != len(names):
            raise TemplateError(f"topic {text!r}: a placeholder comes twice; name each once")
        if "bed" not in names:
            raise TemplateError(f"topic {text!r}: no {{bed}}; without it the beds cannot be told apart")
        for name in ("site", "unit"):
            if name not in names and not _PART.fullmatch(self._constants[name]):
                raise TemplateError(f"topic {text!r}: no {{{name}}}; add it, or set `{name}` in the configuration")
        self._names = tuple(names)
        self.filter = "/".join("+" if level.startswith("{") else level for level in levels)
        """The subscription's filter: ``+`` for every placeholder."""
        parts = (
            f"(?P<{level[1:-1]}>{_PART.pattern})" if level.startswith("{") else re.escape(level) for level in levels
        )
        self._pattern = re.compile("/".join(parts))

    def match(self, topic: str) -> Address | None:
        """The bed and device of a topic; None where it is not one of this template's."""
        if (found := self._pattern.fullmatch(topic)) is None:
            return None
        parts = self._constants | found.groupdict()
        return Address(f"{parts['site']}/{parts['unit']}/{parts['bed']}", parts["device"])

    def topic(self, bed: str, device: str = "") -> str:
        """The topic of a bed ``site/unit/bed`` (and device).

        Raises:
            TemplateError: the bed is not of three plain levels, or the device is none.
        """
        levels = bed.split("/")
        if len(levels) != 3:
            raise TemplateError(f"a bed id has three levels, site/unit/bed, not {len(levels)}")
        parts = dict(zip(("site", "unit", "bed"), levels, strict=True), device=device)
        if not all(_PART.fullmatch(parts[name]) for name in self._names):
            raise TemplateError("the levels of a bed id and a device must be plain words without / + # or controls")
        return self.text.format_map(parts)


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
