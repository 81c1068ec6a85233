"""One block of simultaneous channels, and its fields: what all MQTT payloads have in common.

Every check that a payload's form does not make for itself is here, once: a violation is a `PayloadError` whose `Fault`
names a `Reason` and says how to mend it, without quoting any of the payload's text (it may hold patient data).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeGuard

import numpy as np

from agent.core.ecg import Channel, ChannelKind, Encounter, Fault, FloatArray, Lead, Samples
from agent.core.errors import DeepECGError
from agent.core.nomenclature import CODE_OF_LEAD, Term, term_of_code, term_of_name, unit_of

INVALID = -32768
"""The int16 that marks an invalid sample."""

_LATEST = 4102444800.0  # 2100-01-01: a clock beyond it counts other units than it says
QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(\S*)\s*")
_MAY_BE_QUOTED = re.compile(r"[A-Za-z]{0,4}[0-9]{1,2}|[IVXaRLFivx]{1,5}")
"""What has the shape of a lead's name (``V7``, ``CM5``, ``VII``) and so cannot be a patient's."""


class Reason(StrEnum):
    """Why a payload was refused: the closed list behind `Fault.reason`."""

    TOPIC = "topic"
    TOO_LARGE = "too_large"
    CONTENT_TYPE = "content_type"
    SYNTAX = "syntax"
    VERSION = "version"
    FIELD = "field"
    LENGTH = "length"
    CHANNELS = "channels"
    RATE = "rate"
    SCALE = "scale"
    TIME = "time"
    SEQUENCE = "sequence"
    VALUES = "values"
    PATIENT = "patient"


class PayloadError(DeepECGError):
    """A message cannot be taken; `fault` says why and how its sender mends it."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.text)
        self.fault = fault


def refused(reason: Reason, text: str) -> PayloadError:
    """The error to raise; ``text`` is one sentence with the remedy and quotes nothing of the payload."""
    return PayloadError(Fault(reason, text))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one message may hold."""

    payload: int = 1 << 20
    """Bytes."""
    channels: int = 64
    samples: int = 20_000
    """Per channel."""


@dataclass(frozen=True, slots=True)
class OffsetBinary:
    """What the flat form of 12-bit devices leaves unsaid: used where the message does not say otherwise."""

    baseline: float = 2047.0
    """The value at 0 mV."""
    lowest: int = 0
    highest: int = 4095
    microvolts: float = 1.5
    """µV per step."""
    rate: float = 250.0
    """Samples per second."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What a payload says, before its topic has said of whom. Fields as in `Samples`."""

    channels: tuple[Channel, ...]
    values: tuple[FloatArray, ...]
    start: float | None = None
    sequence: int | None = None
    paced: bool | None = None
    patient: tuple[str, ...] = ()


def ecg_block(
    bed: str,
    device: str,
    leads: Mapping[Lead, FloatArray],
    rate: float,
    *,
    start: float | None = None,
    sequence: int | None = None,
    received: float = 0.0,
    paced: bool | None = None,
    filter_label: str = "",
    patient: tuple[str, ...] = (),
) -> Samples:
    """A block of ECG leads, each (n,) in mV at one rate: what a device, the demo or a test encodes and publishes."""
    return Samples(
        bed=bed,
        device=device,
        channels=tuple(channel_of(CODE_OF_LEAD[lead], rate, filter_label) for lead in leads),
        values=tuple(np.asarray(values, np.float32) for values in leads.values()),
        start=start,
        received=received,
        sequence=sequence,
        paced=paced,
        encounter=Encounter(patient_ids=patient) if patient else None,
    )


def channel_of(
    code: int, rate: float, filter_label: str, *, derived: bool = False, label: str = "", unit: str = ""
) -> Channel:
    """The channel of an MDC code: kind, lead, unit and label where the sender gives none; the rate is checked.

    ``unit`` is what the values will be in: ECG is in mV whatever it says, for decoders convert.
    """
    term = term_of_code(code) or Term(code, "", str(code) if code else "", ChannelKind.OTHER, "1")
    if term.kind is ChannelKind.ECG:
        if not 100.0 <= rate <= 1000.0:
            raise refused(Reason.RATE, "ECG has 100 to 1000 samples per second; resample it, or correct rate")
        unit = term.unit
    elif not 0.0 < rate <= 100_000.0:
        raise refused(Reason.RATE, "a channel has more than 0 and at most 100000 samples per second; correct rate")
    return Channel(
        term.kind, code, label or term.label, unit or term.unit, rate, term.lead, derived or term.derived, filter_label
    )


def no_lead_twice(channels: Sequence[Channel]) -> None:
    """`PayloadError` where two channels of a block are the same lead."""
    leads = [c.lead for c in channels if c.lead]
    if len(set(leads)) != len(leads):
        raise refused(Reason.CHANNELS, "a lead comes twice in one block; send each lead once")


def known_lead(name: str) -> bool:
    """Whether `code_of_lead` knows the name."""
    term = term_of_name(name)
    return term is not None and term.kind is ChannelKind.ECG


def code_of_lead(name: object) -> int:
    """The MDC code of a lead's name, however it is spelt: ``II``, ``avr``, ``MLII``, ``MDC_ECG_ELEC_POTL_II``.

    V, MCL and ECG have codes and no lead: they reach the page and the beat detector, never the network.
    """
    term = term_of_name(name) if isinstance(name, str) else None
    if term is None or term.kind is not ChannelKind.ECG:
        what = name if isinstance(name, str) and _MAY_BE_QUOTED.fullmatch(name) else "a name"
        raise refused(
            Reason.CHANNELS, f"{what} is no lead; use I, II, III, aVR, aVL, aVF, V1 to V6, MLII, V, MCL or ECG"
        )
    return term.code if term.lead is None or term.derived else CODE_OF_LEAD[term.lead]


def is_finite(value: object) -> TypeGuard[int | float]:
    """A number of sensible size; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e15 and math.isfinite(value)


def scale_of(value: object) -> float:
    """Units per step, bounded so that every scaled sample is finite."""
    if not is_finite(value) or not 1e-9 <= value <= 1e3:
        raise refused(Reason.SCALE, "scale must be a number between 1e-9 and 1000: units (mV for ECG) per step")
    return float(value)


def rate_of(value: object) -> float:
    """Samples per second, of a number, ``"250/s"`` or ``"250 Hz"``."""
    if isinstance(value, str) and (found := QUANTITY.fullmatch(value[:40])):
        unit = unit_of(found[2] or "Hz")
        value = float(found[1]) if unit is not None and unit.ucum == "Hz" else None
    if not is_finite(value) or not 0.0 < value <= 100_000.0:
        raise refused(Reason.RATE, "rate must be a number of samples per second, as 500 or 250/s")
    return float(value)


def clock_of(seconds: float) -> float:
    """Epoch seconds that a working clock may show."""
    if not 0.0 <= seconds < _LATEST:
        raise refused(Reason.TIME, "the time of the first sample is not between 1970 and 2100; correct its unit")
    return seconds


def time_of(value: object) -> float | None:
    """Epoch seconds, of a number or an ISO 8601 text with a zone (CBOR tags 0 and 1 come as datetime)."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise refused(Reason.TIME, "time is not ISO 8601; send 2026-01-31T12:00:00.000Z or epoch seconds") from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise refused(Reason.TIME, "time has no zone; add Z or the offset, as +01:00")
        return clock_of(value.timestamp())
    if not is_finite(value):
        raise refused(Reason.TIME, "time must be ISO 8601 with a zone, or epoch seconds")
    return clock_of(float(value))


def sequence_of(value: object) -> int | None:
    """The device's block counter; None where it has none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise refused(Reason.SEQUENCE, "sequence must be a whole number from 0, one more with each block of the device")
    return value


def patients_of(value: object) -> tuple[str, ...]:
    """PID-3 repetitions, ``id^^^authority^type``; a single text is one."""
    if value is None:
        return ()
    ids = (value,) if isinstance(value, str) else value
    if not isinstance(ids, list | tuple) or len(ids) > 16:
        raise refused(Reason.PATIENT, "patient must be a list of at most 16 identifiers, as 12345^^^HOSPITAL^MR")
    for one in ids:
        if not isinstance(one, str) or not 0 < len(one) <= 250 or not one.isprintable() or "~" in one:
            raise refused(Reason.PATIENT, "a patient identifier is a printable text of 1 to 250 characters without ~")
    return tuple(ids)


def text_of(data: bytes, what: str) -> str:
    """Printable UTF-8; ``what`` names the field for the error."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise refused(Reason.FIELD, f"the {what} is not UTF-8; encode it so") from None
    if not text.isprintable():
        raise refused(Reason.FIELD, f"the {what} holds control characters; remove them")
    return text
