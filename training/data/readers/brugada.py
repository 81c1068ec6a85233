"""Brugada-HUCA: 363 twelve-lead recordings of 12 s at 100 Hz from Oviedo. CC BY-SA: research only, never shipped.

``brugada`` in the table is 0 (no), 1 (yes) and, of seven subjects, 2, which the data's dictionary does not explain:
they are unknown, as target and as label, and a note of the record says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from training.data.codes.vocabulary import BRUGADA
from training.data.readers.files import rows, table_file
from training.data.readers.wfdb_records import signals
from training.data.recording import Pending, Pendings, Recording, Source, set_labels, unknown_labels

TABLE = "metadata.csv"
TARGETS = ("brugada", "basal_pattern", "sudden_death")


def recognise(folder: Path) -> bool:
    """Its table has a column ``brugada``."""
    path = table_file(folder, TABLE)
    return path is not None and "brugada" in path.open(encoding="utf-8").readline()


def read(source: Source) -> Pendings:
    """The records in the order of the table; each is one subject."""
    for row in rows(source.folder / TABLE, "patient_id", *TARGETS):
        yield Pending(row["patient_id"], partial(_record, source, row))


def _record(source: Source, row: Mapping[str, str]) -> Recording:
    name = row["patient_id"]
    folder = source.folder / "files"
    nested = folder / name / name
    path = nested if nested.with_suffix(".hea").is_file() else folder / name
    leads, signal, rate, notes, _ = signals(path)
    labels = unknown_labels()
    if row["brugada"] in {"0", "1"}:
        set_labels(labels, int(row["brugada"]), BRUGADA)
    return Recording(
        source=source.name,
        record=name,
        patient=f"brugada_huca/{name}",
        age=None,
        sex="",
        rate=rate,
        leads=leads,
        signal=signal,
        labels=labels,
        targets={target: float(row[target]) for target in TARGETS if row[target] in {"0", "1"}},
        notes=(*notes, *(f"{target} is {row[target]}: unknown" for target in TARGETS if row[target] not in {"0", "1"})),
    )
