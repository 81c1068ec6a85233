"""PhysioNet/CinC Challenge 2015: intensive-care recordings that end with a monitor's alarm, true or false.

Experts judged whether the event was there at the alarm (which the standard wants within ten seconds of the event), and
nothing else of the recording. So the ten seconds before the alarm are known, for the one label that the alarm is about,
and every other window and label stays unknown: above all a false alarm of tachycardia says nothing of its rhythm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from training.data.codes.vocabulary import BRADY, VT
from training.data.readers.files import has, rows
from training.data.readers.wfdb_records import headers, signals
from training.data.recording import (
    Annotations,
    Labels,
    Pending,
    Pendings,
    Recording,
    Rejected,
    Source,
    set_labels,
    unknown_labels,
)

ALARM_AT = 300.0
"""Seconds into the challenge's recordings; the alarm of a shorter one, cut before it, is at its end."""
EVENT = 10.0
"""Seconds before the alarm within which the event must have been (ANSI/AAMI EC13)."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a recording ends with."""

    kind: str
    """As the challenge names it: ``Ventricular_Tachycardia``, ``Bradycardia``, ``Asystole`` …"""
    is_true: bool


def recognise(folder: Path) -> bool:
    """The list of alarms: the challenge's own ``ALARMS``, or ``alarms.csv``."""
    return has(folder, "ALARMS") or has(folder, "alarms.csv")


def read(source: Source) -> Pendings:
    """180 s each, or five minutes and more; labels for the last ten seconds before the alarm."""
    alarms = _alarms(source.folder)
    for path in headers(source):
        yield Pending(path.name, partial(_record, source, path, alarms.get(path.name)))


def _alarms(folder: Path) -> Mapping[str, Alarm]:
    """By record."""
    if (folder / "alarms.csv").is_file():
        table = rows(folder / "alarms.csv", "record", "alarm", "is_true")
        return {row["record"]: Alarm(row["alarm"], row["is_true"].lower() == "true") for row in table}
    lines = (line.split(",") for line in (folder / "ALARMS").read_text("utf-8").splitlines() if line.strip())
    return {name: Alarm(kind, judged.strip() == "1") for name, kind, judged in lines}


def _record(source: Source, path: Path, alarm: Alarm | None) -> Recording | Rejected:
    leads, signal, rate, notes, _ = signals(path)
    if not leads:
        return Rejected(source.name, path.name, "no_leads", "; ".join(notes))
    at = min(ALARM_AT, signal.shape[1] / rate)
    nothing = np.empty(0)
    return Recording(
        source=source.name,
        record=path.name,
        patient=f"cinc2015_alarms/{path.name}",
        age=None,
        sex="",
        rate=rate,
        leads=leads,
        signal=signal,
        annotations=None if alarm is None else Annotations((), nothing, (), partial(alarm_labels, alarm, at)),
        continuous=True,
        notes=notes,
    )


def alarm_labels(alarm: Alarm, at: float, annotations: Annotations, start: float, seconds: float) -> Labels:  # noqa: ARG001
    """(77,) labels of the window from ``start``, of a recording whose alarm came at ``at`` s."""
    labels = unknown_labels()
    if seconds < EVENT or abs(start + seconds - at) > 0.5:
        return labels
    match alarm.kind, alarm.is_true:
        case "Ventricular_Tachycardia", judged:
            set_labels(labels, int(judged), VT)
        case "Bradycardia", True:  # below 40 a minute; what a false one has instead is not said
            set_labels(labels, 1, BRADY)
        case "Tachycardia", True:
            set_labels(labels, 0, BRADY)
    return labels
