"""Waveform rows of an ORU message to channels: rate, resolution, unit, sentinels and times, by the sender's dialect.

A channel that contradicts itself is quarantined with a fault and its neighbours are kept; nothing is ever guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import Channel, FloatArray
from agent.core.hl7.channel import LONGEST_KEY, Description, DescriptionError, Facet, Rules, channel, describe
from agent.core.hl7.dialect import Dialect, FacetName
from agent.core.hl7.message import HL7Error, Message, Segment, epoch
from agent.core.hl7.numbers import parse_arrays

# Rates that monitors and recorders use: a rate that only two rounded times tell is one of these.
_NOMINAL: Final = (31.25, 50, 60, 62.5, 64, 75, 90, 100, 120, 125, 128, 150, 180, 200, 240, 250, 256, 300, 360, 400,
                   500, 512, 600, 800, 1000, 1024, 2000)  # fmt: skip
_TIME_ROUNDING: Final = 0.0015
_MOST_ROWS: Final = 512
_LONGEST_LABEL: Final = 120
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


_Span: TypeAlias = tuple[float | None, float | None]


@dataclass(slots=True)
class _Row:
    """A waveform row and the facets that belong to it."""

    order: Order
    segment: Segment
    facets: list[tuple[FacetName, Segment]] = field(default_factory=list)


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
    spans: dict[tuple[bytes, bytes], _Span] = {}
    rules = Rules(dialect.rate_always_hertz, dialect.dimensionless_mv, dialect.sentinels)
    parsed = parse_arrays(fields)
    with np.errstate(over="ignore", invalid="ignore"):
        for (index, row), values in zip(rows, parsed.values, strict=True):
            try:
                if values is None:
                    raise _wrong(row.segment, 5, "values", "the array holds something that is not a number")
                if len(values):
                    waves.append((index, _wave(message, row, values, parsed.bound, dialect, rules, zone, spans)))
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
                owner.facets.append((facet, segment))
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
            owner.facets.append((facet, segment))
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
    rules: Rules,
    zone: tzinfo,
    spans: dict[tuple[bytes, bytes], _Span],
) -> Wave:
    description, filter_label = _described(message, row, rules)
    obr = row.order.obr
    start, end = _span(obr, zone, spans)
    rate = description.rate
    if rate is None:
        rate = _rate_from_times(row, len(values), start, end, dialect)
    if start is None and end is not None:
        start = end - len(values) / rate
    samples: FloatArray = (values * description.factor).astype(np.float32)
    invalid = _invalid(description, values, bound)
    if invalid is not None:
        samples[invalid] = np.nan
    if not bound * description.factor < _LARGEST:
        samples[np.isinf(samples)] = np.nan
    return Wave(channel(description, rate, filter_label), samples, start)


def _described(message: Message, row: _Row, rules: Rules) -> tuple[Description, str]:
    """The row's description and its filter label."""
    own = row.segment.fields
    filter_label = b""
    described: list[Segment] = []
    facets: list[Facet] = []
    for name, segment in row.facets:
        fields = segment.fields
        if name == "filter":
            filter_label = fields[5]
        else:
            described.append(segment)
            facets.append(Facet(name, fields[5], fields[6] if len(fields) > 6 else b""))
    own_unit = own[6] if len(own) > 6 else b""
    size = len(own[3]) + len(own_unit) + sum([len(facet.value) + len(facet.unit) + 8 for facet in facets])
    if size > LONGEST_KEY:
        raise _wrong(row.segment, 3, "code_length", f"the channel's description is longer than {LONGEST_KEY} bytes")
    try:
        description = describe(own[3], own_unit, tuple(facets), row.segment.delimiters.component, rules)
    except DescriptionError as flaw:
        at_fault = row.segment if flaw.facet is None else described[flaw.facet]
        raise _wrong(at_fault, flaw.position, flaw.reason, flaw.text) from None
    return description, message.text(filter_label[:_LONGEST_LABEL]) if filter_label else ""


def _span(obr: Segment, zone: tzinfo, spans: dict[tuple[bytes, bytes], _Span]) -> _Span:
    """OBR-7 and OBR-8; the leads of a message share them, so each pair is read once."""
    key = (obr.raw(7), obr.raw(8))
    span = spans.get(key)
    if span is None:
        span = spans[key] = _time(obr, 7, zone), _time(obr, 8, zone)
    return span


def _time(obr: Segment, position: int, zone: tzinfo) -> float | None:
    """OBR-7 or OBR-8."""
    try:
        return epoch(obr.raw(position).split(obr.delimiters.component, 1)[0], zone)
    except ValueError:
        raise _wrong(obr, position, "time", "the time is not of the form YYYYMMDDHHMMSS.SSS+ZZZZ") from None


def _rate_from_times(row: _Row, count: int, start: float | None, end: float | None, dialect: Dialect) -> float:
    if not dialect.rate_from_times or start is None or end is None or not end > start:
        raise _wrong(row.segment, 5, "rate", "no sample rate is stated; send MDC_ATTR_SAMP_RATE")
    rate = _nominal(count, end - start)
    if rate is None:
        raise _wrong(row.order.obr, 8, "rate", "samples and times make no known rate; send MDC_ATTR_SAMP_RATE")
    return rate


@lru_cache(maxsize=256)  # the leads of a message share it: 0.01 ms a lead
def _nominal(count: int, duration: float) -> float | None:
    """The rate that ``count`` samples between two times mean, if it is one that monitors use, and only one is.

    Times are rounded to a millisecond, and OBR-8 is the block's end for some senders and its last sample for others.
    """
    tolerance = _TIME_ROUNDING / duration
    measured = (count / duration, (count - 1) / duration)
    fitting = {rate for rate in _NOMINAL for m in measured if abs(m - rate) <= rate * tolerance}
    return float(fitting.pop()) if len(fitting) == 1 else None


def _invalid(description: Description, values: NDArray[np.float64], bound: float) -> NDArray[np.bool_] | None:
    """Which samples the sender marks invalid or missing; None where none is."""
    if description.inoperative:
        return np.ones(len(values), np.bool_)
    low, high = description.low, description.high
    reached = [sentinel for sentinel in description.sentinels if abs(sentinel) <= bound]
    if not reached and low <= -bound and bound <= high:
        return None
    invalid = (values < low) | (values > high)
    for sentinel in reached:
        invalid |= values == sentinel
    return invalid


def _wrong(segment: Segment, position: int, reason: str, text: str) -> HL7Error:
    name = segment.name.decode("latin-1")
    return HL7Error(reason, f"{name} {segment.index}: {text}", code=102, location=f"{name}^{segment.index}^{position}")
