"""The generator: its rates, intervals and amplitudes are those of real ECGs, and its leads obey Einthoven."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import signal

from agent.core.ecg import LEADS, FloatArray, Lead
from agent.core.preprocessing import Preprocessing, prepare
from agent.simulator.ecg import Rhythm, synthesize

RATE = 500
II, V1 = LEADS.index(Lead.II), LEADS.index(Lead.V1)
BEATING = {
    Rhythm.SINUS: (58, 88),
    Rhythm.BRADYCARDIA: (34, 50),
    Rhythm.TACHYCARDIA: (105, 145),
    Rhythm.AFIB: (72, 125),
    Rhythm.VT: (150, 200),
    Rhythm.PACED: (58, 77),
}


def r_peaks(x: FloatArray, rate: float = RATE) -> np.ndarray:
    """Seconds of the R peaks: energy of the slopes over all leads. For clean strips only."""
    sos = signal.butter(2, (5, 30), "bandpass", fs=rate, output="sos")
    energy = np.sum(np.gradient(signal.sosfiltfilt(sos, x, axis=-1), axis=-1) ** 2, axis=0)
    energy = signal.sosfiltfilt(signal.butter(2, 6, fs=rate, output="sos"), energy)
    peaks, _ = signal.find_peaks(energy, height=0.25 * np.percentile(energy, 99), distance=round(0.24 * rate))
    return np.asarray(peaks / rate)


def spectrum_peak(x: FloatArray, low: float, high: float) -> float:
    f, p = signal.welch(x, RATE, nperseg=2048)
    return float(f[(f >= low) & (f <= high)][np.argmax(p[(f >= low) & (f <= high)])])


@pytest.mark.parametrize("rhythm", list(Rhythm))
@pytest.mark.parametrize("rate", [100, 240, 250, 500, 1000])
def test_every_rhythm_at_every_rate_is_plausible_in_size(rhythm: Rhythm, rate: int) -> None:
    x = synthesize(rhythm, 10, rate, seed=5)
    assert x.shape == (12, 10 * rate)
    assert x.dtype == np.float32
    assert np.isfinite(x).all() or rhythm is Rhythm.LEAD_OFF
    assert np.isfinite(x[II]).all()
    assert np.nanmax(np.abs(x)) < (8.0 if rhythm is Rhythm.NOISE else 3.5)


@pytest.mark.parametrize("rhythm", list(Rhythm))
def test_einthoven_and_goldberger_hold(rhythm: Rhythm) -> None:
    i, ii, iii, avr, avl, avf = synthesize(rhythm, 20, RATE, seed=1)[:6]
    assert np.array_equal(iii, ii - i, equal_nan=True)
    assert np.array_equal(avr, -0.5 * i - 0.5 * ii, equal_nan=True)
    assert np.array_equal(avl, i - 0.5 * ii, equal_nan=True)
    assert np.array_equal(avf, ii - 0.5 * i, equal_nan=True)


def test_the_seed_decides_everything() -> None:
    a, b, c = (synthesize(Rhythm.AFIB, 12, 250, seed=s) for s in (3, 3, 4))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert not np.array_equal(synthesize(Rhythm.SINUS, 12, 250, seed=3), a)


def test_leads_come_in_the_order_asked_for() -> None:
    whole = synthesize(Rhythm.SINUS, 5, 250, seed=2)
    part = synthesize(Rhythm.SINUS, 5, 250, (Lead.V1, Lead.II), seed=2)
    assert np.array_equal(part, whole[[V1, II]])


@pytest.mark.parametrize("rhythm", list(BEATING))
@pytest.mark.parametrize("seed", range(4))
def test_heart_rates_lie_in_the_rhythm_s_range(rhythm: Rhythm, seed: int) -> None:
    peaks = r_peaks(synthesize(rhythm, 60, RATE, seed=seed))
    low, high = BEATING[rhythm]
    assert low <= 60 * (len(peaks) - 1) / (peaks[-1] - peaks[0]) <= high


def test_the_heart_rate_can_be_asked_for() -> None:
    for beats in (40, 80, 120):
        peaks = r_peaks(synthesize(Rhythm.SINUS, 60, RATE, seed=0, heart_rate=beats))
        assert 60 / np.mean(np.diff(peaks)) == pytest.approx(beats, rel=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_fibrillation_of_the_atria_is_irregular_without_memory_and_has_no_p(seed: int) -> None:
    x = synthesize(Rhythm.AFIB, 300, RATE, seed=seed)
    rr = np.diff(r_peaks(x))
    assert 0.15 < np.std(rr) / np.mean(rr) < 0.35
    assert abs(np.corrcoef(rr[:-1], rr[1:])[0, 1]) < 0.15
    assert rr.min() > 0.27
    sinus = synthesize(Rhythm.SINUS, 300, RATE, seed=seed)
    steady = np.diff(r_peaks(sinus))
    assert 0.005 < np.std(steady) / np.mean(steady) < 0.06
    # What precedes each QRS, averaged: a P wave in sinus rhythm, nothing in fibrillation.
    for strip, low, high in ((sinus, 0.06, 0.3), (x, 0.0, 0.06)):
        found = r_peaks(strip)
        peaks = [round(b * RATE) for a, b in itertools.pairwise(found) if b - a > 0.75]  # clear of the T wave before
        mean = np.mean([strip[II, p - 120 : p - 30] for p in peaks], axis=0)
        assert low < np.ptp(mean) < high


def test_fibrillatory_waves_are_four_to_nine_hertz_and_largest_in_v1() -> None:
    x = synthesize(Rhythm.AFIB, 120, RATE, seed=7)
    sinus = synthesize(Rhythm.SINUS, 120, RATE, seed=7)
    quiet = {"V1": [], "II": [], "V6": [], "sinus": []}  # type: dict[str, list[float]]
    for strip, names in ((x, {"V1": V1, "II": II, "V6": 11}), (sinus, {"sinus": V1})):
        peaks = r_peaks(strip)
        for before, after in itertools.pairwise(peaks):
            if after - before > 0.7:
                a, b = round((before + 0.45) * RATE), round((after - 0.22) * RATE)
                for name, row in names.items():
                    quiet[name].append(float(np.std(signal.detrend(strip[row, a:b]))))
    size = {name: float(np.median(v)) for name, v in quiet.items()}
    assert size["V1"] > size["II"] > size["V6"]
    assert size["V1"] > 2.5 * size["sinus"]
    assert 0.02 < size["V1"] < 0.1


@pytest.mark.parametrize(
    ("rhythm", "low", "high"), [(Rhythm.SINUS, 0.015, 0.05), (Rhythm.VT, 0.07, 0.2), (Rhythm.PACED, 0.07, 0.2)]
)
def test_ventricular_complexes_are_wide_and_narrow_ones_narrow(rhythm: Rhythm, low: float, high: float) -> None:
    """Width at half the height of the vector's length: about 40 % of the QRS duration."""
    x = synthesize(rhythm, 30, RATE, seed=2, noise=0.0)
    length = np.sqrt(np.sum(x[[0, 1, *range(6, 12)]] ** 2, axis=0))
    peaks, _ = signal.find_peaks(length, height=0.7 * length.max(), distance=round(0.25 * RATE))
    widths = signal.peak_widths(length, peaks[1:-1], rel_height=0.5)[0] / RATE
    assert low < np.median(widths) < high


def test_ventricular_fibrillation_has_no_beat_and_its_own_band() -> None:
    for seed in range(4):
        x = synthesize(Rhythm.VF, 30, RATE, seed=seed)
        assert 3.0 <= spectrum_peak(x[II], 1.0, 30.0) <= 7.0
        assert 0.1 < np.std(x[II]) < 0.8


def test_asystole_is_nearly_flat() -> None:
    x = prepare(synthesize(Rhythm.ASYSTOLE, 10, RATE, seed=1)[None], RATE, Preprocessing(gain=1.0))[0]
    assert np.abs(x[:, 250:-250]).max() < 0.1
    assert x.any()


def test_a_paced_strip_has_a_spike_before_every_complex() -> None:
    x = synthesize(Rhythm.PACED, 30, 1000, seed=3, noise=0.2)
    fast = np.abs(signal.sosfiltfilt(signal.butter(4, 150, "highpass", fs=1000, output="sos"), x[II]))
    spikes, _ = signal.find_peaks(fast, height=0.1, distance=400)
    assert np.diff(spikes).std() < 2
    assert 55 <= 60_000 / np.diff(spikes).mean() <= 80
    for spike in spikes[1:-1]:
        assert np.ptp(x[II, spike + 20 : spike + 180]) > 0.4


def test_only_lead_off_has_invalid_samples_and_only_where_the_electrode_is_off() -> None:
    x = synthesize(Rhythm.LEAD_OFF, 60, 250, seed=0)
    off = np.isnan(x)
    assert not off[II].any()
    assert all(np.array_equal(off[0], off[row]) for row in range(12) if row != II)
    assert off[0].sum() == 24 * 250


def test_noise_hides_the_beats_but_not_from_the_seed() -> None:
    clean = prepare(synthesize(Rhythm.SINUS, 10, RATE, seed=0)[None], RATE, Preprocessing(gain=1.0))
    noisy = prepare(synthesize(Rhythm.NOISE, 10, RATE, seed=0)[None], RATE, Preprocessing(gain=1.0))
    assert noisy.std() > 2 * clean.std()


@pytest.mark.parametrize(("seconds", "rate"), [(0.5, 250), (10, 60)])
def test_what_cannot_be_made_is_refused(seconds: float, rate: float) -> None:
    with pytest.raises(ValueError, match="at least one second"):
        synthesize(Rhythm.SINUS, seconds, rate)
