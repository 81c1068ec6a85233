"""The same recording in two collections, found by its content: names differ, scales, roundings, filters, rates may.

Two recordings are one if the slopes of I, II and V2 over the first nine seconds correlate above 0.995. Comparing every
pair would take the square of the archive, so random hyperplanes sort the slopes into buckets first (locality-sensitive
hashing for the cosine; Charikar, STOC 2002): of each of 16 bands of 24 planes, the sides on which the slopes lie are
the bucket. At a correlation of 0.995 a plane divides two recordings with p = acos(.995)/π = .032, so they share at
least one bucket with 1 − (1 − .968²⁴)¹⁶ = 0.99995, and at 0.999, as true copies have, with certainty but for 10⁻⁹;
unrelated ones share one by chance once in a million. Only those that share a bucket are compared.
Buckets and slopes (one byte each) lie in the table's own database, so memory does not grow with the archive.

A copy that begins at another moment of the recording is not found, nor is one without I, II or V2.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from agent.core.ecg import FloatArray, Lead
from agent.simulator.demonstration import DEMONSTRATION_PATIENTS
from training.data.recording import Recording

SAME = 0.995
"""Correlation above which two recordings are one. Different hearts stay far below it, rounding far above."""
_RATE = 100
_SECONDS = 9
_LEADS = (Lead.I, Lead.II, Lead.V2)
_EDGE = 10
"""Samples at 100 Hz that the resampling filter's end reaches: there a lead's offset would count."""
_SLOPES = len(_LEADS) * (_RATE * _SECONDS - 1 - 2 * _EDGE)
_BANDS, _PLANES = 16, 24

SCHEMA = """
CREATE TABLE slopes (id INTEGER PRIMARY KEY, name TEXT NOT NULL, patient TEXT NOT NULL, slopes BLOB NOT NULL);
CREATE TABLE bucket (bucket INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (bucket, id)) WITHOUT ROWID;
CREATE TABLE alias (patient TEXT PRIMARY KEY, same TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX alias_same ON alias (same);
"""
"""Tables that only preparation needs: `finish` applies the aliases, then the store drops all three."""
TABLES = ("slopes", "bucket", "alias")


@dataclass(frozen=True, slots=True)
class Known:
    """A recording that was seen before."""

    name: str
    """``source/record``."""
    patient: str


def fingerprint(recording: Recording) -> FloatArray | None:
    """(2637,) slopes of leads I, II and V2 over the first nine seconds, of unit length; None where they lack.

    Slopes, so that a baseline or a high-pass in one copy does not matter; unit length, so that a scale does not.
    Continuous recordings have none.
    """
    if recording.continuous or recording.seconds < _SECONDS or not set(_LEADS) <= set(recording.leads):
        return None
    rows = recording.signal[[recording.leads.index(lead) for lead in _LEADS], : round(_SECONDS * recording.rate)]
    if not np.isfinite(rows).all():
        return None
    slow = resample_poly(rows.astype(np.float64), _RATE, round(recording.rate), axis=1)
    slope = np.diff(slow[:, _EDGE:-_EDGE], axis=1).ravel()
    norm = float(np.linalg.norm(slope))
    return (slope / norm).astype(np.float32) if norm > 0 else None


class Fingerprints:
    """Every recording that was seen, in the database; also those that were copies, so that a copy's copy is found."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def see(self, recording: Recording, print_: FloatArray) -> Known | None:
        """Remember a recording; the first one before it with these slopes, or None where it is new."""
        buckets = _buckets(print_)
        first = self._first_like(print_, buckets)
        coarse = np.rint(print_ * (127 / np.max(np.abs(print_)))).astype(np.int8)
        row = self._database.execute(
            "INSERT INTO slopes (name, patient, slopes) VALUES (?, ?, ?)",
            (recording.id, recording.patient, coarse.tobytes()),
        ).lastrowid
        self._database.executemany("INSERT INTO bucket VALUES (?, ?)", [(bucket, row) for bucket in buckets])
        return first

    def _first_like(self, print_: FloatArray, buckets: list[int]) -> Known | None:
        marks = ",".join("?" * _BANDS)
        found = self._database.execute(
            f"SELECT name, patient, slopes FROM slopes WHERE id IN "  # noqa: S608  (marks only)
            f"(SELECT id FROM bucket WHERE bucket IN ({marks})) ORDER BY id",
            buckets,
        )
        for name, patient, stored in found:
            other = np.frombuffer(stored, np.int8).astype(np.float32)
            if float(other @ print_) > SAME * float(np.linalg.norm(other)):
                return Known(name, patient)
        return None

    def same_person(self, one: str, other: str) -> None:
        """Two patients are one, since a recording of theirs is the same: a union, kept so that no lookup is a chain.

        A patient who is kept for demonstrations gives the name, so that all of the person's recordings are held out.
        """
        one, other = self._name(one), self._name(other)
        if one == other:
            return
        if other in DEMONSTRATION_PATIENTS:
            one, other = other, one
        self._database.execute("UPDATE alias SET same = ? WHERE same = ?", (one, other))
        self._database.execute("INSERT INTO alias VALUES (?, ?)", (other, one))

    def _name(self, patient: str) -> str:
        found = self._database.execute("SELECT same FROM alias WHERE patient = ?", (patient,)).fetchone()
        return str(found[0]) if found else patient


def finish(database: sqlite3.Connection) -> None:
    """Give every person one name in the table of recordings, and hold out all of a demonstration patient's."""
    database.execute(
        "UPDATE record SET patient = (SELECT same FROM alias WHERE alias.patient = record.patient) "
        "WHERE patient IN (SELECT patient FROM alias)"
    )
    held_out = [(patient,) for patient in sorted(DEMONSTRATION_PATIENTS)]
    database.executemany("UPDATE record SET held_out = 1 WHERE patient = ?", held_out)


@lru_cache(maxsize=1)
def _planes() -> NDArray[np.float32]:
    """(bands · planes, slopes) normals; drawn from a fixed seed, for the buckets must be the same after a restart."""
    return np.random.default_rng(20261125).standard_normal((_BANDS * _PLANES, _SLOPES), np.float32)


def _buckets(print_: FloatArray) -> list[int]:
    """One bucket of each band; the band stands above the sides' bits."""
    sides = (_planes() @ print_ > 0).reshape(_BANDS, _PLANES)
    bits = sides @ (1 << np.arange(_PLANES, dtype=np.int64))
    return [int(b) | band << _PLANES for band, b in enumerate(bits)]
