"""Shandong Provincial Hospital (Liu et al. 2022): 25,770 recordings of 10 to 60 s at 500 Hz, AHA statements.

``metadata.csv`` (ECG_ID, AHA_Code, Patient_ID, Age, Sex, N, Date) and ``records/A00001.h5`` with the dataset ``ecg``
(12, n), half precision, in mV by the article; the twelve leads in their usual order.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from agent.core.ecg import LEADS
from training.data.codes import from_aha
from training.data.readers.files import age, hdf5, rows, sex, table_file
from training.data.recording import Pending, Pendings, Recording, Source

TABLE = "metadata.csv"
RATE = 500.0


def recognise(folder: Path) -> bool:
    """Its table has a column ``AHA_Code``."""
    path = table_file(folder, TABLE)
    return path is not None and "AHA_Code" in next(rows(path), {})


def read(source: Source) -> Pendings:
    """The records in the order of the table."""
    for row in rows(source.folder / TABLE, "ECG_ID", "AHA_Code", "Patient_ID", "Age", "Sex"):
        yield Pending(row["ECG_ID"], partial(_record, source, row))


def _record(source: Source, row: Mapping[str, str]) -> Recording:
    with hdf5(source.folder / "records" / f"{row['ECG_ID']}.h5") as file:
        signal = np.asarray(file["ecg"], np.float32)
    if signal.shape[0] != len(LEADS):
        raise ValueError(f"the dataset ecg has the shape {signal.shape}, not (12, samples)")
    return Recording(
        source=source.name,
        record=row["ECG_ID"],
        patient=f"sph/{row['Patient_ID']}",
        age=age(row["Age"]),
        sex=sex(row["Sex"]),
        rate=RATE,
        leads=LEADS,
        signal=signal,
        labels=from_aha(row["AHA_Code"]),
    )
