"""The twelve-lead ECG that pydicom carries, and others written from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from agent.core.ecg import LEADS, Lead
from training.data.checks import check
from training.data.readers.dicom import read, recognise
from training.data.recording import Recording, Source


def example() -> Any:
    return dcmread(str(get_testdata_file("waveform_ecg.dcm")))


def the_one(folder: Path) -> Recording:
    (pending,) = read(Source("dicom", "dicom", folder, b"key"))
    found = pending.load()
    assert isinstance(found, Recording)
    return found


def save(folder: Path, change: Callable[[Any], None] = lambda _: None) -> Any:
    file = example()
    change(file)
    file.save_as(folder / "a.dcm")
    return file


def test_pydicom_s_own_ecg(tmp_path: Path) -> None:
    file = save(tmp_path)
    assert recognise(tmp_path)
    found = the_one(tmp_path)
    assert set(found.leads) == set(LEADS)
    assert (found.rate, found.signal.shape) == (1000.0, (12, 10000))
    assert check(found, 10.0) is None, "Einthoven's law holds, so leads and units are right"
    assert 0.5 < np.ptp(found.signal[found.leads.index(Lead.II)]) < 4
    assert found.patient == Source("m", "muse", tmp_path, b"key").pseudonym(str(file.PatientID))
    raw = file.waveform_array(0)[:, 0]
    np.testing.assert_allclose(found.signal[0], raw / 1000, atol=1e-6)  # µV


def test_sensitivity_units_padding_and_demographics(tmp_path: Path) -> None:
    def change(file: Any) -> None:
        file.PatientID, file.PatientAge, file.PatientSex, file.InstitutionName = "4711", "018M", "F", "North"
        group = file.WaveformSequence[0]
        for channel in group.ChannelDefinitionSequence:
            channel.ChannelSensitivityUnitsSequence[0].CodeValue = "mV"
            channel.ChannelSensitivity = "0.001"
        samples = np.frombuffer(group.WaveformData, "<i2").copy()
        samples[12 * 5] = -32768  # the first lead's sixth sample
        group.WaveformData = samples.tobytes()
        group.add_new(0x5400100A, "OW", np.int16(-32768).tobytes())

    save(tmp_path)
    before = the_one(tmp_path)
    save(tmp_path, change)
    found = the_one(tmp_path)
    assert (found.age, found.sex, found.site) == (1.5, "F", "North")
    assert np.flatnonzero(np.isnan(found.signal[0])).tolist() == [5]
    sensitivity = float(example().WaveformSequence[0].ChannelDefinitionSequence[0].ChannelSensitivity)
    np.testing.assert_allclose(found.signal[1], before.signal[1] / sensitivity, rtol=1e-4, atol=1e-6)


def test_mdc_codes(tmp_path: Path) -> None:
    def change(file: Any) -> None:
        for group in file.WaveformSequence:
            for channel in group.ChannelDefinitionSequence:
                code = channel.ChannelSourceSequence[0]
                code.CodeValue = "2:" + str(code.CodeValue).rpartition("-")[2]
                code.CodingSchemeDesignator = "MDC"

    save(tmp_path)
    expected = the_one(tmp_path)
    save(tmp_path, change)
    found = the_one(tmp_path)
    assert found.leads == expected.leads
    np.testing.assert_array_equal(found.signal, expected.signal)


def test_what_is_no_ecg_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"nothing" * 100)
    with pytest.raises(ValueError, match="no DICOM file"):
        the_one(tmp_path)
    save(tmp_path, lambda file: setattr(file, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"))
    with pytest.raises(ValueError, match="no ECG waveform"):
        the_one(tmp_path)
