"""PhysioNet/CinC Challenge 2015: intensive-care recordings that end with a monitor's alarm, true or false."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from training.data.readers.files import has
from training.data.readers.wfdb_records import headers, signals
from training.data.recording import Pending, Pendings, Recording, Rejected, Source


def recognise(folder: Path) -> bool:
    """The list of alarms: the challenge's own ``ALARMS``, or ``alarms.csv``."""
    return has(folder, "ALARMS") or has(folder, "alarms.csv")


def read(source: Source) -> Pendings:
    """180 s each, no rhythm labels: for stress, and for the alarms' own truth."""
    for path in headers(source):
        yield Pending(path.name, partial(_record, source, path))


def _record(source: Source, path: Path) -> Recording | Rejected:
    leads, signal, rate, notes, _ = signals(path)
    if not leads:
        return Rejected(source.name, path.name, "no_leads", "; ".join(notes))
    return Recording(
        source=source.name,
        record=path.name,
        patient=f"cinc2015_alarms/{path.name}",
        age=None,
        sex="",
        rate=rate,
        leads=leads,
        signal=signal,
        continuous=True,
        notes=notes,
    )
