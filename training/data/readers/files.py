"""What readers share: folders walked and tables joined without holding them, leads by name, numbers that may be bad."""

from __future__ import annotations

import csv
import gzip
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.core.ecg import FloatArray, Lead
from agent.core.nomenclature import millivolts_per, term_of_name

OLDEST = 120.0


def number(text: str | None) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def age(text: str | None) -> float | None:
    """Years, or None where the text is no plausible age."""
    value = number(text)
    return value if value is not None and 0 <= value <= OLDEST else None


def sex(text: str | None) -> str:
    """``M``, ``F`` or empty, from the words that sources use."""
    return {"m": "M", "male": "M", "f": "F", "female": "F"}.get((text or "").strip().lower(), "")


def pick_leads(
    names: Sequence[str], units: Sequence[str], rows: FloatArray
) -> tuple[tuple[Lead, ...], FloatArray, tuple[str, ...]]:
    """The rows (channels, n) that are one of the twelve leads, in mV; what the others are, as notes."""
    leads: list[Lead] = []
    kept: list[int] = []
    factors: list[float] = []
    notes: list[str] = []
    for i, (name, unit) in enumerate(zip(names, units, strict=True)):
        term, factor = term_of_name(name), millivolts_per(unit)
        if term is None or term.lead is None:
            notes.append(f"channel {name} ({unit}) is none of the twelve leads")
        elif factor is None:
            notes.append(f"channel {name} is lead {term.lead}, but its unit {unit!r} is no voltage that is known here")
        elif term.lead in leads:
            notes.append(f"channel {name} repeats lead {term.lead}")
        else:
            leads.append(term.lead)
            kept.append(i)
            factors.append(factor)
    scale = np.array(factors, np.float32)
    return tuple(leads), np.ascontiguousarray(rows[kept] * scale[:, None], np.float32), tuple(notes)


def walk(folder: Path, *suffixes: str) -> Iterator[Path]:
    """Files of these endings (small letters) under the folder, folder by folder, each sorted: the same order always,
    and no more than one folder's names in memory."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(name for name in names if name.lower().endswith(suffixes)):
            yield Path(root, name)


def hdf5(path: Path) -> Any:
    """An HDF5 file, open for reading; a context manager."""
    import h5py

    return h5py.File(path, "r")  # type: ignore[attr-defined, no-untyped-call]


def has(folder: Path, pattern: str) -> bool:
    """Whether a file or folder directly in ``folder`` fits the pattern."""
    return next(folder.glob(pattern), None) is not None


def table_file(folder: Path, name: str) -> Path | None:
    """The CSV file of that name, plain or gzipped; None where there is neither."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def rows(path: Path, *needed: str) -> Iterator[dict[str, str]]:
    """Rows of a CSV file, gzipped or not, one by one.

    Raises:
        ValueError: it lacks one of the ``needed`` columns.
    """
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in needed if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{path.name} has no column {', '.join(missing)}: is it the table of another collection?")
        yield from reader


class Lookup:
    """Rows of a table by one column, kept on disk: an archive's table may be larger than memory."""

    def __init__(self, table: Iterator[dict[str, str]], key: str, columns: Sequence[str]) -> None:
        """Of rows with the same key the last one stays. Raises KeyError for a column that is not there."""
        self._columns = tuple(columns)
        self._database = sqlite3.connect("")  # a private temporary file, gone with the connection
        names = ", ".join(f"c{i}" for i in range(len(columns)))
        self._database.execute(f"CREATE TABLE t (key TEXT PRIMARY KEY, {names}) WITHOUT ROWID")
        marks = ", ".join("?" * (len(columns) + 1))
        values = ((row[key], *(row[column] for column in columns)) for row in table)
        self._database.executemany(f"INSERT OR REPLACE INTO t VALUES ({marks})", values)  # noqa: S608  (marks only)

    def __getitem__(self, key: str) -> dict[str, str]:
        """The row, empty where there is none."""
        found = self._database.execute("SELECT * FROM t WHERE key = ?", (key,)).fetchone()
        return dict(zip(self._columns, found[1:], strict=True)) if found else {}
