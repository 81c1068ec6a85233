"""Who lies in which bed: the one place that decides whether two messages speak of the same patient.

Hospital messages (ADT), the names that monitors send along with their samples, and the alerts that were open before a
restart go in; `Arrived`, `Left` and `Updated` come out. Windows, alerting and the page follow these events and the
bed's generation, and decide nothing of the kind themselves. Pure: ``received`` and ``now`` are the agent's monotonic
seconds.

The rules, each with a method of its own:

1.  **Same patient.** Two messages contradict each other where both name a patient and share no identifier. An
    identifier is a number with its assigning authority (HL7 v2 CX.1 and CX.4); one without an authority fits any.
    A message that names nobody contradicts nobody.
2.  **Generation.** A bed counts its encounters. The count rises with every `Left` and never falls, not even where the
    bed was forgotten in between. What was measured or computed under another count is somebody else's.
3.  **Update** (A08). It adds to what is known of the patient; a field that it leaves empty stays. An update that
    contradicts him ends the encounter: the one whom it names lies there now.
4.  **Admission** (A01, A13). It ends the encounter of whoever lay there, also of an unknown patient, unless the same
    patient is *known* to lie there already (the message has come twice): then it is an update.
5.  **Discharge** (A03, A11). It empties the bed, unless it contradicts the one who lies there: then it is late, and
    the next patient is left alone.
6.  **Transfer** (A02). A departure from the bed left, by rule 5, and then an admission to the new one, by rule 4. The
    bed left is PV1-6; where the message has none, it is each bed where the patient is *known* to lie and for which the
    sender may speak. A transfer from a bed to itself is an update.
7.  **Samples.** A block that contradicts the patient ends the encounter: the one whom it names lies there now.
    Otherwise it adds to what is known, each time that its device says something new; of a patient whom ADT has named
    it only fills in what is empty.
8.  **Withdrawal.** A device that named its patient and then sends three blocks in a row without a name, the last of
    them more than twenty seconds after that, was told to forget him. That ends the encounter.
9.  **Restart.** The patients of open alerts lie in their beds until something says otherwise. Where they contradict
    each other the newest one stays, and the encounter of those before is over.
10. **Memory.** At most ``max_beds`` are known. One without samples makes room for another; one with samples is never
    pushed out. A bed or device without samples for ``idle`` seconds is forgotten, and with the bed whom its monitors
    or old alerts have named; whom ADT has put there stays, for a monitor may be off for an hour and come back.

For example, a patient is admitted, named in full by an update, and replaced by the next one as a monitor tells it:

>>> census = Census()
>>> ada, bob = Encounter(patient_ids=("1^^^H^MR",)), Encounter(patient_ids=("2^^^H^MR",))
>>> census.apply(EncounterChange(EncounterEvent.ADMIT, "h/icu/1", ada, received=0.0))
(Left(bed='h/icu/1', generation=1, reason=<Departure.PATIENT_CHANGED: 'patient_changed'>), \
Arrived(bed='h/icu/1', generation=1, encounter=Encounter(<withheld>)))
>>> full = Encounter(patient_ids=("1^^^H^MR",), family_name="Byron")
>>> census.apply(EncounterChange(EncounterEvent.UPDATE, "h/icu/1", full, received=1.0))
(Updated(bed='h/icu/1', generation=1, encounter=Encounter(<withheld>)),)
>>> census.identify("h/icu/1", "monitor", None, received=2.0)  # it names nobody: he lies there still
()
>>> [type(event).__name__ for event in census.identify("h/icu/1", "monitor", bob, received=3.0)]
['Left', 'Arrived']
>>> census.apply(EncounterChange(EncounterEvent.DISCHARGE, "h/icu/1", ada, received=4.0))  # late: Bob stays
()
>>> census.stay("h/icu/1") == Stay(generation=2, encounter=bob)
True
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias, TypeGuard

from agent.core.ecg import Encounter, EncounterChange, EncounterEvent

_DEVICES = 16  # of one bed
_NAMELESS = 3  # so many blocks in a row without a patient, from a device that named one, …
_NAMED_FOR = 20.0  # … and so many seconds after it did: it is that patient no longer


class Departure(StrEnum):
    """Why an encounter is over: the ``reason`` of the alerts that end with it."""

    DISCHARGE = "discharge"
    TRANSFER = "transfer"
    PATIENT_CHANGED = "patient_changed"


@dataclass(frozen=True, slots=True)
class Left:
    """Whoever lay in the bed lies there no longer: nothing of him may reach, or be shown for, whoever is next."""

    bed: str
    generation: int
    """The bed's new count of encounters."""
    reason: Departure


@dataclass(frozen=True, slots=True)
class Arrived:
    """A patient lies in the bed from now on. Always comes right after a `Left` of the same generation."""

    bed: str
    generation: int
    encounter: Encounter


@dataclass(frozen=True, slots=True)
class Updated:
    """More is known of the one who lies in the bed."""

    bed: str
    generation: int
    encounter: Encounter
    """All that is known."""


CensusEvent: TypeAlias = Left | Arrived | Updated


@dataclass(frozen=True, slots=True)
class Stay:
    """The present encounter of a bed."""

    generation: int = 0
    encounter: Encounter | None = None
    """None where nobody is known to lie there."""


@dataclass(slots=True)
class _Namer:
    """What a device has said of its patient during the present encounter."""

    received: float
    """Arrival of its last block."""
    said: Encounter | None = None
    named: float | None = None
    """Arrival of its last block that named a patient; None where none has."""
    nameless: int = 0
    """Blocks since then that named nobody."""


@dataclass(slots=True)
class _Occupancy:
    """One bed: who lies there, and which devices have spoken of him."""

    stay: Stay
    by_adt: bool = False
    """The hospital, not only a monitor, has said who lies here."""
    devices: dict[str, _Namer] = field(default_factory=dict)
    """Those that have sent samples."""
    quiet_since: float | None = None
    """Arrival of the last samples; without any, the first look of `Census.forget`."""


class Census:
    """The patients of all beds. Feed it in the order of arrival; every method returns what happened, in order.

    Args:
        max_beds: Bounds its memory.
        idle: Seconds without samples after which a device or bed is forgotten.
    """

    def __init__(self, max_beds: int = 2048, idle: float = 600.0) -> None:
        self.counts: Counter[str] = Counter()
        """What did not fit: too_many_beds, encounter_forgotten (of a bed without samples, to make room)."""
        self._max_beds = max_beds
        self._idle = idle
        self._beds: dict[str, _Occupancy] = {}
        self._floor = 0
        """The generation of every bed that is not known: none that was forgotten had a higher one."""

    def stay(self, bed: str) -> Stay | None:
        """The bed's present encounter; None where the bed is not known."""
        known = self._beds.get(bed)
        return None if known is None else known.stay

    def generation(self, bed: str) -> int:
        """The bed's count of encounters (rule 2)."""
        known = self._beds.get(bed)
        return self._floor if known is None else known.stay.generation

    # Hospital messages: rules 3 to 6

    def apply(self, change: EncounterChange) -> tuple[CensusEvent, ...]:
        """Take an ADT event."""
        match change.event:
            case EncounterEvent.UPDATE:
                return self._update(change.bed, change.encounter)
            case EncounterEvent.ADMIT:
                return self._admit(change.bed, change.encounter)
            case EncounterEvent.DISCHARGE:
                return self._discharge(change.bed, change.encounter, Departure.DISCHARGE)
            case EncounterEvent.TRANSFER:
                return self._transfer(change)

    def _update(self, name: str, encounter: Encounter) -> tuple[CensusEvent, ...]:
        bed = self._beds.get(name) or self._new(name)
        if bed is None:
            return ()
        if contradict(bed.stay.encounter, encounter):
            return self._replace(name, bed, encounter, by_adt=True)
        bed.by_adt = bed.by_adt or bool(encounter.patient_ids)
        return self._learn(name, bed, _merged(bed.stay.encounter, encounter))

    def _admit(self, name: str, encounter: Encounter) -> tuple[CensusEvent, ...]:
        bed = self._beds.get(name) or self._new(name)
        if bed is None:
            return (self._left_unknown(name, Departure.PATIENT_CHANGED),)
        if same_known(bed.stay.encounter, encounter):
            return self._update(name, encounter)
        return self._replace(name, bed, encounter, by_adt=True)

    def _discharge(self, name: str, encounter: Encounter, reason: Departure) -> tuple[CensusEvent, ...]:
        bed = self._beds.get(name)
        if bed is None:
            return (self._left_unknown(name, reason),)
        return () if contradict(bed.stay.encounter, encounter) else (self._end(name, bed, reason),)

    def _transfer(self, change: EncounterChange) -> tuple[CensusEvent, ...]:
        if change.prior_bed == change.bed:
            return self._update(change.bed, change.encounter)
        if change.prior_bed is not None:
            left = [change.prior_bed]
        else:
            left = [
                name
                for name, bed in self._beds.items()
                if change.may_empty(name) and same_known(bed.stay.encounter, change.encounter)
            ]
        out: list[CensusEvent] = []
        for name in left:
            out += self._discharge(name, change.encounter, Departure.TRANSFER)
        return (*out, *self._admit(change.bed, change.encounter))

    # What samples carry: rules 7 and 8

    def identify(self, bed: str, device: str, encounter: Encounter | None, received: float) -> tuple[CensusEvent, ...]:
        """Take the identity that a block of samples carries, None where it has none.

        Where there is no room for the bed, nothing happens and `stay` knows it not: its samples must be refused.
        """
        here = self._beds.get(bed) or self._new(bed)
        if here is None:
            return ()
        here.quiet_since = received if here.quiet_since is None else max(here.quiet_since, received)
        namer = here.devices.get(device)
        if namer is None:
            namer = _Namer(received)
            if len(here.devices) < _DEVICES:
                here.devices[device] = namer
        namer.received = max(namer.received, received)
        out: tuple[CensusEvent, ...] = ()
        if encounter is not None:
            known = here.stay.encounter
            if contradict(known, encounter):
                out = self._replace(bed, here, encounter, by_adt=False)
            elif encounter != namer.said:
                out = self._learn(bed, here, _merged(encounter, known) if here.by_adt else _merged(known, encounter))
            namer.said = encounter
        return out + self._withdraw(bed, here, namer, encounter, received)

    def _withdraw(
        self, name: str, bed: _Occupancy, namer: _Namer, encounter: Encounter | None, received: float
    ) -> tuple[CensusEvent, ...]:
        if encounter is not None and encounter.patient_ids:
            namer.named, namer.nameless = received, 0
        elif namer.named is not None:
            namer.nameless += 1
            if namer.nameless >= _NAMELESS and received - namer.named > _NAMED_FOR:
                if encounter is not None:
                    return self._replace(name, bed, encounter, by_adt=False)
                return (self._end(name, bed, Departure.PATIENT_CHANGED),)
        return ()

    # Restart and memory: rules 9 and 10

    def restore(self, bed: str, encounter: Encounter | None) -> tuple[CensusEvent, ...]:
        """Take the patient of an alert that was open when the agent stopped; oldest alert first, before all else."""
        here = self._beds.get(bed) or self._new(bed)
        if here is None or encounter is None:
            return ()
        if contradict(here.stay.encounter, encounter):
            return self._replace(bed, here, encounter, by_adt=False)
        return self._learn(bed, here, _merged(here.stay.encounter, encounter))

    def forget(self, now: float) -> None:
        """Drop what has been without samples for ``idle`` seconds. Call it now and then."""
        for name, bed in list(self._beds.items()):
            for device, namer in list(bed.devices.items()):
                if now - namer.received > self._idle:
                    del bed.devices[device]
            if bed.quiet_since is None:
                bed.quiet_since = now
            if not bed.devices and not bed.by_adt and now - bed.quiet_since > self._idle:
                self._drop(name)

    def _new(self, name: str) -> _Occupancy | None:
        if len(self._beds) >= self._max_beds:
            # A hospital's ADT speaks of far more beds than have a monitor: they must not keep one with samples out.
            unused = next((other for other, known in self._beds.items() if not known.devices), None)
            if unused is None:
                self.counts["too_many_beds"] += 1
                return None
            self._drop(unused)
            self.counts["encounter_forgotten"] += 1
        bed = self._beds[name] = _Occupancy(Stay(self._floor))
        return bed

    def _drop(self, name: str) -> None:
        self._floor = max(self._floor, self._beds.pop(name).stay.generation + 1)

    # What happens to a bed: rule 2

    def _end(self, name: str, bed: _Occupancy, reason: Departure) -> Left:
        bed.stay = Stay(bed.stay.generation + 1)
        bed.by_adt = False
        for namer in bed.devices.values():
            namer.said, namer.named, namer.nameless = None, None, 0
        return Left(name, bed.stay.generation, reason)

    def _left_unknown(self, name: str, reason: Departure) -> Left:
        """Whoever lay in a bed that is not known here: others may remember him."""
        self._floor += 1
        return Left(name, self._floor, reason)

    def _replace(self, name: str, bed: _Occupancy, encounter: Encounter, *, by_adt: bool) -> tuple[CensusEvent, ...]:
        left = self._end(name, bed, Departure.PATIENT_CHANGED)
        bed.stay, bed.by_adt = Stay(left.generation, encounter), by_adt
        return left, Arrived(name, left.generation, encounter)

    @staticmethod
    def _learn(name: str, bed: _Occupancy, encounter: Encounter) -> tuple[CensusEvent, ...]:
        if encounter == bed.stay.encounter:
            return ()
        bed.stay = Stay(bed.stay.generation, encounter)
        return (Updated(name, bed.stay.generation, encounter),)


# The same patient: rule 1


def contradict(one: Encounter | None, other: Encounter | None) -> bool:
    """Both name patients and share no identifier. Whoever is unknown contradicts nobody."""
    if one is None or other is None or not one.patient_ids or not other.patient_ids:
        return False
    return not _share_identifier(one, other)


def same_known(one: Encounter | None, other: Encounter | None) -> TypeGuard[Encounter]:
    """Both name patients and share an identifier."""
    if one is None or other is None or not one.patient_ids or not other.patient_ids:
        return False
    return _share_identifier(one, other)


def _share_identifier(one: Encounter, other: Encounter) -> bool:
    if one.patient_ids == other.patient_ids:
        return True
    authorities: dict[str, set[str]] = {}
    for text in one.patient_ids:
        number, authority = _identifier(text)
        authorities.setdefault(number, set()).update(authority)
    for text in other.patient_ids:
        number, authority = _identifier(text)
        known = authorities.get(number)
        if known is not None and ("" in authority or "" in known or not authority.isdisjoint(known)):
            return True
    return False


def _identifier(text: str) -> tuple[str, set[str]]:
    """Number, and namespace and universal id of its authority (HD.1, HD.2), of which either may come; "" if neither."""
    number, _, _, authority, *_ = (*text.split("^"), "", "", "")
    return number, {name for name in authority.split("&")[:2] if name} or {""}


def _merged(old: Encounter | None, new: Encounter | None) -> Encounter:
    """What both say of one patient; where both say something, the new counts."""
    old, new = old or Encounter(), new or Encounter()
    return Encounter(**{f.name: getattr(new, f.name) or getattr(old, f.name) for f in dataclasses.fields(Encounter)})
