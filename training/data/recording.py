"""What every reader returns: one recording with its patient, its leads and what is known of its 77 labels."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import FloatArray, Lead
from agent.core.errors import DeepECGError
from agent.core.labels import LABELS, index_of
from agent.simulator.demonstration import DEMONSTRATION_PATIENTS

Labels: TypeAlias = NDArray[np.int8]
"""(77,) in the order of ``LABELS``: 1 = there, 0 = not there, -1 = unknown (masked out of loss and figures)."""

UNKNOWN = -1


def unknown_labels() -> Labels:
    """(77,) of unknown."""
    return np.full(len(LABELS), UNKNOWN, np.int8)


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
    rule: Callable[[Annotations, float, float], Labels]
    """What these annotators' marks say of the window from a second on that lasts so many seconds."""


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
    labels: Labels = field(default_factory=unknown_labels)
    """Of the whole recording; all unknown where ``annotations`` say it window by window."""
    site: str = ""
    """Hospital, collection or device group within the source; empty where not told."""
    report: str = ""
    """Free text of the report, in its own language; empty where there is none."""
    targets: Mapping[str, float] = field(default_factory=dict)
    """Other tasks' truth by name: ``lvef`` (percent), ``af_5y``, ``lqts``, ``lqts_type``, ``brugada`` …"""
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


class UnreadableError(DeepECGError, ValueError):
    """What is wrong with a file, in a sentence that names nothing of a patient's: so it may be listed."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A recording that is not used, and why. It is listed, never replaced by another."""

    source: str
    record: str
    reason: str
    """``unreadable``, ``no_leads``, ``rate``, ``too_short``, ``invalid``, ``units``, ``flat``, ``leads`` or
    ``duplicate``."""
    detail: str = ""
    """One sentence for a person, without patient data."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A recording that is known by name and not read yet.

    Readers yield these, so that what an earlier run has already written can be passed over without reading it.
    """

    record: str
    load: Callable[[], Recording | Rejected]
    name: str = ""
    """What the archive's owner calls it, where ``record`` is a pseudonym."""


Pendings: TypeAlias = Iterator[Pending]


@dataclass(frozen=True, slots=True)
class Source:
    """A folder of recordings of one format."""

    name: str
    """Its name in the table."""
    format: str
    """Key of ``FORMATS``."""
    folder: Path
    salt: bytes = field(default=b"", repr=False)
    """Of the dataset; needed by formats that hold real patients' identifiers."""

    def pseudonym(self, identifier: str) -> str:
        """A patient's name in the table from the hospital's identifier, the same in every source of the dataset."""
        return f"p/{self.code(identifier)}"

    def code(self, text: str) -> str:
        """What stands for a text that may tell of a patient: keyed, so that nobody without the key can try them all."""
        return hmac.new(self.salt, text.strip().encode(), hashlib.sha256).hexdigest()[:20]


@dataclass(frozen=True, slots=True)
class Licence:
    """What a source may be used for."""

    text: str
    share_alike: bool = False
    """What is made of it must be passed on under the same licence: keep it out of weights that ship."""


def set_labels(labels: Labels, value: int, *names: str) -> None:
    """Write ``value`` at the labels of these names, in place."""
    for name in names:
        labels[index_of(name)] = value


def fold_of(patient: str, n: int) -> int:
    """The fold 0 … n-1 of a patient: a fixed hash, so that no list of patients has to be kept."""
    if n < 1:
        raise ValueError(f"{n} folds: there must be at least one")
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") % n
