"""Folds and held-out patients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import Lead
from agent.simulator.demonstration import DEMONSTRATION
from training.data.recording import Recording, Source, fold_of


def recording(patient: str) -> Recording:
    return Recording(
        source="mitdb",
        record="221",
        patient=patient,
        age=None,
        sex="",
        rate=100.0,
        leads=(Lead.II,),
        signal=np.zeros((1, 1000), np.float32),
    )


def test_folds_are_fixed_and_cover_all() -> None:
    assert {fold_of(f"p{k}", 5) for k in range(200)} == set(range(5))
    # The split is part of every published figure: it must not move.
    assert [fold_of(patient, 5) for patient in ("mitdb/100", "mitdb/201", "ptbxl/15709")] == [1, 2, 2]
    with pytest.raises(ValueError, match="at least one"):
        fold_of("x", 0)


def test_demonstration_patients_are_held_out() -> None:
    assert all(recording(record.patient).held_out for record in DEMONSTRATION)
    assert not recording("mitdb/100").held_out
    assert recording("mitdb/100").id == "mitdb/221"
    assert recording("mitdb/100").seconds == 10.0


def test_pseudonyms_are_keyed_and_the_same_in_every_source() -> None:
    a, b = Source("a", "muse", Path("a"), b"key"), Source("b", "dicom", Path("b"), b"key")
    assert a.pseudonym("4711") == b.pseudonym(" 4711 ") != a.pseudonym("4712")
    assert a.pseudonym("4711") != replace(a, salt=b"other").pseudonym("4711")
    assert "4711" not in a.pseudonym("4711")
    assert "key" not in repr(a)
