"""Tables of reports, read row by row: one file may be larger than the memory."""

from __future__ import annotations

import ast
import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.core.labels import LABELS, normalised
from training.data.codes import from_scp
from training.data.recording import Labels

TEXT = ("report", "text", "befund", "conclusion", "diagnosis")
ID = ("ecg_id", "id", "record", "study_id")
PATIENT = ("patient_id", "patient", "subject_id")
FOLD = ("strat_fold", "fold")
SCP_COLUMN = "scp_codes"
PARTS = "report_"
"""MIMIC-IV-ECG's machine statements stand in columns ``report_0``, ``report_1`` and so on."""

_ANNOTATION = "Edit:"
"""PTB-XL: what follows in some reports are the annotator's codes, that is the truth itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """One row."""

    id: str
    patient: str
    """The id where the table has no patients: each report is then its own."""
    fold: int | None
    text: str
    truth: Labels | None
    """(77,) by the codes or the label columns of the table; None where it has neither."""


def _column(names: Sequence[str], known: Sequence[str]) -> str | None:
    low = {name.strip().lower(): name for name in names}
    return next((low[name] for name in known if name in low), None)


def _scp(row: dict[str, str]) -> Labels:
    statements: dict[str, float] = ast.literal_eval(row[SCP_COLUMN])
    stages = [row.get(name) or "" for name in ("infarction_stadium1", "infarction_stadium2")]
    return from_scp(statements, (row.get("heart_axis") or "").strip(), stages)


def read_reports(path: Path, *, text: str = "", folds: Collection[int] | None = None) -> Iterator[Report]:
    """The table's reports, in order.

    The truth, where there is one, stands in ``scp_codes`` (as PTB-XL has it; the codes that some reports repeat behind
    "Edit:" are then left out of the text) or in columns with the labels' names (1, 0, or empty for unknown).

    Args:
        path: A CSV file, UTF-8, with a header.
        text: The column of the reports; empty = the first of `TEXT`, or the columns ``report_0``, ``report_1`` …
        folds: Only rows of these folds; the text of other rows is not looked at.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, or a row cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table of reports at {path}; give a CSV file with a column 'report'")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or ())
        column = text or _column(names, TEXT)
        parts = [name for name in names if name.startswith(PARTS) and name[len(PARTS) :].isdecimal()]
        if (column is None or column not in names) and (text or not parts):
            raise ValueError(f"{path} has no column {column or 'report'!r}; name the reports' column with --column")
        id_column, patient_column, fold_column = _column(names, ID), _column(names, PATIENT), _column(names, FOLD)
        if folds is not None and fold_column is None:
            raise ValueError(f"{path} has no column 'strat_fold' or 'fold'; add one that gives each patient one fold")
        by_name = {normalised(name): name for name in names}
        label_columns = [
            (i, by_name[key]) for i, info in enumerate(LABELS) if (key := normalised(info.name)) in by_name
        ]
        for number, row in enumerate(reader):
            fold = int(row[fold_column]) if fold_column and (row[fold_column] or "").strip().isdecimal() else None
            if folds is not None and fold not in folds:
                continue
            written = row[column] if column in names else "\n".join(row[name] for name in parts if row[name])
            truth = None
            try:
                if SCP_COLUMN in names:
                    truth = _scp(row)
                    written = (written or "").partition(_ANNOTATION)[0]
                elif label_columns:
                    truth = np.full(len(LABELS), -1, np.int8)
                    for i, name in label_columns:
                        truth[i] = int(float(row[name])) if (row[name] or "").strip() else -1
            except (ValueError, SyntaxError, AttributeError) as error:
                raise ValueError(
                    f"row {number + 2} of {path} has labels or codes that cannot be read: {error}"
                ) from None
            identity = row[id_column] if id_column else str(number)
            patient = row[patient_column] if patient_column and row[patient_column] else identity
            yield Report(identity, patient, fold, written or "", truth)
