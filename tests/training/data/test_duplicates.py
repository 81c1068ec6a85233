"""Copies are found by their content, whatever their name, scale, rounding or filter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agent.core.ecg import LEADS, FloatArray
from training.data.duplicates import find_duplicates, fingerprint, without_duplicates
from training.data.recording import Recording, unknown_labels


def recording(name: str, signal: FloatArray, rate: float = 500.0, patient: str = "") -> Recording:
    return Recording(
        source="made",
        record=name,
        patient=patient or name,
        age=None,
        sex="",
        rate=rate,
        leads=LEADS,
        signal=signal,
        labels=unknown_labels(),
    )


def beats(seed: int, rate: float = 500.0) -> FloatArray:
    rng = np.random.default_rng(seed)
    t = np.arange(round(10 * rate)) / rate
    out = np.zeros((12, len(t)))
    for beat in np.cumsum(rng.uniform(0.6, 1.1, 14)):
        out += rng.uniform(0.5, 1.5, (12, 1)) * np.exp(-(((t - beat) / 0.02) ** 2))
    return (out + 0.01 * rng.standard_normal(out.shape)).astype(np.float32)


def test_copies_and_only_copies() -> None:
    a, b = beats(1), beats(2)
    wander = 0.3 * np.sin(2 * np.pi * 0.2 * np.arange(a.shape[1]) / 500).astype(np.float32)
    found = find_duplicates(
        [
            recording("a", a),
            recording("b", b),
            recording("scaled", 2 * a),
            recording("rounded", np.round(b * 200) / 200),
            recording("wandering", a + wander),
            recording("slower", a[:, ::2], 250.0),
            recording("third", beats(3)),
        ]
    )
    assert found == {
        "made/scaled": "made/a",
        "made/rounded": "made/b",
        "made/wandering": "made/a",
        "made/slower": "made/a",
    }


def test_without_copies_one_person_has_one_name() -> None:
    a = beats(1)
    all_ = [recording("1", a, patient="p"), recording("2", a, patient="q"), recording("3", beats(3), patient="q")]
    kept = without_duplicates(all_, find_duplicates(all_))
    assert [(r.record, r.patient) for r in kept] == [("1", "p"), ("3", "p")]


def test_what_cannot_be_compared() -> None:
    a = beats(1)
    assert fingerprint(replace(recording("two leads", a[:2]), leads=LEADS[:2])) is None
    assert fingerprint(recording("short", a[:, :1000])) is None
    assert fingerprint(recording("flat", np.zeros_like(a))) is None
    assert find_duplicates([recording("a", a)]) == {}
    both = [replace(recording(name, a), continuous=True) for name in ("a", "b")]
    assert find_duplicates(both) == {}
