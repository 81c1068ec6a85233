"""MIMIC-IV-ECG's layout, written here: tables in any order, aVF before aVL, ages by the anchor year."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import LEADS, Lead
from training.data.readers.mimic import read, recognise
from training.data.recording import Recording, Source

Write = Callable[..., np.ndarray]
ORDER = (*LEADS[:4], Lead.AVF, Lead.AVL, *LEADS[6:])
LINES = ",".join(f"report_{i}" for i in range(18))


@pytest.fixture
def folder(tmp_path: Path, write_record: Write) -> Path:
    studies = [
        (10000032, 40689238, "2180-07-23 08:44:00"),
        (10000032, 44458630, ""),
        (10000117, 45090959, "2181-03-04"),
    ]
    listed = ["subject_id,study_id,file_name,ecg_time,path"]
    for subject, study, time in studies:
        path = f"files/p{subject // 10000}/p{subject}/s{study}/{study}"
        write_record(tmp_path / path, seed=study, leads=ORDER)
        listed.append(f"{subject},{study},{study},{time},{path}")
    (tmp_path / "record_list.csv").write_text("\n".join(listed) + "\n")
    reports = [f"subject_id,study_id,cart_id,ecg_time,{LINES},bandwidth"]
    reports.append(
        '10000117,45090959,6848296,,Atrial fibrillation,"Inferior infarct, old"' + "," * 16 + ",0.005-150 Hz"
    )
    reports.append("10000032,40689238,6848296,,Sinus rhythm" + "," * 17 + ",0.005-150 Hz")
    (tmp_path / "machine_measurements.csv").write_text("\n".join(reports) + "\n")
    return tmp_path


def test_records_with_their_reports(folder: Path, write_record: Write) -> None:
    assert recognise(folder)
    first, second, third = (p.load() for p in read(Source("mimic", "mimic", folder)))
    assert isinstance(first, Recording)
    assert isinstance(second, Recording)
    assert isinstance(third, Recording)
    assert (first.record, first.patient, first.report) == ("40689238", "mimic/10000032", "Sinus rhythm")
    assert second.patient == first.patient
    assert second.report == ""
    assert third.report == "Atrial fibrillation\nInferior infarct, old"
    assert (first.labels == -1).all()
    assert first.leads == ORDER
    i, ii = first.signal[0], first.signal[1]
    np.testing.assert_allclose(first.signal[ORDER.index(Lead.AVL)], i - ii / 2, atol=2e-3)
    assert (first.age, first.sex) == (None, "")


def test_age_and_sex_where_the_hospital_s_table_is_there(folder: Path) -> None:
    (folder / "patients.csv").write_text("subject_id,gender,anchor_age,anchor_year\n10000032,F,52,2178\n")
    first, second, third = (p.load() for p in read(Source("mimic", "mimic", folder)))
    assert isinstance(first, Recording)
    assert isinstance(second, Recording)
    assert isinstance(third, Recording)
    assert (first.age, first.sex) == (54.0, "F")
    assert (second.age, second.sex) == (None, "F"), "its time is not known"
    assert (third.age, third.sex) == (None, "")
