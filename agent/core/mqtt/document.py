"""The JSON and CBOR payloads, which share their field names, and the flat offset-binary JSON of 12-bit devices."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, NoReturn

import cbor2
import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import Channel, ChannelKind, FloatArray, Samples
from agent.core.mqtt.block import (
    INVALID,
    QUANTITY,
    Block,
    Limits,
    OffsetBinary,
    Reason,
    channel_of,
    code_of_lead,
    is_finite,
    known_lead,
    no_lead_twice,
    patients_of,
    rate_of,
    refused,
    scale_of,
    sequence_of,
    time_of,
)
from agent.core.nomenclature import CODE_OF_LEAD, millivolts_per, unit_of

CBOR_TYPE = "application/cbor"
JSON_TYPE = "application/json"

_OFFSET = OffsetBinary()

_TYPED_ARRAYS = {72: "|i1", 73: ">i2", 74: ">i4", 77: "<i2", 78: "<i4", 81: ">f4", 82: ">f8", 85: "<f4", 86: "<f8"}
"""RFC 8746, section 2.1: the tags of signed integers and floats."""


def load_json(payload: bytes) -> object:
    """Whatever the JSON holds. `PayloadError` where it is none."""

    def no_constant(_: str) -> NoReturn:
        raise refused(Reason.SYNTAX, "NaN and Infinity are not JSON; send null for an invalid sample")

    try:
        return json.loads(payload, parse_constant=no_constant)
    except (ValueError, RecursionError):  # UnicodeDecodeError and an integer of thousands of digits are ValueErrors
        raise refused(Reason.SYNTAX, "the payload is not valid JSON in UTF-8; send one JSON object") from None


def load_cbor(payload: bytes) -> object:
    """Whatever the CBOR holds, and nothing after it. `PayloadError` where it is none."""
    try:
        stream = BytesIO(payload)
        decoder = cbor2.CBORDecoder(stream)
        document = decoder.decode()
        rest = _rest(decoder)
    except (cbor2.CBORError, ValueError, TypeError, ArithmeticError, RecursionError, EOFError):
        # the semantic tags (dates, fractions, expressions …) raise their own kinds in some versions of cbor2
        raise refused(Reason.SYNTAX, "the payload is not valid CBOR; send one CBOR map (RFC 8949)") from None
    if rest:
        raise refused(Reason.SYNTAX, "bytes follow the CBOR map; send the map alone")
    return document


def _rest(decoder: cbor2.CBORDecoder) -> bool:
    try:
        decoder.read(1)
    except (cbor2.CBORError, EOFError):
        return False
    return True


def decode_document(document: object, limits: Limits, offset: OffsetBinary) -> Block:
    """The block of a loaded JSON or CBOR document. `PayloadError` where it breaks the form or ``limits``."""
    if not isinstance(document, Mapping):
        raise refused(Reason.SYNTAX, "the payload is not a map of fields; send one object with rate and leads")
    flat = "leads" not in document and "channels" not in document
    rate = rate_of(document.get("rate", offset.rate if flat else None))
    label = document.get("filter")
    if label is not None and (not isinstance(label, str) or len(label) > 64 or not label.isprintable()):
        raise refused(Reason.FIELD, "filter must be a printable text of at most 64 characters, as 0.5-40 Hz")
    paced = document.get("paced")
    if paced is not None and not isinstance(paced, bool):
        raise refused(Reason.FIELD, "paced must be true, false or null")
    build = _Builder(rate, label or "", limits)
    if flat or "baseline" in document or "resolution" in document:
        _flat(document, build, offset)
    else:
        scale = scale_of(document.get("scale", 1.0))
        for name, values in _map(document.get("leads", {}), "leads").items():
            build.add(code_of_lead(name), values, scale)
    for entry in _list(document.get("channels", ()), "channels"):
        _channel_entry(_map(entry, "an entry of channels"), build)
    channels, values = build.finish()
    return Block(
        channels,
        values,
        start=time_of(document.get("time")),
        sequence=sequence_of(document.get("sequence")),
        paced=paced,
        patient=patients_of(document.get("patient")),
    )


def _channel_entry(entry: Mapping[object, object], build: _Builder) -> None:
    code = entry.get("code", 0)
    label, unit, derived = entry.get("label", ""), entry.get("unit", ""), entry.get("derived", False)
    if not isinstance(code, int) or isinstance(code, bool) or not 0 <= code < 1 << 32:
        raise refused(Reason.FIELD, "a channel's code must be an MDC code as a whole number; 150452 is the pleth")
    if not isinstance(label, str) or len(label) > 64 or not isinstance(unit, str) or len(unit) > 16:
        raise refused(Reason.FIELD, "a channel's label and unit must be short texts (64 and 16 characters)")
    if not (label + unit).isprintable() or not isinstance(derived, bool):
        raise refused(Reason.FIELD, "a channel's label and unit must be printable, and derived true or false")
    rate = rate_of(entry["rate"]) if "rate" in entry else build.rate
    scale = scale_of(entry.get("scale", 1.0))
    build.add(code, entry.get("values"), scale, rate=rate, label=label, unit=unit, derived=derived)


def _flat(document: Mapping[object, object], build: _Builder, offset: OffsetBinary) -> None:
    """Offset-binary: ``(value - baseline) * resolution``; the leads under ``leads``, or as fields of their own."""
    baseline = document.get("baseline", offset.baseline)
    if not is_finite(baseline):
        raise refused(Reason.FIELD, "baseline must be a number: the value at 0 mV, as 2047")
    scale = _resolution(document.get("resolution"), offset)
    leads = document.get("leads")
    if leads is None:
        leads = {n: v for n, v in document.items() if isinstance(n, str) and known_lead(n)}
    for name, values in _map(leads, "leads").items():
        build.add(code_of_lead(name), values, scale, baseline=float(baseline), bounds=(offset.lowest, offset.highest))


def _resolution(value: object, offset: OffsetBinary) -> float:
    """mV per step, of ``"1.5uV"`` or a number of µV."""
    if value is None:
        return scale_of(offset.microvolts / 1e3)
    if isinstance(value, str):
        found = QUANTITY.fullmatch(value[:40])
        factor = millivolts_per(found[2]) if found else None
        if found is None or factor is None:
            raise refused(Reason.SCALE, "resolution must be a quantity with V, mV, uV or nV, as 1.5uV")
        return scale_of(float(found[1]) * factor)
    return scale_of(value / 1e3 if is_finite(value) else None)


class _Builder:
    """Collects the channels of a document."""

    def __init__(self, rate: float, label: str, limits: Limits) -> None:
        self.rate = rate
        self._filter = label
        self._limits = limits
        self._channels: list[Channel] = []
        self._values: list[FloatArray] = []

    def add(
        self,
        code: int,
        values: object,
        scale: float,
        *,
        rate: float | None = None,
        label: str = "",
        unit: str = "",
        derived: bool = False,
        baseline: float = 0.0,
        bounds: tuple[int, int] | None = None,
    ) -> None:
        if len(self._channels) >= self._limits.channels:
            raise refused(Reason.CHANNELS, f"a block has at most {self._limits.channels} channels")
        known = unit_of(unit) if unit else None
        channel = channel_of(
            code, rate or self.rate, self._filter, derived=derived, label=label, unit=known.ucum if known else unit
        )
        if channel.kind is ChannelKind.ECG and unit and (known is None or known.ucum != channel.unit):
            raise refused(Reason.SCALE, "an ECG channel's unit must be V, mV, uV or nV")
        if known is not None:
            scale = scale_of(scale * known.factor)
        numbers = _numbers(values, self._limits.samples)
        if bounds is not None and np.any((numbers < bounds[0]) | (numbers > bounds[1])):
            raise refused(
                Reason.VALUES,
                f"values lie outside {bounds[0]} to {bounds[1]}; set offset_binary to the device's own range",
            )
        self._channels.append(channel)
        scaled = (numbers - baseline) * scale if baseline else numbers * scale
        self._values.append(scaled.astype(np.float32))

    def finish(self) -> tuple[tuple[Channel, ...], tuple[FloatArray, ...]]:
        if not self._channels:
            raise refused(Reason.CHANNELS, "the block has no channel; send at least one lead")
        no_lead_twice(self._channels)
        seconds = [len(v) / c.rate for c, v in zip(self._channels, self._values, strict=True)]
        # simultaneous channels last equally long, but for one sample of the slower
        slack = {c.rate: 1.0 / c.rate for c in self._channels}
        if max(seconds) - min(seconds) > (max(slack.values()) if len(slack) > 1 else 1e-9):
            raise refused(Reason.LENGTH, "the channels last unequally long; send the same stretch of time of each")
        return tuple(self._channels), tuple(self._values)


def _numbers(values: object, limit: int) -> NDArray[np.float64]:
    """One channel's values as float64, NaN where invalid: a list, int16 little-endian bytes, or an RFC 8746 array."""
    if isinstance(values, cbor2.CBORTag):
        if values.tag not in _TYPED_ARRAYS or not isinstance(values.value, bytes):
            raise refused(Reason.VALUES, "the typed array's tag is unknown; send sint16 (tag 77) or float32 (tag 85)")
        return _buffer(values.value, np.dtype(_TYPED_ARRAYS[values.tag]), limit)
    if isinstance(values, bytes):
        return _buffer(values, np.dtype("<i2"), limit)
    if not isinstance(values, list | tuple) or not 0 < len(values) <= limit:
        raise refused(Reason.VALUES, f"a channel's values must be an array of 1 to {limit} numbers")
    if not set(map(type, values)) <= {int, float, type(None)}:
        raise refused(Reason.VALUES, "a channel's values must be numbers, or null where invalid")
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:
        numbers = np.array([np.inf])
    if (np.abs(numbers) > 1e9).any():
        raise refused(Reason.VALUES, "a value is beyond 1e9; send null for an invalid sample")
    return numbers


def _buffer(data: bytes, kind: np.dtype[Any], limit: int) -> NDArray[np.float64]:
    count, odd = divmod(len(data), kind.itemsize)
    if odd or not 0 < count <= limit:
        raise refused(Reason.VALUES, f"a byte string must hold 1 to {limit} values of {kind.itemsize} bytes each")
    raw = np.frombuffer(data, kind)
    numbers = raw.astype(np.float64)
    if kind.kind == "i" and kind.itemsize == 2:
        numbers[raw == INVALID] = np.nan
    elif (np.abs(numbers) > 2.0**32).any():
        raise refused(Reason.VALUES, "a value is beyond 1e9; send NaN for an invalid sample")
    return numbers


def _map(value: object, what: str) -> Mapping[object, object]:
    if not isinstance(value, Mapping):
        raise refused(Reason.FIELD, f"{what} must be a map; see the documented payload")
    return value


def _list(value: object, what: str) -> list[object] | tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise refused(Reason.FIELD, f"{what} must be an array; see the documented payload")
    return value


def encode_json(samples: Samples) -> bytes:
    """The JSON payload of a block: mV rounded to 0.1 µV, null where invalid."""
    return json.dumps(_fields(samples, _rounded), separators=(",", ":")).encode()


def encode_cbor(samples: Samples, *, millivolts: float = 0.001) -> bytes:
    """The CBOR payload of a block: ECG as int16 in steps of ``millivolts``, other channels as float32 (tag 85)."""

    def steps(channel: Channel, values: FloatArray) -> object:
        if channel.kind is not ChannelKind.ECG:
            return cbor2.CBORTag(85, values.astype("<f4").tobytes())
        rounded = np.clip(np.rint(values / np.float32(millivolts)), -32767, 32767)
        return np.where(np.isnan(rounded), INVALID, rounded).astype("<i2").tobytes()

    fields = _fields(samples, steps, millivolts)
    return cbor2.dumps(fields)


def encode_offset_binary(samples: Samples, offset: OffsetBinary = _OFFSET) -> bytes:
    """The flat offset-binary JSON of the block's twelve-lead channels, with the leads as fields of their own."""
    fields: dict[str, object] = {
        "rate": f"{samples.channels[0].rate:g}/s",
        "resolution": f"{offset.microvolts:g}uV",
        "baseline": offset.baseline,
    } | _head(samples)
    for channel, values in zip(samples.channels, samples.values, strict=True):
        if channel.lead:
            steps = np.rint(values * (1e3 / offset.microvolts) + offset.baseline)
            clipped = np.clip(steps, offset.lowest, offset.highest).tolist()
            fields[channel.lead.value] = [None if math.isnan(v) else int(v) for v in clipped]
    return json.dumps(fields, separators=(",", ":")).encode()


def _rounded(_: Channel, values: FloatArray) -> list[float | None]:
    return [None if math.isnan(v) else v for v in np.round(values.astype(np.float64), 4).tolist()]


def _head(samples: Samples) -> dict[str, object]:
    head: dict[str, object] = {"time": samples.start, "sequence": samples.sequence, "paced": samples.paced}
    head["filter"] = next((c.filter_label for c in samples.channels if c.filter_label), None)
    head["patient"] = list(samples.encounter.patient_ids) if samples.encounter else None
    return {name: value for name, value in head.items() if value is not None}


def _fields(
    samples: Samples, write: Callable[[Channel, FloatArray], object], millivolts: float = 1.0
) -> dict[str, object]:
    rate = samples.channels[0].rate
    fields: dict[str, object] = {"rate": rate} | _head(samples)
    if millivolts != 1.0:
        fields["scale"] = millivolts
    leads: dict[str, object] = {}
    channels: list[object] = []
    for channel, values in zip(samples.channels, samples.values, strict=True):
        if channel.lead and channel.rate == rate and CODE_OF_LEAD[channel.lead] == channel.code and not channel.derived:
            leads[channel.lead.value] = write(channel, values)
            continue
        entry = {
            "code": channel.code,
            "label": channel.label,
            "unit": channel.unit,
            "rate": channel.rate,
            "derived": channel.derived,
            "values": write(channel, values),
        }
        if channel.kind is ChannelKind.ECG and millivolts != 1.0:
            entry["scale"] = millivolts
        channels.append(entry)
    if leads:
        fields["leads"] = leads
    if channels:
        fields["channels"] = channels
    return fields
