"""The vocabulary: every value that passes between the rooms of the house.

All messages are frozen dataclasses, never subclassed. Arrays inside them are float32, owned by the message and
never written to after construction. ``NaN`` marks an invalid sample (a monitor's sentinel, a lead that is off).

Times: ``start``, ``end`` and ``time`` are seconds since the Unix epoch (UTC) on the *sender's* clock where it has one;
``received`` and ``now`` are seconds on the agent's *monotonic* clock, used only for ages and latencies.

Patient data lives in :class:`Encounter` alone, whose ``repr`` shows none of it: a value may be logged, a patient not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]


class Lead(StrEnum):
    """The twelve leads, in the order that every array with a lead axis uses."""

    I = "I"  # noqa: E741  (the lead's name)
    II = "II"
    III = "III"
    AVR = "aVR"
    AVL = "aVL"
    AVF = "aVF"
    V1 = "V1"
    V2 = "V2"
    V3 = "V3"
    V4 = "V4"
    V5 = "V5"
    V6 = "V6"


LEADS: tuple[Lead, ...] = tuple(Lead)


class ChannelKind(StrEnum):
    """What a channel measures; the alert line uses PLETH and ABP as witnesses beside the ECG."""

    ECG = "ecg"
    PLETH = "pleth"
    ABP = "abp"
    RESP = "resp"
    OTHER = "other"


class Provenance(StrEnum):
    """Where a lead of a window comes from."""

    MEASURED = "measured"
    DERIVED = "derived"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Channel:
    """One waveform channel as its sender describes it."""

    kind: ChannelKind
    code: int
    """MDC code (ISO/IEEE 11073-10101, partition * 65536 + term); 0 where the sender gave none."""
    label: str
    """The sender's own name of the channel, as ``II`` or ``MDC_ECG_ELEC_POTL_II``."""
    unit: str
    """UCUM unit of the values: ``mV`` for every ECG channel (decoders convert), ``mm[Hg]``, ``1``."""
    rate: float
    """Samples per second, > 0."""
    lead: Lead | None = None
    """The ECG lead; None for other kinds, and for an ECG electrode that is none of the twelve (V unspecified, MCL)."""
    derived: bool = False
    """The sender itself says that the lead was computed (DICOM CID 3001 derived codes, EASI)."""
    filter_label: str = ""
    """The sender's filter (MDC_ATTR_FILTER_LABEL_STRING), as ``0.5-40 Hz``; empty where it gave none."""


@dataclass(frozen=True, slots=True, repr=False)
class Encounter:
    """Who lies in the bed, as one message says it. All fields may be empty; never logged.

    Whether two of them are the same patient is for `agent.core.census` to say.
    """

    patient_ids: tuple[str, ...] = ()
    """PID-3 repetitions, each in HL7 component form ``id^^^authority^type``: standard delimiters, HL7's escapes."""
    family_name: str = ""
    given_name: str = ""
    birth_date: str = ""
    """PID-7, ``YYYYMMDD`` or empty."""
    sex: str = ""
    """PID-8: ``M``, ``F``, ``O``, ``U`` or empty."""
    visit: str = ""
    """PV1-19, visit number."""
    location: str = ""
    """PV1-3 in component form, escapes and all: ``unit^room^bed^facility``."""

    def __repr__(self) -> str:
        return "Encounter(<withheld>)"


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A block of simultaneous channels from one device at one bed: what a decoder makes of one message."""

    bed: str
    """The agent's bed id, ``site/unit/bed``."""
    device: str
    """The sender's device id, unique within the bed."""
    channels: tuple[Channel, ...]
    values: tuple[FloatArray, ...]
    """One array (n_c,) per channel, in the channel's unit, all starting at ``start``; NaN = invalid."""
    start: float | None
    """Time of the first sample on the device's clock, epoch seconds; None where the message carries no time."""
    received: float
    """Monotonic seconds at which the agent read the block's last byte."""
    sequence: int | None = None
    """The sender's own counter, +1 per block of this device; None where it has none."""
    paced: bool | None = None
    """The monitor's pacemaker status (MDC_ECG_STAT_RHY); None where it says nothing."""
    encounter: Encounter | None = None
    """From the message's PID and PV1; None where it has neither."""
    transport: str = ""
    """How it came: ``mqtt``, ``hl7`` or ``replay``."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Ten seconds (by configuration) of the twelve leads of one bed, at the device's own rate, unfiltered."""

    bed: str
    device: str
    generation: int
    """Counts the encounters of this bed: a result whose generation is not the bed's present one is discarded."""
    start: float
    """Device time of the first sample, epoch seconds."""
    end: float
    """Device time just after the last sample: ``start`` + seconds."""
    rate: float
    """Samples per second of ``samples``."""
    samples: FloatArray
    """(12, rate * seconds) in mV, leads as in ``LEADS``; a missing lead is all zeros. Free of NaN."""
    provenance: tuple[Provenance, ...]
    """Twelve, one per lead."""
    received: float
    """Monotonic arrival time of the block that completed the window: latencies count from here."""
    paced: bool | None = None
    encounter: Encounter | None = None
    filter_labels: tuple[str, ...] = ()

    @property
    def leads(self) -> tuple[Lead, ...]:
        """The leads that are there, measured or derived."""
        return tuple(lead for lead, p in zip(LEADS, self.provenance, strict=True) if p is not Provenance.MISSING)


class GapReason(StrEnum):
    """Why a stretch of a bed's signal gave no window. The metric's label, so the list is closed."""

    MISSING = "missing"  # samples never came
    INVALID = "invalid"  # the monitor marked them invalid, or every lead is off
    CLOCK_JUMP = "clock_jump"  # the device's clock was set
    DEVICE_RESTART = "device_restart"  # its sequence started anew
    RATE_CHANGE = "rate_change"
    LATE = "late"  # the block came after its window had passed
    ENCOUNTER = "encounter"  # the patient changed
    NO_LEADS = "no_leads"  # samples, but of none of the twelve leads


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of signal without a window: a value, never filled in silently."""

    bed: str
    device: str
    start: float
    end: float
    reason: GapReason


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model says of one window."""

    window: Window
    model: str
    """``name/version`` of the bundle."""
    engine: str
    """Back-end and precision that computed it, as ``openvino-f32``."""
    probabilities: FloatArray
    """(n_labels,) in the order of the manifest's labels, each in [0, 1]."""
    completed: float
    """Monotonic seconds when the engine returned."""


class EncounterEvent(StrEnum):
    """What happened to a bed's encounter. ADT trigger events in brackets."""

    ADMIT = "admit"  # A01, and A13 (cancelled discharge)
    TRANSFER = "transfer"  # A02: the patient leaves `prior_bed` and arrives at `bed`
    DISCHARGE = "discharge"  # A03, and A11 (cancelled admission)
    UPDATE = "update"  # A08


@dataclass(frozen=True, slots=True)
class EncounterChange:
    """An ADT event of one bed."""

    event: EncounterEvent
    bed: str
    """The bed that the event is about; for a transfer, the new one."""
    encounter: Encounter
    received: float
    prior_bed: str | None = None
    """For a transfer, the bed left behind (PV1-6); None where the message does not say."""
    sender_beds: tuple[str, ...] = ("*",)
    """Patterns of the beds that the sender may speak for: a transfer that names no bed left empties none but these."""

    def may_empty(self, bed: str) -> bool:
        """Whether the message may be about this bed although it does not name it."""
        return bed != self.bed and any(fnmatchcase(bed, pattern) for pattern in self.sender_beds)


class Priority(StrEnum):
    """IHE PCD-04 alert priority (MDC_ATTR_ALARM_PRIORITY); IEC 60601-1-8 colours."""

    HIGH = "PH"  # red
    MEDIUM = "PM"  # yellow
    LOW = "PL"  # cyan
    NONE = "PN"  # advisory


class Phase(StrEnum):
    """IHE PCD-04 event phase (MDC_ATTR_EVENT_PHASE)."""

    START = "start"
    CONTINUE = "continue"
    UPDATE = "update"
    ESCALATE = "escalate"
    DEESCALATE = "deescalate"
    END = "end"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class SourceAlarm:
    """An alarm that the monitor itself raised: the alert line will say of each whether it looks true."""

    bed: str
    device: str
    code: int
    """MDC event code; 0 where the sender gave a text only."""
    text: str
    phase: Phase
    active: bool
    priority: Priority | None
    time: float | None
    """Event time on the device's clock, epoch seconds."""
    received: float
    source_code: int = 0
    """MDC code of the metric it is about; 0 where it names none."""
    encounter: Encounter | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """One message in the life of one alert: what is committed to the outbox and then sent.

    ``alert_id`` stays the same from start to end; ``message_id`` is this message's own, by which the receiver
    de-duplicates (delivery is at least once).
    """

    alert_id: str
    message_id: str
    bed: str
    device: str
    label: str
    """The model's label (``Afib``), or the technical condition."""
    code: int
    """MDC event code; 0 where the standard has none (then ``label`` goes out in the private form)."""
    ref_id: str
    """``MDC_EVT_ATR_FIB``; empty with code 0."""
    text: str
    """For a person; says that it is advisory."""
    priority: Priority
    phase: Phase
    active: bool
    opened: float
    """Device time of the end of the window that opened it, epoch seconds."""
    time: float
    """Device time of this message's event, epoch seconds."""
    created: float
    """Wall-clock epoch seconds at which this message was made."""
    probability: float | None
    threshold: float | None
    model: str
    received: float
    """Monotonic arrival time of the samples that caused it (latencies count from here; meaningless after a restart)."""
    source_code: int = 0
    """MDC code of the metric it is about, as 131328 (MDC_ECG_ELEC_POTL)."""
    reason: str = ""
    """Why it ended: ``recovered``, ``transfer``, ``discharge``, ``patient_changed``, ``feed_lost``, ``model_changed``,
    ``shutdown``."""
    encounter: Encounter | None = field(default=None)

    @property
    def technical(self) -> bool:
        """A technical condition (no ECG, leads off) and no finding: no model saw it, so it has no probability."""
        return self.probability is None


Event: TypeAlias = Samples | EncounterChange | SourceAlarm
"""What a source hands to the line, in order."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something a sender did wrong: counted by ``reason``, logged as ``text``, and never anybody else's problem."""

    reason: str
    """snake_case from a closed list in the decoder that raises it: a metric's label."""
    text: str
    """One sentence, free of patient data: what is wrong and how to mend it."""
    bed: str | None = None
