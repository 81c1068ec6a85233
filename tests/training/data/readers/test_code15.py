"""CODE-15's layout, written here: zeros at both ends, an empty last row, parts in the order of their numbers."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from agent.core.ecg import LEADS
from agent.core.labels import index_of
from agent.simulator.ecg import Rhythm, synthesize
from training.data.checks import check
from training.data.readers.code15 import read, recognise
from training.data.recording import Recording, Rejected, Source

COLUMNS = "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file"


def part(path: Path, exams: dict[int, int]) -> None:
    """Exam to its samples (4000 or 2800 by the set's description), centred; and the empty row."""
    tracings = np.zeros((len(exams) + 1, 4096, 12), np.float32)
    for k, (exam, n) in enumerate(exams.items()):
        first = (4096 - n) // 2
        tracings[k, first : first + n] = synthesize(Rhythm.SINUS, n / 400, 400, LEADS, exam).T
    with h5py.File(path, "w") as file:
        file["exam_id"] = np.array([*exams, 0])
        file["tracings"] = tracings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    part(tmp_path / "exams_part10.hdf5", {7: 4000})
    part(tmp_path / "exams_part2.hdf5", {1169160: 4000, 2873686: 2800, 5: 4000})
    (tmp_path / "exams.csv").write_text(
        f"{COLUMNS}\n"
        "1169160,38,True,40.1,False,False,False,False,True,False,523632,False,2.0,True,exams_part2.hdf5\n"
        "2873686,73,False,67.0,True,True,False,False,False,False,1724173,,,False,exams_part2.hdf5\n"
        "7,25,True,26.0,False,False,False,False,False,True,523632,,,False,exams_part10.hdf5\n"
    )
    return tmp_path


def test_exams_in_the_order_of_the_parts(folder: Path) -> None:
    assert recognise(folder)
    pending = list(read(Source("code15", "code15", folder)))
    assert [p.record for p in pending] == ["1169160", "2873686", "5", "7"], "no row of the id 0"
    first, second, third, fourth = (p.load() for p in pending)
    assert isinstance(first, Recording)
    assert isinstance(second, Recording)
    assert isinstance(third, Rejected)
    assert isinstance(fourth, Recording)
    assert (first.age, first.sex, first.patient, first.rate) == (38.0, "M", "code15/523632", 400.0)
    assert (second.sex, fourth.patient) == ("F", first.patient)
    assert "no row" in third.detail
    names = ("Sinusal", "Afib", "1st degree AV block", "Right bundle branch block", "Prolonged QT")
    there = [index_of(name) for name in names]
    assert first.labels[there].tolist() == [1, 0, 0, 0, -1]
    assert second.labels[there].tolist() == [-1, 0, 1, 1, -1]
    assert fourth.labels[there].tolist() == [0, 1, 0, 0, -1]


def test_zeros_at_both_ends_are_cut_off(folder: Path) -> None:
    first, second, *_ = (p.load() for p in read(Source("code15", "code15", folder)))
    assert isinstance(first, Recording)
    assert isinstance(second, Recording)
    np.testing.assert_array_equal(first.signal, synthesize(Rhythm.SINUS, 10, 400, LEADS, 1169160))
    assert check(first, 10.0) is None
    short = check(second, 10.0)
    assert short is not None
    assert (short.reason, short.detail) == ("too_short", "7.0 s; a window has 10 s")
    assert check(second, 7.0) is None
