"""HL7 v2 messages to events, and what they are answered with. Bytes in, values out; no socket, no clock.

What is answered: AA where everything, or at least one channel or alarm, was taken (what was left out stands in ERR
segments of severity W and is counted); AE where the message is for us but nothing of it could be taken; AR where it is
not for us at all: its type, its character set, or a bed that its sender may not speak for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Final

from agent.core.ecg import Channel, Encounter, Event, Fault, FloatArray, Lead, Samples
from agent.core.hl7.acknowledgement import Header, Verdict, header_of
from agent.core.hl7.alarm import ALARM_ROWS, WATCHDOGS, alarms_of
from agent.core.hl7.dialect import Dialect, select, traits_of
from agent.core.hl7.message import HL7Error, Message, Segment, parse
from agent.core.hl7.patient import BedMap, change_of, encounter_of, location_of
from agent.core.hl7.segments import MSH, OBR, OBX, PV1
from agent.core.hl7.waveform import Order, waves_of

_OBSERVATION_EVENTS: Final = frozenset({"R01", "W01", "R40", "R31", "R32"})
_RHYTHM: Final = frozenset({"184327", "MDC_ECG_STAT_RHY"})
_MDS: Final = frozenset({b"69965", b"MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS"})


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one message came to."""

    header: Header
    events: tuple[Event, ...]
    faults: tuple[Fault, ...]
    verdict: Verdict
    """The answer that is due once the events are held."""
    errors: tuple[HL7Error, ...] = ()
    dialect: str = ""
    """Name of the waveform dialect; empty where the message has no waveform."""

    @property
    def is_acknowledgement(self) -> bool:
        """The message is itself an answer: it is never answered, lest two systems answer each other for ever."""
        return self.header.message_type in {"ACK", "ORA"}


def decode(
    message: bytes,
    dialects: Sequence[Dialect],
    received: float,
    *,
    beds: BedMap | None = None,
    zone: tzinfo = UTC,
    dialect: str | None = None,
) -> Decoded:
    """Decode one message.

    Args:
        message: the bytes between the MLLP frame's ends.
        dialects: the data files; the message's own traits choose among them.
        received: monotonic seconds at which its last byte was read.
        beds: how a location becomes a bed id.
        zone: time zone of times that name none.
        dialect: name of the dialect that this sender is configured to speak, instead of the choice by traits.

    Raises:
        HL7Error: there is no header that could be answered. Everything else that is wrong is in the result.
    """
    parsed = parse(message)
    header = header_of(parsed)
    beds = beds or BedMap()
    name = ""
    try:
        _check(header)
        if header.message_type == "ADT":
            change = change_of(parsed, beds, received)
            events: list[Event] = [change] if change else []
            errors: list[HL7Error] = []
            notes = [] if change else [Fault("bed_elsewhere", "An ADT message is about a bed that is not ours.")]
        elif header.message_type == "ORU":
            traits = traits_of(parsed)
            chosen = next((d for d in dialects if d.name == dialect), None) if dialect else select(traits, dialects)
            name = chosen.name if chosen else ""
            alarms = not traits.observations.isdisjoint(ALARM_ROWS)
            rhythm = not traits.observations.isdisjoint(_RHYTHM)
            events, errors = _observations(parsed, chosen, received, beds, zone, alarms=alarms, rhythm=rhythm)
            notes = []
        else:  # an acknowledgement
            return Decoded(header, (), (Fault("acknowledgement", "An answer came that was not asked for."),), "AA")
    except HL7Error as error:
        return Decoded(header, (), (_fault(error),), "AR" if error.reject else "AE", (error,), name)
    faults = [*notes, *(_fault(error) for error in errors)]
    if parsed.charset_fault:
        faults.append(Fault("charset", f"{parsed.charset_fault}; name the true character set in MSH-18."))
    verdict: Verdict = "AA" if events or not errors else "AE"
    return Decoded(header, tuple(events), tuple(faults), verdict, tuple(errors), name)


def refuse(decoded: Decoded, error: HL7Error) -> Decoded:
    """The same message with all its events withdrawn, because of ``error``."""
    verdict: Verdict = "AR" if error.reject else "AE"
    return Decoded(decoded.header, (), (_fault(error),), verdict, (error,), decoded.dialect)


def _check(header: Header) -> None:
    """What must be right before anything is read (2.9.2.1): type, event, version, control id."""
    if header.message_type not in {"ORU", "ADT", "ACK", "ORA"}:
        raise HL7Error("type_unknown", "this message type is not supported; supported are ORU and ADT", code=200,
                       location="MSH^1^9^1^1", reject=True)  # fmt: skip
    if header.message_type == "ORU" and header.event not in _OBSERVATION_EVENTS:
        raise HL7Error("event_unknown", "this ORU event is not supported; supported are R01, W01 and R40", code=201,
                       location="MSH^1^9^1^2", reject=True)  # fmt: skip
    if header.version and not header.version.startswith("2."):
        raise HL7Error("version_unknown", "MSH-12 names no version 2 of HL7", code=203, location="MSH^1^12",
                       reject=True)  # fmt: skip
    if not header.control_id and header.message_type in {"ORU", "ADT"}:
        raise HL7Error("control_id", "MSH-10 is empty, so no answer can name the message; fill it", code=101,
                       location="MSH^1^10")  # fmt: skip


@dataclass(slots=True)
class _Patient:
    """One PID/PV1 group of an ORU message with its orders: a message may carry several patients."""

    pid: Segment | None
    pv1: Segment | None
    orders: list[Order]


def _patients(message: Message) -> list[_Patient]:
    patients = [_Patient(None, None, [])]
    rows: list[Segment] = []
    obr: Segment | None = None

    def close() -> None:
        if obr is not None:
            patients[-1].orders.append(Order(obr, tuple(rows)))

    for segment in message.segments:
        if segment.name in {b"PID", b"OBR"} or (segment.name == b"PV1" and obr is not None):
            close()
            obr, rows = None, []
        if segment.name == b"PID" or (segment.name == b"PV1" and patients[-1].orders):
            patients.append(_Patient(None, None, []))
        if segment.name == b"PID":
            patients[-1].pid = segment
        elif segment.name == b"PV1":
            patients[-1].pv1 = segment
        elif segment.name == b"OBR":
            obr = segment
        elif segment.name == b"OBX" and obr is not None:
            rows.append(segment)
    close()
    return [patient for patient in patients if patient.orders]


def _observations(
    message: Message,
    dialect: Dialect | None,
    received: float,
    beds: BedMap,
    zone: tzinfo,
    *,
    alarms: bool,
    rhythm: bool,
) -> tuple[list[Event], list[HL7Error]]:
    """Samples and alarms of an ORU message, in order, and what is wrong with what was left out."""
    patients = _patients(message)
    if not patients:
        raise HL7Error("no_order", "the message has no OBR with observations", code=100, location="OBR^1")
    events: list[Event] = []
    errors: list[HL7Error] = []
    for patient in patients:
        encounter = encounter_of(message, patient.pid, patient.pv1)
        bed_fields = dialect.bed_fields if dialect else ("PV1-3", "MSH-3")
        located = [_bed(message, patient.pv1, order.obr, bed_fields, beds) for order in patient.orders]
        devices = [_device(message, order) for order in patient.orders]
        if dialect is not None:
            events += _samples(
                message, dialect, patient, located, devices, encounter, received, zone, errors, rhythm=rhythm
            )
        elif any(row.raw(2) == b"NA" for order in patient.orders for row in order.rows):
            raise HL7Error("dialect_unknown", "no dialect fits this message's waveforms; name one for this sender",
                           code=207)  # fmt: skip
        for order, bed, device in zip(patient.orders, located, devices, strict=True) if alarms else ():
            found, wrong = alarms_of(message, order.obr, order.rows, bed or "", device, encounter, received, zone)
            errors += wrong
            if found and bed is None:
                errors.append(_no_bed(order.obr))
            elif bed is not None:
                events += found
    if not events and not errors and message.component(message.msh, 9, 2) == "R40":
        watchdogs = {str(code).encode() for code in WATCHDOGS}
        heartbeat = any(
            row.component(OBX.OBSERVATION) in watchdogs for p in patients for o in p.orders for row in o.rows
        )
        if not heartbeat:
            errors.append(HL7Error("alarm_event", "the alarm message has no event with its phase or state", code=102))
    return events, errors


def _samples(
    message: Message,
    dialect: Dialect,
    patient: _Patient,
    located: Sequence[str | None],
    devices: Sequence[str],
    encounter: Encounter | None,
    received: float,
    zone: tzinfo,
    errors: list[HL7Error],
    *,
    rhythm: bool,
) -> list[Samples]:
    """The waveforms of one patient, those of one bed, device and start together."""
    waves, wrong = waves_of(message, patient.orders, dialect, zone)
    errors += wrong
    groups: dict[tuple[str, str, float | None], tuple[list[Channel], list[FloatArray], set[Lead]]] = {}
    refused: set[int] = set()
    for index, wave in waves:
        bed = located[index]
        if bed is None:
            if index not in refused:
                refused.add(index)
                errors.append(_no_bed(patient.orders[index].obr))
            continue
        channels, values, leads = groups.setdefault((bed, devices[index], wave.start), ([], [], set()))
        lead = wave.channel.lead
        if lead is not None and lead in leads:
            errors.append(HL7Error("lead_twice", "a lead stands twice in one block; the first was taken", code=102,
                                   location="OBX"))  # fmt: skip
            continue
        if lead is not None:
            leads.add(lead)
        channels.append(wave.channel)
        values.append(wave.values)
    paced = _paced(message, patient.orders) if rhythm else None
    return [
        Samples(bed, device, tuple(channels), tuple(values), start, received, None, paced, encounter, "hl7")
        for (bed, device, start), (channels, values, _) in groups.items()
    ]


def _bed(message: Message, pv1: Segment | None, obr: Segment, fields: Sequence[str], beds: BedMap) -> str | None:
    """The bed by the first of the dialect's fields that is filled; a filled field that names no bed ends the search."""
    for name in fields:
        if name == "PV1-3":
            location = location_of(message, pv1, PV1.LOCATION)
        elif name == "OBR-10":
            location = location_of(message, obr, OBR.COLLECTOR)
        else:  # MSH-3, only where it names one device and not a gateway that speaks for a whole ward
            unique = message.component(message.msh, MSH.SENDING_APPLICATION, 3).upper() == "EUI-64"
            location = message.component_form(message.msh.component(MSH.SENDING_APPLICATION, 2)) if unique else ""
        if location:
            return beds.bed(location)
    return None


def _device(message: Message, order: Order) -> str:
    """The device's id: OBR-3's EUI-64, else the MDS row's OBX-18, else MSH-3."""
    obr = order.obr
    if message.component(obr, 3, 4).upper() == "EUI-64":
        # EI: entity^namespace^universal id^type; some put the EUI-64 into the first component.
        universal = message.component(obr, 3, 3) or message.component(obr, 3)
        if universal:
            return universal
    for row in order.rows:
        if row.component(3) in _MDS:
            for repetition in reversed(row.repetitions(18)):
                parts = [message.text(part) for part in repetition.split(message.delimiters.component)]
                named = (parts[2] if len(parts) > 2 else "") or parts[0]
                if named:
                    return named
    return message.component(message.msh, 3, 2) or message.component(message.msh, 3) or "hl7"


def _paced(message: Message, orders: Sequence[Order]) -> bool | None:
    """The pacemaker status by MDC_ECG_STAT_RHY; a rhythm that says nothing of pacing leaves it unknown."""
    paced: bool | None = None
    for order in orders:
        for row in order.rows:
            if not _RHYTHM.isdisjoint((message.component(row, 3), message.component(row, 3, 2))):
                value = message.text(row.raw(5)).upper().replace("-", "_").replace(" ", "_")
                if "NOT_PACED" in value or "NON_PACED" in value or "UNPACED" in value:
                    paced = paced or False
                elif "PACED" in value:
                    paced = True
                elif "SINUS" in value:
                    paced = paced or False
    return paced


def _no_bed(obr: Segment) -> HL7Error:
    text = f"OBR {obr.index}: no bed can be told; fill PV1-3 or add the location to `beds.lookup`"
    return HL7Error("bed_unknown", text, code=204, location="PV1^1^3")


def _fault(error: HL7Error) -> Fault:
    return Fault(error.reason, error.text)
