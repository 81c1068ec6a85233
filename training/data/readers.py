"""Readers of the open collections: each yields recordings with labels, or says why one is not used.

wfdb reads the FLAC-compressed records (format 516). The challenge's MATLAB files are read with scipy and their headers
here, because wfdb rejects the dates of the Georgia headers. ``brugada_huca`` has no reader: its licence (share-alike)
keeps it out of weights that are to be passed on.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from scipy.io import loadmat
from wfdb.io.annotation import rdann
from wfdb.io.record import rdrecord

from agent.core.ecg import FloatArray, Lead
from training.data.annotations import BEATS
from training.data.codes import from_scp, from_snomed
from training.data.recording import Annotations, Recording, Rejected, Span, unknown_labels

Read: TypeAlias = Iterator[Recording | Rejected]

LEAD_OF_NAME: Mapping[str, Lead] = {
    **{lead.upper(): lead for lead in Lead},
    "MLII": Lead.II,  # modified lead II, electrodes on the torso: what a ward monitor calls II
}
"""Channel name in capitals to lead. Absent on purpose: ``V`` and ``MCL``, whose place on the chest is not told."""


def _number(text: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _leads(
    names: list[str], units: list[str], rows: FloatArray
) -> tuple[tuple[Lead, ...], FloatArray, tuple[str, ...]]:
    """The rows that are one of the twelve leads, in mV; the others as notes."""
    leads: list[Lead] = []
    kept: list[int] = []
    notes: list[str] = []
    for i, (name, unit) in enumerate(zip(names, units, strict=True)):
        lead = LEAD_OF_NAME.get(name.upper())
        if lead is None or unit.lower() != "mv":
            notes.append(f"channel {name} ({unit}) is none of the twelve leads")
        elif lead in leads:
            notes.append(f"channel {name} repeats lead {lead}")
        else:
            leads.append(lead)
            kept.append(i)
    return tuple(leads), np.ascontiguousarray(rows[kept]), tuple(notes)


def _wfdb(path: Path) -> tuple[tuple[Lead, ...], FloatArray, float, tuple[str, ...], list[str]]:
    """Leads, (leads, n) mV, rate, notes and header comments of a WFDB record; ``path`` without suffix."""
    record = rdrecord(str(path))  # type: ignore[no-untyped-call]
    rows = np.ascontiguousarray(record.p_signal.T, np.float32)
    leads, signal, notes = _leads(record.sig_name, record.units, rows)
    return leads, signal, float(record.fs), notes, list(record.comments)


def _annotations(path: Path, rate: float, seconds: float, before: str | None = None) -> Annotations:
    """Rhythm spans and beats of ``path.atr``.

    ``before`` is the rhythm up to the first rhythm annotation; None = that annotation's own, which then stands at the
    first beat (MIT-BIH).
    """
    read = rdann(str(path), "atr")  # type: ignore[no-untyped-call]
    noted = [
        (int(sample) / rate, note.strip("\x00")[1:])
        for sample, note in zip(read.sample, read.aux_note, strict=True)
        if note.startswith("(")
    ]
    first = before if before is not None else noted[0][1]
    changes = [(0.0, first), *noted]
    ends = [start for start, _ in changes[1:]] + [seconds]
    spans = tuple(
        Span(start, end, rhythm) for (start, rhythm), end in zip(changes, ends, strict=True) if end - start > 0
    )
    beats = [i for i, symbol in enumerate(read.symbol) if symbol in BEATS or symbol == "!"]  # ! = a flutter wave
    return Annotations(spans, np.asarray(read.sample)[beats] / rate, tuple(read.symbol[i] for i in beats))


def _headers(folder: Path) -> list[Path]:
    """Records of a folder, without suffix, in order."""
    found = sorted(path.with_suffix("") for path in folder.glob("*.hea"))
    if not found:
        raise FileNotFoundError(
            f"no WFDB headers in {folder.name}: set ECG_DATA to the folder that holds mitdb, ptbxl500 …"
        )
    return found


def mitdb(data: Path) -> Read:
    """MIT-BIH Arrhythmia Database: 48 half-hours of two leads, 47 patients (201 and 202 are one tape)."""
    for path in _headers(data / "mitdb"):
        name = path.name
        leads, signal, rate, notes, comments = _wfdb(path)
        words = comments[0].split()  # "69 M 1085 1629 x1"; age -1 = not known
        age = _number(words[0])
        yield Recording(
            source="mitdb",
            record=name,
            patient=f"mitdb/{'201' if name == '202' else name}",
            age=age if age is not None and age >= 0 else None,
            sex=words[1],
            rate=rate,
            leads=leads,
            signal=signal,
            labels=unknown_labels(),
            annotations=_annotations(path, rate, signal.shape[1] / rate),
            continuous=True,
            notes=notes,
        )


def cpsc2021(data: Path) -> Read:
    """CPSC 2021, paroxysmal AF from Holter recordings, leads I and II; the name's first number is the patient."""
    for path in _headers(data / "cpsc2021_af"):
        leads, signal, rate, notes, _ = _wfdb(path)
        yield Recording(
            source="cpsc2021_af",
            record=path.name,
            patient=f"cpsc2021_af/{path.name.split('_')[1]}",
            age=None,
            sex="",
            rate=rate,
            leads=leads,
            signal=signal,
            labels=unknown_labels(),
            annotations=_annotations(path, rate, signal.shape[1] / rate, before="N"),
            continuous=True,
            notes=notes,
        )


def cinc2015(data: Path) -> Read:
    """Intensive-care recordings of 180 s before an alarm: no rhythm labels, for stress and the alarms' own truth."""
    for path in _headers(data / "cinc2015_alarms"):
        leads, signal, rate, notes, _ = _wfdb(path)
        if not leads:
            yield Rejected("cinc2015_alarms", path.name, "no_leads", "; ".join(notes))
            continue
        yield Recording(
            source="cinc2015_alarms",
            record=path.name,
            patient=f"cinc2015_alarms/{path.name}",
            age=None,
            sex="",
            rate=rate,
            leads=leads,
            signal=signal,
            labels=unknown_labels(),
            continuous=True,
            notes=notes,
        )


def ptbxl(data: Path) -> Read:
    """PTB-XL records 1–500: ten seconds, twelve leads, SCP statements."""
    folder = data / "ptbxl500"
    with (folder / "ptbxl_database.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        path = folder / "records500" / Path(row["filename_hr"]).name
        if not path.with_suffix(".hea").is_file():
            yield Rejected(
                "ptbxl500", path.name, "unreadable", "listed in ptbxl_database.csv, but there is no such record"
            )
            continue
        leads, signal, rate, notes, _ = _wfdb(path)
        statements: dict[str, float] = ast.literal_eval(row["scp_codes"])
        yield Recording(
            source="ptbxl500",
            record=path.name,
            patient=f"ptbxl/{int(float(row['patient_id']))}",
            age=_number(row["age"]),
            sex={"0": "M", "1": "F"}.get(row["sex"], ""),
            rate=rate,
            leads=leads,
            signal=signal,
            labels=from_scp(statements, row["heart_axis"], [row["infarction_stadium1"], row["infarction_stadium2"]]),
            notes=notes,
        )


def _ptbxl_patients(data: Path) -> dict[int, tuple[str, str]]:
    """PTB-XL's ecg_id to patient id and age, folds 1–9; empty where the reports are not there."""
    path = data / "ptbxl_reports" / "reports.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {int(row["ecg_id"]): (row["patient_id"], row["age"]) for row in csv.DictReader(file)}


def _challenge_header(text: str) -> tuple[float, list[str], list[float], list[float], dict[str, str]]:
    """Rate, channel names, gains per mV, baselines and the comments of a challenge header."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rate = float(lines[0].split()[2].split("/")[0])
    names, gains, baselines = [], [], []
    for line in (line for line in lines[1:] if not line.startswith("#")):
        fields = line.split()
        match = re.fullmatch(r"([0-9.]+)(?:\(([-0-9]+)\))?/(mV|uV)", fields[2], re.IGNORECASE)
        if match is None:
            raise ValueError(f"gain {fields[2]!r} is not in units per mV")
        names.append(fields[-1])
        gains.append(float(match[1]) * (1000.0 if match[3].lower() == "uv" else 1.0))
        baselines.append(float(match[2] or fields[4]))
    comments = dict(line[1:].split(":", 1) for line in lines if line.startswith("#") and ":" in line)
    return rate, names, gains, baselines, {key.strip(): value.strip() for key, value in comments.items()}


def cinc2021(data: Path) -> Read:
    """The challenge mix: twelve leads, SNOMED codes. ``HR`` records are PTB-XL's, numbered as there."""
    patients = _ptbxl_patients(data)
    for path in _headers(data / "cinc2021_mix"):
        name = path.name
        rate, names, gains, baselines, comments = _challenge_header(path.with_suffix(".hea").read_text("latin-1"))
        counts = np.asarray(loadmat(str(path.with_suffix(".mat")))["val"], np.float32)
        millivolts = (counts - np.asarray(baselines, np.float32)[:, None]) / np.asarray(gains, np.float32)[:, None]
        leads, signal, notes = _leads(names, ["mV"] * len(names), millivolts.astype(np.float32))
        collection = name.rstrip("0123456789")
        age = comments.get("Age", "")
        patient = f"cinc2021/{name}"
        if collection == "HR" and int(name[2:]) in patients:
            known, known_age = patients[int(name[2:])]
            if _number(age) == _number(known_age):  # the numbering holds for every record that both folders have
                patient = f"ptbxl/{int(float(known))}"
        yield Recording(
            source="cinc2021_mix",
            record=name,
            patient=patient,
            age=_number(age),
            sex={"male": "M", "m": "M", "female": "F", "f": "F"}.get(comments.get("Sex", "").lower(), ""),
            rate=rate,
            leads=leads,
            signal=signal,
            labels=from_snomed([code.strip() for code in comments.get("Dx", "").split(",")], collection),
            notes=notes,
        )


READERS: Mapping[str, Callable[[Path], Read]] = {
    "ptbxl500": ptbxl,
    "cinc2021_mix": cinc2021,
    "mitdb": mitdb,
    "cpsc2021_af": cpsc2021,
    "cinc2015_alarms": cinc2015,
}
"""Source (its folder's name) to reader. Of duplicates the source that comes first keeps the recording."""

LICENCES: Mapping[str, str] = {
    "ptbxl500": "CC BY 4.0 (PTB-XL, Wagner et al.)",
    "cinc2021_mix": "CC BY 4.0 (PhysioNet/CinC Challenge 2021; by the challenge's page, not restated in the files)",
    "mitdb": "ODC-By 1.0 (MIT-BIH Arrhythmia Database, Moody and Mark)",
    "cpsc2021_af": "CC BY 4.0 (CPSC 2021)",
    "cinc2015_alarms": "ODC-By 1.0 (PhysioNet/CinC Challenge 2015)",
}
"""Source to licence and origin, for the data-licence table that goes with weights."""
