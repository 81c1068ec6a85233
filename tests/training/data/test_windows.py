"""Windows are those that the ward would send, and each has its own labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.core.ecg import LEADS, FloatArray, Lead
from agent.core.filters import Preprocessing, prepare
from agent.core.labels import index_of
from training.data.codes import from_snomed
from training.data.recording import Recording, Rejected, unknown_labels
from training.data.windows import check, prepare_windows, recordings, window_labels, window_starts

P = Preprocessing()


def recording(signal: FloatArray, leads: tuple[Lead, ...], rate: float = 500.0, continuous: bool = False) -> Recording:
    return Recording(
        source="cinc2021_mix",
        record="x",
        patient="x",
        age=None,
        sex="",
        rate=rate,
        leads=leads,
        signal=signal,
        labels=unknown_labels(),
        continuous=continuous,
    )


def noise(leads: int, n: int) -> FloatArray:
    return np.random.default_rng(0).standard_normal((leads, n)).astype(np.float32)


def test_windows_are_preprocessed_as_live_ones() -> None:
    signal = noise(2, 360 * 23)
    starts, mask, rows = prepare_windows(recording(signal, (Lead.V5, Lead.II), 360.0), P)
    assert list(starts) == [0, 1800, 3600]
    assert [LEADS[i] for i in np.flatnonzero(mask[0])] == [Lead.II, Lead.V5]
    live = np.zeros((1, 12, 3600), np.float32)
    live[0, 1], live[0, 10] = signal[1, 1800:5400], signal[0, 1800:5400]
    expected = prepare(live, 360.0, P)[0]
    np.testing.assert_allclose(rows[2], expected[1], atol=1e-3)
    np.testing.assert_allclose(rows[3], expected[10], atol=1e-3)


def test_an_invalid_lead_is_missing_from_its_window_only() -> None:
    signal = noise(2, 250 * 20)
    signal[0, 100] = np.nan
    signal[1, 250 * 19] = np.nan
    signal[0, 250 * 19] = np.nan
    starts, mask, rows = prepare_windows(recording(signal, (Lead.I, Lead.II), 250.0, continuous=True), P)
    assert list(starts) == [0, 1250]
    assert mask[:, :2].tolist() == [[False, True], [True, True]]
    assert rows.shape == (3, 2500)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [("short", "too_short"), ("nan", "invalid"), ("flat", "flat"), ("gain", "invalid"), ("nothing", "invalid")],
)
def test_bad_recordings_are_named(change: str, reason: str) -> None:
    signal = noise(12, 5000)
    if change == "short":
        signal = signal[:, :4999]
    elif change == "nan":
        signal[3, 5] = np.nan
    elif change == "flat":
        signal[7] = 0.1
    elif change == "gain":
        signal *= 200
    else:
        signal[:] = np.nan
    found = check(recording(signal, LEADS), 10.0)
    assert found is not None
    assert found.reason == reason
    assert check(recording(noise(12, 5000), LEADS), 10.0) is None


def test_a_long_record_keeps_its_rhythm_but_not_its_ectopy_in_each_window() -> None:
    labels = from_snomed(["164889003", "164884008"], "A")
    short, long = (replace(recording(noise(12, n), LEADS), labels=labels) for n in (5000, 15000))
    pvc, af = index_of("Premature ventricular complex"), index_of("Afib")
    assert (window_labels(short, 0.0, 10.0)[pvc], window_labels(long, 5.0, 10.0)[pvc]) == (1, -1)
    assert window_labels(long, 5.0, 10.0)[af] == 1
    assert labels[pvc] == 1
    assert list(window_starts(long, 10.0)) == [0, 2500, 5000, 7500, 10000]


@pytest.mark.data
def test_unusable_recordings_come_with_their_reason(data_dir: Path) -> None:
    rejected = [r for r in recordings(data_dir, ["cinc2021_mix"]) if isinstance(r, Rejected)]
    assert {r.record for r in rejected} >= {"JS11438", "JS20004"}
    assert {r.reason for r in rejected} == {"flat"}
