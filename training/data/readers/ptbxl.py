"""PTB-XL (Wagner et al. 2020): twelve leads, ten seconds, SCP statements, reports in German and English.

The full layout (``records500/00000/00001_hr``) or a folder with a part of it, also flat (``records500/00001_hr``).
Where there are no 500 Hz files, those at 100 Hz are taken.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from training.data.codes import from_scp
from training.data.readers.files import OLDEST, number, rows
from training.data.readers.wfdb_records import signals
from training.data.recording import Pending, Pendings, Recording, Rejected, Source

TABLE = "ptbxl_database.csv"
ANONYMISED_AGE, ITS_AGE = 300.0, 90.0
"""PTB-XL writes 300 for everybody over 89."""


def recognise(folder: Path) -> bool:
    """Its table."""
    return (folder / TABLE).is_file()


def years(text: str) -> float | None:
    """Age of a row; 90 for the anonymised oldest, so that they stay in the oldest band."""
    value = number(text)
    if value == ANONYMISED_AGE:
        return ITS_AGE
    return value if value is not None and 0 <= value <= OLDEST else None


def read(source: Source) -> Pendings:
    """The records in the order of the table."""
    for row in rows(source.folder / TABLE, "ecg_id", "patient_id", "scp_codes", "filename_hr"):
        path = _file(source.folder, row)
        yield Pending(path.name, partial(_record, source, path, row))


def _file(folder: Path, row: Mapping[str, str]) -> Path:
    high = Path(row["filename_hr"])
    flat = folder / high.parts[0] / high.name
    low = folder / row.get("filename_lr", "")
    there = (path for path in (folder / high, flat, low) if path.with_suffix(".hea").is_file())
    return next(there, folder / high)


def _record(source: Source, path: Path, row: Mapping[str, str]) -> Recording | Rejected:
    if not path.with_suffix(".hea").is_file():
        return Rejected(source.name, path.name, "unreadable", f"listed in {TABLE}, but there is no such record")
    leads, signal, rate, notes, _ = signals(path)
    statements: dict[str, float] = ast.literal_eval(row["scp_codes"])
    return Recording(
        source=source.name,
        record=path.name,
        patient=f"ptbxl/{int(float(row['patient_id']))}",
        age=years(row["age"]),
        sex={"0": "M", "1": "F"}.get(row["sex"], ""),
        rate=rate,
        leads=leads,
        signal=signal,
        labels=from_scp(statements, row["heart_axis"], [row["infarction_stadium1"], row["infarction_stadium2"]]),
        site=row.get("site", ""),
        report=row.get("report", ""),
        notes=notes,
    )
