"""The monitor's own alarms: ORU^R40 (IHE PCD-04) and the same rows inside an ORU^R01, to `SourceAlarm`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo
from typing import Final

from agent.core.ecg import Encounter, Phase, Priority, SourceAlarm
from agent.core.hl7.message import HL7Error, Message, Segment, epoch

MDC_EVT_ALARM: Final = 196616
# The watchdog is a sign of life and no alarm. The second number is what an open-source sender uses for it.
MDC_EVT_ACTIVE: Final = frozenset({258047, 196614})

# Facets by code and by RefId. The standard's codes are 68481 …; two makers in the field send 68165 … instead.
_PHASE: Final = frozenset({b"68481", b"68165", b"MDC_ATTR_EVENT_PHASE", b"MDC_ATTR_EVT_PHASE"})
_STATE: Final = frozenset({b"68482", b"68166", b"MDC_ATTR_ALARM_STATE", b"MDC_ATTR_ALERT_STATE"})
_PRIORITY: Final = frozenset({b"68484", b"68168", b"MDC_ATTR_ALARM_PRIORITY", b"MDC_ATTR_ALERT_PRIORITY"})
_MARKS: Final = _PHASE | _STATE
ALARM_ROWS: Final = frozenset(mark.decode() for mark in _MARKS)
"""Codes and RefIds by which a message with alarms is known."""
_SOURCE_IDS: Final = frozenset({68480, 68164})

_STATES: Final = {"active": True, "latched": True, "inactive": False}


def alarms_of(
    message: Message,
    obr: Segment,
    rows: Sequence[Segment],
    bed: str,
    device: str,
    encounter: Encounter | None,
    received: float,
    zone: tzinfo,
) -> tuple[tuple[SourceAlarm, ...], tuple[HL7Error, ...]]:
    """The alarms of one order: each is the rows whose OBX-4 share all but the last number (``….1`` to ``….7``)."""
    groups: dict[bytes, dict[bytes, Segment]] = {}
    marked: set[bytes] = set()
    for row in rows:
        stem, _, facet = row.raw(4).strip().rpartition(b".")
        groups.setdefault(stem, {})[facet] = row
        if not _names(row).isdisjoint(_MARKS):
            marked.add(stem)
    alarms: list[SourceAlarm] = []
    errors: list[HL7Error] = []
    for stem, group in groups.items():
        if stem in marked:
            try:
                alarm = _alarm(message, obr, group, bed, device, encounter, received, zone)
            except HL7Error as error:
                errors.append(error)
            else:
                if alarm is not None:
                    alarms.append(alarm)
    return tuple(alarms), tuple(errors)


def _alarm(
    message: Message,
    obr: Segment,
    group: dict[bytes, Segment],
    bed: str,
    device: str,
    encounter: Encounter | None,
    received: float,
    zone: tzinfo,
) -> SourceAlarm | None:
    event = group.get(b"1")
    if event is None:
        any_row = next(iter(group.values()))
        raise _wrong(any_row, 4, "alarm_event", "an alarm's rows lack the event itself, the row that ends in .1")
    code, text = _event(message, event)
    if code in MDC_EVT_ACTIVE:
        return None
    phase_row = _find(group, _PHASE)
    state_row = _find(group, _STATE)
    active = _STATES.get(message.component(state_row, 5).lower()) if state_row else None
    phase = _phase(message.component(phase_row, 5)) if phase_row else None
    if phase is None and active is None:
        raise _wrong(event, 5, "alarm_phase", "neither the alarm's event phase nor its state is one of PCD-04's")
    if phase is None:
        phase = Phase.UPDATE if active else Phase.END
    if active is None:
        active = phase not in {Phase.END, Phase.RESET}
    priority_row = _find(group, _PRIORITY)
    source = group.get(b"2")
    try:
        time = epoch(event.component(14), zone)
        if time is None:
            time = epoch(obr.component(7), zone)
    except ValueError:
        raise _wrong(event, 14, "time", "the time is not of the form YYYYMMDDHHMMSS.SSS+ZZZZ") from None
    return SourceAlarm(
        bed=bed,
        device=device,
        code=code,
        text=text,
        phase=phase,
        active=active,
        priority=_priority(message.component(priority_row, 5)) if priority_row else None,
        time=time,
        received=received,
        source_code=_source(message, source) if source else 0,
        encounter=encounter,
    )


def _event(message: Message, row: Segment) -> tuple[int, str]:
    """Code and text. A technical alert puts 196616 in OBX-3 and its own code, with the text, in OBX-5."""
    code = _code(message.component(row, 3))
    if code != MDC_EVT_ALARM:
        return code, message.component(row, 5) or message.component(row, 3, 2)
    inner = _code(message.component(row, 5))
    text = message.component(row, 5, 9) or message.component(row, 5, 2)
    return inner, text or message.component(row, 5)


def _source(message: Message, row: Segment) -> int:
    """Metric that the alarm is about: OBX-3 of the row ``.2``, or its OBX-5 where OBX-3 only says `source`."""
    code = _code(message.component(row, 3))
    return _code(message.component(row, 5)) if code in _SOURCE_IDS else code


def _names(row: Segment) -> frozenset[bytes]:
    return frozenset(row.raw(3).split(row.delimiters.component, 2)[:2])


def _find(group: dict[bytes, Segment], names: frozenset[bytes]) -> Segment | None:
    return next((row for row in group.values() if not _names(row).isdisjoint(names)), None)


def _phase(text: str) -> Phase | None:
    lowered = text.lower()
    return Phase(lowered) if lowered in {phase.value for phase in Phase} else None


def _priority(text: str) -> Priority | None:
    upper = text.upper()
    return Priority(upper) if upper in {priority.value for priority in Priority} else None


def _code(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _wrong(row: Segment, position: int, reason: str, text: str) -> HL7Error:
    return HL7Error(reason, f"OBX {row.index}: {text}", code=102, location=f"OBX^{row.index}^{position}")
