"""Any folder of WFDB records (PhysioNet's header and signal files)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from agent.core.ecg import FloatArray, Lead
from training.data.readers.files import has, pick_leads, walk
from training.data.recording import Pending, Pendings, Recording, Source


def headers(source: Source) -> list[Path]:
    """Records directly in the source's folder, without suffix, in order.

    Raises:
        FileNotFoundError: there are none.
    """
    found = sorted(path.with_suffix("") for path in source.folder.glob("*.hea"))
    if not found:
        raise FileNotFoundError(f"no WFDB headers (*.hea) in {source.folder}: name the folder that holds the records")
    return found


def signals(path: Path) -> tuple[tuple[Lead, ...], FloatArray, float, tuple[str, ...], list[str]]:
    """Leads, (leads, n) mV, rate, notes and header comments of a WFDB record; ``path`` without suffix."""
    from wfdb.io.record import rdrecord

    record = rdrecord(str(path))  # type: ignore[no-untyped-call]
    rows = np.ascontiguousarray(record.p_signal.T, np.float32)
    leads, signal, notes = pick_leads(record.sig_name, record.units, rows)
    return leads, signal, float(record.fs), notes, list(record.comments)


def recognise(folder: Path) -> bool:
    """Headers in the folder, or a list of records as PhysioNet gives one."""
    return has(folder, "*.hea") or has(folder, "RECORDS")


def read(source: Source) -> Pendings:
    """Every record under the folder, however deep; each is a patient, unless ``records.csv`` says otherwise."""
    for path in walk(source.folder, ".hea"):
        name = path.relative_to(source.folder).with_suffix("").as_posix()
        yield Pending(name, partial(_record, source, path.with_suffix(""), name))


def _record(source: Source, path: Path, name: str) -> Recording:
    leads, signal, rate, notes, _ = signals(path)
    return Recording(
        source=source.name,
        record=name,
        patient=f"{source.name}/{name}",
        age=None,
        sex="",
        rate=rate,
        leads=leads,
        signal=signal,
        notes=notes,
    )
