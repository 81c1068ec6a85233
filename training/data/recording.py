"""What every reader returns: one recording with its patient, its leads and what is known of its 77 labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.core.demonstration import DEMONSTRATION_PATIENTS
from agent.core.ecg import FloatArray, Lead
from agent.core.labels import LABELS, index_of

Labels: TypeAlias = NDArray[np.int8]
"""(77,) in the order of ``LABELS``: 1 = there, 0 = not there, -1 = unknown (masked out of loss and figures)."""

UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one rhythm, seconds from the start of the recording."""

    start: float
    end: float
    rhythm: str
    """The annotation without its bracket: ``AFIB``, ``N``; empty where the annotators say nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """Rhythm and beats of a continuous recording, from which each window takes its labels."""

    spans: tuple[Span, ...]
    """In order, without a gap, over the whole recording."""
    beat_times: NDArray[np.float64]
    """(n_beats,) seconds."""
    beat_symbols: tuple[str, ...]
    """MIT beat codes, one per time: ``N``, ``V``, ``A`` …"""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One recording as its source has it."""

    source: str
    record: str
    patient: str
    """Equal for all recordings of one person, over all sources: ``mitdb/201``, ``ptbxl/15709``."""
    age: float | None
    sex: str
    """``M``, ``F`` or empty."""
    rate: float
    leads: tuple[Lead, ...]
    """In the order of the rows of ``signal``; a subset of the twelve, each once."""
    signal: FloatArray
    """(len(leads), n) in mV; NaN = invalid."""
    labels: Labels
    """Of the whole recording; all unknown where ``annotations`` say it window by window."""
    annotations: Annotations | None = None
    continuous: bool = False
    """Bedside or Holter recording: its label-free hours count towards false alerts per bed-day."""
    notes: tuple[str, ...] = field(default=())
    """What the reader left out, each with its reason (a channel that is none of the twelve leads)."""

    @property
    def id(self) -> str:
        """``source/record``."""
        return f"{self.source}/{self.record}"

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return int(self.signal.shape[1]) / self.rate

    @property
    def held_out(self) -> bool:
        """True for the patients whom the demo shows: never train on them, never choose anything by them."""
        return self.patient in DEMONSTRATION_PATIENTS


@dataclass(frozen=True, slots=True)
class Rejected:
    """A recording that is not used, and why. It is listed, never replaced by another."""

    source: str
    record: str
    reason: str
    """snake_case: ``duplicate``, ``too_short``, ``flat``, ``invalid``, ``no_leads``, ``unreadable``."""
    detail: str = ""


def unknown_labels() -> Labels:
    """(77,) of unknown."""
    return np.full(len(LABELS), UNKNOWN, np.int8)


def set_labels(labels: Labels, value: int, *names: str) -> None:
    """Write ``value`` at the labels of these names, in place."""
    for name in names:
        labels[index_of(name)] = value


def fold_of(patient: str, n: int) -> int:
    """The fold 0 … n-1 of a patient: a fixed hash, so that no list of patients has to be kept."""
    if n < 1:
        raise ValueError(f"{n} folds: there must be at least one")
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") % n
