"""The Shandong set's layout, written here."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from agent.core.ecg import LEADS
from agent.core.labels import index_of
from agent.simulator.ecg import Rhythm, synthesize
from training.data.readers import format_of
from training.data.readers.sph import read, recognise
from training.data.recording import Recording, Source


def write(folder: Path, name: str, signal: np.ndarray) -> None:
    (folder / "records").mkdir(exist_ok=True)
    with h5py.File(folder / "records" / f"{name}.h5", "w") as file:
        file.create_dataset("ecg", data=signal.astype(np.float16))


def test_records_and_statements(tmp_path: Path) -> None:
    signal = synthesize(Rhythm.AFIB, 15.0, 500, LEADS, 3)
    write(tmp_path, "A00001", signal)
    write(tmp_path, "A00002", signal[:3])
    (tmp_path / "metadata.csv").write_text(
        "ECG_ID,AHA_Code,Patient_ID,Age,Sex,N,Date\n"
        "A00001,50+346;106,S00001,55,M,7500,2020-03-04\n"
        "A00002,1,S00002,32,F,5000,2019-09-03\n"
    )
    assert recognise(tmp_path)
    assert format_of(tmp_path) == "sph", "Brugada-HUCA's table has the same name"
    good, bad = read(Source("sph", "sph", tmp_path))
    found = good.load()
    assert isinstance(found, Recording)
    assert (found.patient, found.age, found.sex, found.rate) == ("sph/S00001", 55.0, "M", 500.0)
    np.testing.assert_allclose(found.signal, signal, atol=1e-3)
    assert found.labels[[index_of("Afib"), index_of("Right bundle branch block")]].tolist() == [1, 1]
    with pytest.raises(ValueError, match="shape"):
        bad.load()
