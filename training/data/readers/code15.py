"""CODE-15 % (Ribeiro et al. 2021, Zenodo 4916206): 345,779 exams of the Telehealth Network of Minas Gerais in HDF5.

``exams.csv`` has a row for each exam, ``exams_partN.hdf5`` the datasets ``exam_id`` (n,) and ``tracings``
(n, 4096, 12) at 400 Hz, leads DI, DII, DIII, aVR, aVL, aVF, V1–V6. Quirks: exams of 7 or 10 s stand in the middle of
zeros, which are cut off here; each part ends with an empty row of the id 0. The unit is millivolts by the converter of
the PhysioNet/CinC Challenge 2025; the set's own description does not state it, and the same group's test set is in
0.1 mV, which no check of amplitudes could tell for sure: look at ``deepecg-train describe`` and a few recordings.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agent.core.ecg import LEADS, FloatArray
from training.data.codes import CODE15, from_code15
from training.data.readers.files import Lookup, age, has, hdf5, rows
from training.data.recording import Pending, Pendings, Recording, Rejected, Source

TABLE = "exams.csv"
RATE = 400.0
_COLUMNS = ("age", "is_male", "patient_id", *CODE15)


def recognise(folder: Path) -> bool:
    """The table and at least one part."""
    return (folder / TABLE).is_file() and has(folder, "exams_part*.hdf5")


class _Part:
    """One HDF5 file, opened when its first exam is read and closed with the last reference to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        with hdf5(path) as file:
            self.exams: list[int] = np.asarray(file["exam_id"]).tolist()

    def signal(self, i: int) -> FloatArray:
        """(12, n) of an exam, without the zeros at both ends."""
        if self._file is None:
            self._file = hdf5(self._path)
        rows_ = np.asarray(self._file["tracings"][i], np.float32)
        there = np.flatnonzero(np.any(rows_ != 0, axis=1))
        return np.ascontiguousarray(rows_[there[0] : there[-1] + 1].T) if len(there) else rows_[:0].T


def read(source: Source) -> Pendings:
    """The exams in the order of the parts."""
    exams = Lookup(rows(source.folder / TABLE, "exam_id", *_COLUMNS), "exam_id", _COLUMNS)

    def number_of(path: Path) -> int:
        return int(re.sub(r"\D", "", path.stem) or 0)

    for path in sorted(source.folder.glob("exams_part*.hdf5"), key=number_of):
        part = _Part(path)
        for i, exam in enumerate(part.exams):
            if exam:
                yield Pending(str(exam), partial(_record, source, part, i, exams))


def _record(source: Source, part: _Part, i: int, exams: Lookup) -> Recording | Rejected:
    exam = str(part.exams[i])
    row = exams[exam]
    if not row:
        return Rejected(source.name, exam, "unreadable", f"{TABLE} has no row for it")
    return Recording(
        source=source.name,
        record=exam,
        patient=f"code15/{row['patient_id']}",
        age=age(row["age"]),
        sex={"true": "M", "false": "F"}.get(row["is_male"].lower(), ""),
        rate=RATE,
        leads=LEADS,
        signal=part.signal(i),
        labels=from_code15({name: row[name].lower() == "true" for name in CODE15}),
    )
