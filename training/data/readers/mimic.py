"""MIMIC-IV-ECG (PhysioNet, Gow et al. 2023): 800,000 ten-second recordings, machine reports, no labels.

``record_list.csv`` gives the records (``files/p1000/p10000032/s40689238/40689238``), ``machine_measurements.csv`` the
report's lines (``report_0`` … ``report_17``) by study. Age and sex are no part of it: copy MIMIC-IV's ``patients.csv``
(or ``.csv.gz``) into the folder to have them. The leads stand in another order than elsewhere (aVF before aVL): the
header's names count.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from training.data.readers.files import Lookup, age, number, rows, sex, table_file
from training.data.readers.wfdb_records import signals
from training.data.recording import Pending, Pendings, Recording, Source

RECORDS, REPORTS, PATIENTS = "record_list.csv", "machine_measurements.csv", "patients.csv"
_LINES = tuple(f"report_{i}" for i in range(18))


def recognise(folder: Path) -> bool:
    """Its two tables."""
    return (folder / RECORDS).is_file() and (folder / REPORTS).is_file()


def read(source: Source) -> Pendings:
    """The records in the order of the list."""
    reports = Lookup(rows(source.folder / REPORTS, "study_id", *_LINES), "study_id", _LINES)
    path = table_file(source.folder, PATIENTS)
    columns = ("gender", "anchor_age", "anchor_year")
    patients = Lookup(rows(path, "subject_id", *columns), "subject_id", columns) if path is not None else None
    for row in rows(source.folder / RECORDS, "subject_id", "study_id", "path"):
        yield Pending(Path(row["path"]).name, partial(_record, source, row, reports, patients))


def _record(source: Source, row: Mapping[str, str], reports: Lookup, patients: Lookup | None) -> Recording:
    leads, signal, rate, notes, _ = signals(source.folder / row["path"])
    person = patients[row["subject_id"]] if patients is not None else {}
    lines = (line.strip() for line in reports[row["study_id"]].values())
    return Recording(
        source=source.name,
        record=Path(row["path"]).name,
        patient=f"mimic/{row['subject_id']}",
        age=_age(person, row.get("ecg_time", "")),
        sex=sex(person.get("gender")),
        rate=rate,
        leads=leads,
        signal=signal,
        report="\n".join(line for line in lines if line),
        notes=notes,
    )


def _age(person: Mapping[str, str], time: str) -> float | None:
    """Years at the recording: MIMIC shifts all of a patient's dates alike, and gives the age in one of its years."""
    known = [number(person.get("anchor_age")), number(person.get("anchor_year")), number(time[:4])]
    if any(value is None for value in known):
        return None
    anchor_age, anchor_year, year = (value for value in known if value is not None)
    return age(str(anchor_age + year - anchor_year))
