"""PhysioNet/CinC Challenge 2020 and 2021: twelve leads, SNOMED CT codes, MATLAB files.

The MATLAB files are read with scipy and their headers here, because wfdb rejects the dates of the Georgia headers.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from agent.core.nomenclature import millivolts_per
from training.data.codes import from_snomed
from training.data.readers.files import Lookup, age, number, pick_leads, rows, sex, walk
from training.data.recording import Pending, Pendings, Recording, Source

_REPORTS = Path("ptbxl_reports", "reports.csv")
"""PTB-XL's table without signals, where it lies beside the challenge's folder: whose the ``HR`` records are."""


def recognise(folder: Path) -> bool:
    """A MATLAB file with its header, in the folder or in the challenge's groups below it (``georgia/g1``)."""
    patterns = ("*.mat", "g[0-9]*/*.mat", "*/g[0-9]*/*.mat")
    found = next((path for pattern in patterns for path in folder.glob(pattern)), None)
    return found is not None and found.with_suffix(".hea").is_file()


def read(source: Source) -> Pendings:
    """Every record under the folder. The letters of its name tell the collection and are its site."""
    table = source.folder.parent / _REPORTS
    patients = Lookup(rows(table, "ecg_id"), "ecg_id", ("patient_id", "age")) if table.is_file() else None
    for path in walk(source.folder, ".mat"):
        yield Pending(path.stem, partial(_record, source, path, patients))


def header(text: str) -> tuple[float, list[str], list[float], list[float], dict[str, str]]:
    """Rate, channel names, gains per mV, baselines and the comments of a challenge header."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rate = float(lines[0].split()[2].split("/")[0])
    names, gains, baselines = [], [], []
    for line in (line for line in lines[1:] if not line.startswith("#")):
        fields = line.split()
        match = re.fullmatch(r"([0-9.]+)(?:\(([-0-9]+)\))?/(\S+)", fields[2])
        factor = millivolts_per(match[3]) if match else None
        if match is None or factor is None:
            raise ValueError(f"gain {fields[2]!r} is not in units per mV")
        names.append(fields[-1])
        gains.append(float(match[1]) / factor)
        baselines.append(float(match[2] or fields[4]))
    comments = dict(line[1:].split(":", 1) for line in lines if line.startswith("#") and ":" in line)
    return rate, names, gains, baselines, {key.strip(): value.strip() for key, value in comments.items()}


def _record(source: Source, path: Path, patients: Lookup | None) -> Recording:
    name = path.stem
    rate, names, gains, baselines, comments = header(path.with_suffix(".hea").read_text("latin-1"))
    counts = np.asarray(loadmat(str(path))["val"], np.float32)
    millivolts = (counts - np.asarray(baselines, np.float32)[:, None]) / np.asarray(gains, np.float32)[:, None]
    leads, signal, notes = pick_leads(names, ["mV"] * len(names), millivolts.astype(np.float32))
    collection = name.rstrip("0123456789")
    return Recording(
        source=source.name,
        record=name,
        patient=_patient(name, collection, comments.get("Age", ""), patients),
        age=age(comments.get("Age")),
        sex=sex(comments.get("Sex")),
        rate=rate,
        leads=leads,
        signal=signal,
        labels=from_snomed([code.strip() for code in comments.get("Dx", "").split(",")], collection),
        site=collection,
        notes=notes,
    )


def _patient(name: str, collection: str, years: str, patients: Lookup | None) -> str:
    """``HR`` records are PTB-XL's, numbered as there; of all others every record counts as a person."""
    if collection == "HR" and patients is not None:
        known = patients[str(int(name[2:]))]
        if known and number(years) == number(known["age"]):  # the numbering holds for every record that both have
            return f"ptbxl/{int(float(known['patient_id']))}"
    return f"cinc2021/{name}"
