"""The same recording in two collections, found by its content: names differ, scales and roundings may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.signal import resample_poly

from agent.core.ecg import FloatArray, Lead
from training.data.recording import Recording

_RATE = 100
_SECONDS = 9
_SAME = 0.995
"""Correlation above which two recordings are one. Different hearts stay far below it, rounding far above."""


def fingerprint(recording: Recording) -> FloatArray | None:
    """(leads * n,) slopes of leads I, II and V2 over the first nine seconds, of unit length; None where they lack.

    Slopes, so that a baseline or a high-pass in one copy does not matter; unit length, so that a scale does not.
    """
    wanted = (Lead.I, Lead.II, Lead.V2)
    if recording.seconds < _SECONDS or not set(wanted) <= set(recording.leads):
        return None
    rows = recording.signal[[recording.leads.index(lead) for lead in wanted], : round(_SECONDS * recording.rate)]
    if not np.isfinite(rows).all():
        return None
    slow = resample_poly(rows.astype(np.float64), _RATE, round(recording.rate), axis=1)
    slope = np.diff(slow, axis=1).ravel()
    norm = float(np.linalg.norm(slope))
    return (slope / norm).astype(np.float32) if norm > 0 else None


def find_duplicates(recordings: Sequence[Recording]) -> dict[str, str]:
    """Id of each later copy to the id of the first, in the order given. Continuous recordings are not compared."""
    known: list[tuple[Recording, FloatArray]] = []
    for recording in recordings:
        if not recording.continuous and (print_ := fingerprint(recording)) is not None:
            known.append((recording, print_))
    if len(known) < 2:
        return {}
    matrix = np.stack([print_ for _, print_ in known])
    same = matrix @ matrix.T > _SAME
    out: dict[str, str] = {}
    for j in range(len(known)):
        first = int(np.argmax(same[j]))
        if first < j:
            out[known[j][0].id] = known[first][0].id
    return out


def without_duplicates(recordings: Sequence[Recording], duplicates: Mapping[str, str]) -> list[Recording]:
    """The recordings that are no later copy, in order, with one name for each person.

    Where the two copies of a recording carry different patients (it happens within one collection), they are the same
    person: every other recording of the copy's patient takes the first's name, so that no split divides them.
    """
    patient_of = {recording.id: recording.patient for recording in recordings}
    alias = {patient_of[copy]: patient_of[first] for copy, first in duplicates.items()}
    alias = {copy: first for copy, first in alias.items() if copy != first}

    def name(patient: str) -> str:
        seen = {patient}
        while (patient := alias.get(patient, patient)) not in seen:
            seen.add(patient)
        return patient

    return [replace(r, patient=name(r.patient)) for r in recordings if r.id not in duplicates]
