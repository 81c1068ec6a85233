"""Who lies where: PID and PV1 to `Encounter`, ADT events to `EncounterChange`, locations to bed ids."""

from __future__ import annotations

import re
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agent.core.ecg import Encounter, EncounterChange, EncounterEvent
from agent.core.hl7.message import HL7Error, Message, Segment, first_parts
from agent.core.hl7.segments import MSH, PID, PV1

# HL7 table 0003. A13 (cancel discharge) puts the patient back; A11 (cancel admit) takes the admission away.
ADT_EVENTS: Final = {
    "A01": EncounterEvent.ADMIT,
    "A02": EncounterEvent.TRANSFER,
    "A03": EncounterEvent.DISCHARGE,
    "A08": EncounterEvent.UPDATE,
    "A11": EncounterEvent.DISCHARGE,
    "A13": EncounterEvent.ADMIT,
}

# HL7 table 0001; A (ambiguous) and N (not applicable) are later additions.
_SEX: Final = {"M": "M", "F": "F", "O": "O", "U": "U", "A": "O", "N": "U"}
_LONGEST_LOCATION: Final = 500
_FORBIDDEN = re.compile(r"[/+#\x00-\x1f]")


class BedMap(BaseModel):
    """How a message's location becomes a bed id ``site/unit/bed``.

    Two locations never become one bed by tidying up: a location with characters that a bed id cannot hold is refused
    until `lookup` names its bed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lookup: dict[str, str] = {}
    """Bed by location as it stands in the message (`ICU^2^23`, `EUH-4TN-T435`, an EUI-64); looked at first."""
    text_pattern: str | None = None
    """Regular expression for a location that is one text, with the group `bed` and perhaps `site` and `unit`."""
    site: str = Field("hospital", min_length=1)
    """Site where the message names none (PV1-3.4 is empty)."""
    unit: str = Field("ward", min_length=1)
    """Unit where the message names none (PV1-3.1 is empty)."""
    only_lookup: bool = False
    """Refuse every location that `lookup` does not name."""

    @field_validator("lookup")
    @classmethod
    def _bed_ids(cls, value: dict[str, str]) -> dict[str, str]:
        for bed in value.values():
            parts = bed.split("/")
            if len(parts) != 3 or not all(part.strip() for part in parts):
                raise ValueError(f"{bed!r} is no bed id; write it as site/unit/bed")
        return value

    @field_validator("text_pattern")
    @classmethod
    def _has_bed(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groupindex
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression ({error})") from None
        if "bed" not in groups:
            raise ValueError("the pattern has no group named bed; write it as (?P<bed>…)")
        return value

    def bed(self, location: str) -> str | None:
        """The bed of a location in component form, ``unit^room^bed^facility`` or one text; None where it names none."""
        location = location.strip().rstrip("^").strip()
        if not location:
            return None
        found = self.lookup.get(location)
        if found or self.only_lookup:
            return found
        parts = [part.strip() for part in first_parts(location)]
        if len(parts) == 1:
            match = re.fullmatch(self.text_pattern, parts[0]) if self.text_pattern else None
            groups = match.groupdict() if match else {"bed": parts[0]}
            names = (groups.get("site") or self.site, groups.get("unit") or self.unit, groups["bed"] or "")
        else:
            unit, room, bed, facility = (*parts, "", "", "")[:4]
            names = (facility or self.site, unit or self.unit, bed or room)
        if not all(names) or any(_FORBIDDEN.search(name) for name in names):
            return None
        return "/".join(names)


def location_of(message: Message, segment: Segment | None, field: int) -> str:
    """A PL field in component form, `Message.component_form`; empty if it is not there."""
    if segment is None:
        return ""
    raw = segment.raw(field)[:_LONGEST_LOCATION].split(message.delimiters.repetition, 1)[0]
    return message.component_form(raw)


def encounter_of(message: Message, pid: Segment | None, pv1: Segment | None) -> Encounter | None:
    """The patient and the visit; None where the segments are not there or say nothing (an unknown patient)."""
    encounter = Encounter(
        patient_ids=_identifiers(message, pid) if pid else (),
        family_name=message.component(pid, PID.NAME) if pid else "",
        given_name=message.component(pid, PID.NAME, 2) if pid else "",
        birth_date=_date(message.component(pid, PID.BIRTH_TIME)) if pid else "",
        sex=_SEX.get(message.component(pid, PID.SEX).upper(), "") if pid else "",
        visit=message.component(pv1, PV1.VISIT_NUMBER) if pv1 else "",
        location=location_of(message, pv1, PV1.LOCATION),
    )
    return None if encounter == Encounter() else encounter


def change_of(message: Message, beds: BedMap, received: float) -> EncounterChange | None:
    """The event of an ADT message; None where it is about a bed that is none of ours (`BedMap.only_lookup`).

    Raises:
        HL7Error: the trigger event is not one of `ADT_EVENTS` (201), or the message names no bed at all (204).
    """
    trigger = message.component(message.msh, MSH.TYPE, 2)
    event = ADT_EVENTS.get(trigger)
    if event is None:
        known = ", ".join(ADT_EVENTS)
        raise HL7Error("event_unknown", f"this ADT event is not supported; supported are {known}", code=201,
                       location="MSH^1^9^1^2", reject=True)  # fmt: skip
    pid, pv1 = message.first(b"PID"), message.first(b"PV1")
    here, there = location_of(message, pv1, PV1.LOCATION), location_of(message, pv1, PV1.PRIOR_LOCATION)
    present, prior = beds.bed(here), beds.bed(there)
    if event is EncounterEvent.DISCHARGE and present is None:
        # After a discharge some systems leave PV1-3 empty and name the bed that became free in PV1-6.
        present = prior
    elif event is EncounterEvent.TRANSFER and present is None:
        # The patient left one of our beds for a place that we do not watch: for us that is the end of the stay.
        event, present = EncounterEvent.DISCHARGE, prior
    if present is None:
        if here and beds.only_lookup:
            return None
        raise HL7Error("bed_unknown", "PV1-3 names no bed that is known here; fill it or add it to `beds.lookup`",
                       code=204, location="PV1^1^3")  # fmt: skip
    encounter = encounter_of(message, pid, pv1) or Encounter()
    leaves = prior if event is EncounterEvent.TRANSFER and prior != present else None
    return EncounterChange(event, present, encounter, received, leaves)


def _identifiers(message: Message, pid: Segment) -> tuple[str, ...]:
    """PID-3's repetitions as ``id^^^authority^type``; those without an id (``^^^^PI``) say nothing."""
    found: list[str] = []
    for repetition in pid.repetitions(PID.IDENTIFIERS):
        parts = [*message.component_form(repetition).split("^"), "", "", "", ""]
        if parts[0]:
            found.append(f"{parts[0]}^^^{parts[3]}^{parts[4]}".rstrip("^"))
    return tuple(found)


def _date(text: str) -> str:
    digits = text[:8]
    return digits if len(digits) == 8 and digits.isascii() and digits.isdigit() else ""
