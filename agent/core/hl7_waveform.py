"""Waveform rows of an ORU message to channels: rate, resolution, unit, sentinels and times, by the sender's dialect.

A channel that contradicts itself is quarantined with a fault and its neighbours are kept; nothing is ever guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import Channel, ChannelKind, FloatArray
from agent.core.hl7_codes import Meaning, meaning, rate_from, unit
from agent.core.hl7_dialect import Dialect, FacetName
from agent.core.hl7_message import HL7Error, Message, Segment, epoch
from agent.core.hl7_numbers import parse_arrays

# Rates that monitors and recorders use: a rate that only two rounded times tell is one of these.
_NOMINAL: Final = (31.25, 50, 60, 62.5, 64, 75, 90, 100, 120, 125, 128, 150, 180, 200, 240, 250, 256, 300, 360, 400,
                   500, 512, 600, 800, 1000, 1024, 2000)  # fmt: skip
_TIME_ROUNDING: Final = 0.0015
_HIGHEST_RATE: Final = 20_000.0
# MDC_EVT_INOP carries a sentinel in one maker's messages (32767) and a flag in another's (0 or 1).
_LEAST_SENTINEL: Final = 0x4000
_LONGEST_CODE: Final = 250
_MOST_ROWS: Final = 512
_LARGEST: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """One OBR with the OBX rows that follow it."""

    obr: Segment
    rows: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Wave:
    """One decoded waveform row."""

    channel: Channel
    values: FloatArray
    """(n,) in the channel's unit; NaN = invalid."""
    start: float | None


@dataclass(slots=True)
class _Row:
    """A waveform row and the facets that belong to it."""

    order: Order
    segment: Segment
    facets: dict[FacetName, list[Segment]] = field(default_factory=dict)


def waves_of(
    message: Message, orders: Sequence[Order], dialect: Dialect, zone: tzinfo
) -> tuple[list[tuple[int, Wave]], list[HL7Error]]:
    """All waveforms of a message, each with the index of its order, and what is wrong with those left out.

    A row without a single sample (a lead that is off) is neither.
    """
    rows = [(index, row) for index, order in enumerate(orders) for row in _rows_of(order, dialect)]
    if len(rows) > _MOST_ROWS:
        raise HL7Error(
            "too_many_rows", f"the message has more than {_MOST_ROWS} waveforms; send shorter ones", code=207
        )
    mark, repetition = message.delimiters.component, message.delimiters.repetition
    fields = [row.segment.raw(5) for _, row in rows]
    if mark != b"^":
        fields = [value.replace(b"^", b"?").replace(mark, b"^") for value in fields]
    # NA (2.A.46): repetitions are further rows of the array; for one channel they follow each other in time.
    fields = [value.replace(repetition, b"^") if repetition in value else value for value in fields]
    waves: list[tuple[int, Wave]] = []
    errors: list[HL7Error] = []
    times: dict[bytes, float | None] = {}
    parsed = parse_arrays(fields)
    with np.errstate(over="ignore", invalid="ignore"):
        for (index, row), values in zip(rows, parsed.values, strict=True):
            try:
                if values is None:
                    raise _wrong(row.segment, 5, "values", "the array holds something that is not a number")
                if len(values):
                    waves.append((index, _wave(message, row, values, parsed.bound, dialect, zone, times)))
            except HL7Error as error:
                errors.append(error)
    return waves, errors


def _rows_of(order: Order, dialect: Dialect) -> list[_Row]:
    """Waveform rows with their facets: a facet's OBX-4 continues its waveform's, as ``1.5.0.1`` and ``1.5.0.1.2``."""
    rows: list[_Row] = []
    latest: dict[bytes, _Row] = {}
    early: list[tuple[FacetName, Segment]] = []
    facet_of = dialect.facet_of
    for segment in order.rows:
        fields = segment.fields
        if len(fields) < 6:
            continue
        codes = fields[3].split(segment.delimiters.component, 2)
        facet = facet_of.get(codes[0]) or (facet_of.get(codes[1]) if len(codes) > 1 else None)
        if facet is not None:
            owner = _owner(fields[4], latest)
            if owner is None:
                early.append((facet, segment))
            else:
                owner.facets.setdefault(facet, []).append(segment)
        elif fields[2] in dialect.wave_types:
            row = _Row(order, segment)
            rows.append(row)
            latest[fields[4].strip()] = row
    for facet, segment in early:
        sub_id = segment.raw(4)
        owner = _owner(sub_id, latest)
        if owner is not None:
            owners = [owner]
        elif len(rows) == 1:
            owners = rows
        elif facet == "filter":  # one maker describes the channel's filter before and beside its waveforms
            channel = sub_id.split(b".")[:3]
            owners = [row for row in rows if row.segment.raw(4).split(b".")[:3] == channel]
        else:
            owners = []
        for owner in owners:
            owner.facets.setdefault(facet, []).append(segment)
    return rows


def _owner(sub_id: bytes, latest: dict[bytes, _Row]) -> _Row | None:
    candidate = sub_id.strip()
    while True:
        row = latest.get(candidate)
        if row is not None or b"." not in candidate:
            return row
        candidate = candidate.rpartition(b".")[0]


def _wave(
    message: Message,
    row: _Row,
    values: NDArray[np.float64],
    bound: float,
    dialect: Dialect,
    zone: tzinfo,
    times: dict[bytes, float | None],
) -> Wave:
    segment = row.segment
    code, label, sense = _observation(_short(segment, 3), segment.delimiters.component)
    if sense is None:
        raise _wrong(segment, 3, "code_mismatch", "code and RefId of the observation name different channels")
    start, end = (_time(row.order.obr, position, zone, times) for position in (7, 8))
    rate = _rate(row, len(values), start, end, dialect)
    if start is None and end is not None:
        start = end - len(values) / rate
    base, factor = _scale(row, sense.kind, dialect)
    samples: FloatArray = (values * factor).astype(np.float32)
    invalid = _invalid(message, row, values, bound, dialect)
    if invalid is not None:
        samples[invalid] = np.nan
    if not bound * factor < _LARGEST:
        samples[np.isinf(samples)] = np.nan
    labels = row.facets.get("filter")
    channel = Channel(
        kind=sense.kind,
        code=code,
        label=label,
        unit=base,
        rate=rate,
        lead=sense.lead,
        derived=sense.derived,
        filter_label=message.text(labels[0].raw(5)) if labels else "",
    )
    return Wave(channel, samples, start)


def _time(obr: Segment, position: int, zone: tzinfo, times: dict[bytes, float | None]) -> float | None:
    """OBR-7 or OBR-8; the leads of a message share them, so each value is read once."""
    raw = obr.raw(position)
    if raw not in times:
        try:
            times[raw] = epoch(raw.split(obr.delimiters.component, 1)[0], zone)
        except ValueError:
            raise _wrong(obr, position, "time", "the time is not of the form YYYYMMDDHHMMSS.SSS+ZZZZ") from None
    return times[raw]


def _rate(row: _Row, count: int, start: float | None, end: float | None, dialect: Dialect) -> float:
    facets = row.facets.get("rate", ())
    if facets:
        stated = {_stated_rate(f, dialect.rate_always_hertz) for f in facets}
        rate = stated.pop()
        if rate is None or stated:
            raise _wrong(facets[0], 6, "rate", "the sample rate's value and unit make no rate; send Hz")
    elif dialect.rate_from_times and start is not None and end is not None and end > start:
        rate = _nominal(count, end - start)
        if rate is None:
            raise _wrong(row.order.obr, 8, "rate", "samples and times make no known rate; send MDC_ATTR_SAMP_RATE")
    else:
        raise _wrong(row.segment, 5, "rate", "no sample rate is stated; send MDC_ATTR_SAMP_RATE")
    if not 0 < rate <= _HIGHEST_RATE:
        raise _wrong(row.segment, 5, "rate", "the sample rate is not between 0 and 20000 Hz")
    return float(rate)


def _nominal(count: int, duration: float) -> float | None:
    """The rate that ``count`` samples between two times mean, if it is one that monitors use, and only one is.

    Times are rounded to a millisecond, and OBR-8 is the block's end for some senders and its last sample for others.
    """
    tolerance = _TIME_ROUNDING / duration
    measured = (count / duration, (count - 1) / duration)
    fitting = {rate for rate in _NOMINAL for m in measured if abs(m - rate) <= rate * tolerance}
    return float(fitting.pop()) if len(fitting) == 1 else None


def _scale(row: _Row, kind: ChannelKind, dialect: Dialect) -> tuple[str, float]:
    """UCUM unit of the channel and the factor from counts to it."""
    own = _unit_of(_short(row.segment, 6), row.segment.delimiters.component)
    if own is None:
        raise _wrong(row.segment, 6, "unit", "the unit is not known; send mV or uV")
    base, factor = own
    facets = row.facets.get("resolution", ())
    if facets:
        stated = {(_number(f), _unit_of(_short(f, 6), f.delimiters.component)) for f in facets}
        resolution, resolution_unit = stated.pop()
        if stated or resolution_unit is None or not resolution > 0:
            raise _wrong(facets[0], 5, "resolution", "the resolution is not one positive number in a known unit")
        if resolution_unit[0] != "1":
            base, factor = resolution_unit
        factor *= resolution
    if kind is ChannelKind.ECG:
        if base == "1" and dialect.dimensionless_mv is not None:
            base, factor = "mV", factor * dialect.dimensionless_mv
        if base != "mV":
            raise _wrong(row.segment, 6, "unit", "an ECG channel needs a voltage; send a resolution in mV or uV")
    return base, factor


def _invalid(
    message: Message, row: _Row, values: NDArray[np.float64], bound: float, dialect: Dialect
) -> NDArray[np.bool_] | None:
    """Which samples the sender marks invalid or missing; None where none is."""
    low, high = -np.inf, np.inf
    for facet in row.facets.get("range", ()):
        bounds = facet.raw(5).split(message.delimiters.component, 2)
        try:
            low, high = float(bounds[0]), float(bounds[1])
        except (ValueError, IndexError):
            raise _wrong(facet, 5, "range", "the data range is not of the form low^high") from None
    sentinels = [*dialect.sentinels, *(_number(facet) for facet in row.facets.get("sentinel", ()))]
    for facet in row.facets.get("inoperative", ()):
        value = _number(facet)
        if abs(value) >= _LEAST_SENTINEL:
            sentinels.append(value)
        elif value != 0:
            return np.ones(len(values), np.bool_)
    reached = [sentinel for sentinel in sentinels if low <= sentinel <= high and abs(sentinel) <= bound]
    if not reached and low <= -bound and bound <= high:
        return None
    invalid = (values < low) | (values > high)
    for sentinel in set(reached):
        invalid |= values == sentinel
    return invalid


def _short(segment: Segment, position: int) -> bytes:
    """A coded field, which is short: what is remembered of it stays small."""
    raw = segment.raw(position)
    if len(raw) > _LONGEST_CODE:
        raise _wrong(segment, position, "code_length", "a coded value is longer than 250 bytes")
    return raw


@lru_cache(maxsize=2048)
def _observation(raw: bytes, mark: bytes) -> tuple[int, str, Meaning | None]:
    """Code, name and meaning of OBX-3. Pure, and the same few come every second, so they are remembered."""
    parts = [part.strip().decode("latin-1") for part in raw.split(mark)]
    text, ref_id = parts[0], parts[1] if len(parts) > 1 else ""
    code = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    return code, ref_id or text, meaning(code, ref_id)


@lru_cache(maxsize=256)
def _unit_of(raw: bytes, mark: bytes) -> tuple[str, float] | None:
    return unit(_components(raw, mark))


def _stated_rate(facet: Segment, always_hertz: bool) -> float | None:
    return _rate_of(_number(facet), _short(facet, 6), facet.delimiters.component, always_hertz)


@lru_cache(maxsize=256)
def _rate_of(value: float, raw: bytes, mark: bytes, always_hertz: bool) -> float | None:
    return rate_from(value, _components(raw, mark), always_hertz=always_hertz)


def _components(raw: bytes, mark: bytes) -> tuple[str, ...]:
    """OBX-6's components; a unit that is not ASCII (µV) is UTF-8."""
    return tuple(part.strip().decode("utf-8", "replace") for part in raw.split(mark)[:3]) if raw else ()


def _number(segment: Segment) -> float:
    try:
        return float(segment.raw(5))
    except ValueError:
        raise _wrong(segment, 5, "facet", "the value that describes a waveform is not a number") from None


def _wrong(segment: Segment, position: int, reason: str, text: str) -> HL7Error:
    name = segment.name.decode("latin-1")
    return HL7Error(reason, f"{name} {segment.index}: {text}", code=102, location=f"{name}^{segment.index}^{position}")
