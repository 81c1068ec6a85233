"""Alarms of IHE PCD-04: the table of their rows, and the monitor's own (ORU^R40 or in an ORU^R01) to `SourceAlarm`.

What an alarm says stands in OBX rows that share all but the last number of OBX-4; that number is the row's meaning. The
table serves both directions: `alert` writes by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo
from typing import Final, NamedTuple

from agent.core.ecg import Encounter, Phase, Priority, SourceAlarm
from agent.core.hl7.message import HL7Error, Message, Segment, epoch
from agent.core.hl7.segments import OBR, OBX


class Facet(NamedTuple):
    """One row of an alarm."""

    number: int
    """Last number of OBX-4."""
    code: int
    """MDC code in OBX-3; 0 where the row's OBX-3 is the event or the metric itself."""
    ref_id: str
    also: tuple[str, ...] = ()
    """Codes and RefIds that makers in the field send instead."""

    @property
    def names(self) -> frozenset[bytes]:
        """What OBX-3.1 or OBX-3.2 may be."""
        return frozenset(name.encode() for name in (str(self.code), self.ref_id, *self.also))


EVENT: Final = Facet(1, 196616, "MDC_EVT_ALARM")
"""OBX-3 is the event's own code; this one where a technical alert has its own in OBX-5."""
SOURCE: Final = Facet(2, 68480, "MDC_ATTR_ALERT_SOURCE", ("68164",))
"""OBX-3 is the metric that the event is about; this one where a technical alert has it in OBX-5."""
PHASE: Final = Facet(3, 68481, "MDC_ATTR_EVENT_PHASE", ("68165", "MDC_ATTR_EVT_PHASE"))
STATE: Final = Facet(4, 68482, "MDC_ATTR_ALARM_STATE", ("68166", "MDC_ATTR_ALERT_STATE"))
INACTIVATION: Final = Facet(5, 68483, "MDC_ATTR_ALARM_INACTIVATION_STATE")
PRIORITY: Final = Facet(6, 68484, "MDC_ATTR_ALARM_PRIORITY", ("68168", "MDC_ATTR_ALERT_PRIORITY"))
TYPE: Final = Facet(7, 68485, "MDC_ATTR_ALERT_TYPE")

MDC_EVT_ACTIVE: Final = 258047
"""The watchdog: a sign of life and no alarm."""
WATCHDOGS: Final = frozenset({MDC_EVT_ACTIVE, 196614})
"""The second number is what an open-source sender uses for it."""

_PHASE: Final = PHASE.names
_STATE: Final = STATE.names
_PRIORITY: Final = PRIORITY.names
_MARKS: Final = _PHASE | _STATE
ALARM_ROWS: Final = frozenset(mark.decode() for mark in _MARKS)
"""Codes and RefIds by which a message with alarms is known."""
_SOURCE_CODES: Final = frozenset({SOURCE.code, *map(int, SOURCE.also)})

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
        stem, _, facet = row.raw(OBX.SUB_ID).strip().rpartition(b".")
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
        raise _wrong(
            any_row, OBX.SUB_ID, "alarm_event", "an alarm's rows lack the event itself, the row that ends in .1"
        )
    code, text = _event(message, event)
    if code in WATCHDOGS:
        return None
    phase_row = _find(group, _PHASE)
    state_row = _find(group, _STATE)
    active = _STATES.get(message.component(state_row, OBX.VALUE).lower()) if state_row else None
    phase = _phase(message.component(phase_row, OBX.VALUE)) if phase_row else None
    if phase is None and active is None:
        raise _wrong(
            event, OBX.VALUE, "alarm_phase", "neither the alarm's event phase nor its state is one of PCD-04's"
        )
    if phase is None:
        phase = Phase.UPDATE if active else Phase.END
    if active is None:
        active = phase not in {Phase.END, Phase.RESET}
    priority_row = _find(group, _PRIORITY)
    source = group.get(b"2")
    try:
        time = epoch(event.component(OBX.TIME), zone)
        if time is None:
            time = epoch(obr.component(OBR.TIME), zone)
    except ValueError:
        raise _wrong(event, OBX.TIME, "time", "the time is not of the form YYYYMMDDHHMMSS.SSS+ZZZZ") from None
    return SourceAlarm(
        bed=bed,
        device=device,
        code=code,
        text=text,
        phase=phase,
        active=active,
        priority=_priority(message.component(priority_row, OBX.VALUE)) if priority_row else None,
        time=time,
        received=received,
        source_code=_source(message, source) if source else 0,
        encounter=encounter,
    )


def _event(message: Message, row: Segment) -> tuple[int, str]:
    """Code and text. A technical alert puts 196616 in OBX-3 and its own code, with the text, in OBX-5."""
    code = _code(message.component(row, OBX.OBSERVATION))
    own = message.component(row, OBX.VALUE)
    if code != EVENT.code:
        return code, own or message.component(row, OBX.OBSERVATION, 2)
    return _code(own), message.component(row, OBX.VALUE, 9) or message.component(row, OBX.VALUE, 2) or own


def _source(message: Message, row: Segment) -> int:
    """Metric that the alarm is about: OBX-3 of the row ``.2``, or its OBX-5 where OBX-3 only says `source`."""
    code = _code(message.component(row, OBX.OBSERVATION))
    return _code(message.component(row, OBX.VALUE)) if code in _SOURCE_CODES else code


def _names(row: Segment) -> frozenset[bytes]:
    return frozenset(row.raw(OBX.OBSERVATION).split(row.delimiters.component, 2)[:2])


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
    return HL7Error(reason, f"OBX {row.index}: {text}", code=102, location=f"OBX^{row.index}^{position:d}")
