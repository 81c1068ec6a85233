"""The demo's beds: what each plays, from whom, and that the two halves are alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import LEADS
from agent.demo.recordings import DemoBed, RecordingsError, demo_beds, looped, pydicom_ecg
from agent.simulator.demonstration import DEMONSTRATION, DEMONSTRATION_PATIENTS


def check_halves(beds: list[DemoBed]) -> None:
    assert len(beds) >= 8
    assert len({bed.bed for bed in beds}) == len(beds)
    for feed in ("mqtt", "hl7"):
        half = [bed for bed in beds if bed.feed == feed]
        assert len(half) >= 4
        assert sum(bed.expected == "Afib" for bed in half[:4]) >= 1
        assert sum(bed.expected == "Sinusal" for bed in half) >= 2
        assert any(bed.leads == LEADS for bed in half)
    for bed in beds:
        assert bed.signal.dtype == np.float32
        assert bed.signal.shape[0] == len(bed.leads)
        assert bed.synthetic == bed.title.startswith("synthetic") == bed.origin.startswith("synthetic")
        assert len(bed.bed.split("/")) == 3
        assert 0.2 < float(np.nanmax(np.ptp(bed.signal, axis=1))) < 12.0  # mV


def test_without_data_each_half_has_one_real_ecg(tmp_path: Path) -> None:
    beds = demo_beds(tmp_path)  # a folder without the recordings is as none
    check_halves(beds)
    for feed in ("mqtt", "hl7"):
        real = [bed for bed in beds if bed.feed == feed and not bed.synthetic]
        assert [bed.origin for bed in real] == ["pydicom/waveform_ecg.dcm"]


@pytest.mark.data
def test_with_data_every_bed_is_a_real_unseen_patient(data_dir: Path) -> None:
    beds = demo_beds(data_dir)
    check_halves(beds)
    assert not any(bed.synthetic for bed in beds)
    assert {bed.origin for bed in beds} == {record.id for record in DEMONSTRATION}
    assert all(bed.loops == bed.origin.startswith("ptbxl500") for bed in beds)


@pytest.mark.data
def test_a_recording_that_cannot_be_read_is_one_sentence(data_dir: Path, tmp_path: Path) -> None:
    for record in DEMONSTRATION:
        folder = tmp_path / record.source / ("records500" if record.source == "ptbxl500" else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{record.record}.hea").write_text(f"{record.record} 1 250 2500\nno.dat 16 200 12 0 0 0 0 II\n")
    with pytest.raises(RecordingsError, match="cannot be read"):
        demo_beds(tmp_path)


def test_demonstration_names_its_patients() -> None:
    assert len(DEMONSTRATION_PATIENTS) == len(DEMONSTRATION) - 1  # two recordings of one
    assert all(record.patient.split("/")[0] in {"mitdb", "cpsc2021_af", "ptbxl"} for record in DEMONSTRATION)


def test_pydicom_ecg_is_twelve_leads_in_millivolts() -> None:
    rate, signal = pydicom_ecg()
    assert (rate, signal.shape) == (1000.0, (12, 10000))
    i, ii, iii = signal[:3]
    np.testing.assert_allclose(iii, ii - i, atol=0.01)
    assert 0.5 < float(np.ptp(ii)) < 5.0


def test_a_loop_keeps_the_beat() -> None:
    rate, beat = 250.0, 0.83
    t = np.arange(2500) / rate
    signal = np.zeros((2, 2500), np.float32)
    for k in range(14):
        signal += np.exp(-(((t - 0.3 - k * beat) / 0.02) ** 2)).astype(np.float32)
    loop = looped(signal, rate)
    twice = np.concatenate([loop, loop], axis=1)[0]
    peaks = np.flatnonzero((twice[1:-1] > twice[:-2]) & (twice[1:-1] >= twice[2:]) & (twice[1:-1] > 0.5))
    assert 0.6 * 2500 <= loop.shape[1] < 2500
    np.testing.assert_allclose(np.diff(peaks) / rate, beat, atol=0.02)
