"""The page's heart rate on signals with known beats and on real recordings with annotated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.signal import find_peaks

from agent.core.beats.rate import heart_rate, peaks


def _beats(bpm: float, rate: float, seconds: float = 10.0, tall_t: float = 0.3) -> np.ndarray:
    t = np.arange(round(rate * seconds)) / rate
    phase = np.mod(t, 60.0 / bpm)
    qrs = np.exp(-0.5 * ((phase - 0.2) / 0.012) ** 2)
    t_wave = tall_t * np.exp(-0.5 * ((phase - 0.45) / 0.045) ** 2)
    return np.asarray(qrs + t_wave, dtype=np.float32)


@pytest.mark.parametrize("rate", [125.0, 240.0, 250.0, 360.0, 500.0, 1000.0])
@pytest.mark.parametrize("bpm", [32.0, 60.0, 97.0, 150.0, 210.0])
def test_known_rates(bpm: float, rate: float) -> None:
    signal = _beats(bpm, rate, tall_t=0.3 if bpm < 120 else 0.0)
    assert heart_rate(signal, rate) == pytest.approx(bpm, rel=0.03)


def test_a_tall_t_wave_is_not_a_beat() -> None:
    assert heart_rate(_beats(60.0, 250.0, tall_t=1.2), 250.0) == pytest.approx(60.0, rel=0.03)


@pytest.mark.parametrize("shift", [0.0, 0.13, 0.37, 0.7])
def test_a_t_wave_with_a_steep_edge_is_not_a_beat(shift: float) -> None:
    """As a device sends it whose filter, or whose author, made the waves one-sided: each begins with a step."""
    t = np.arange(5000) / 500.0 + shift
    waves = ((0.2, 0.03, 0.1), (0.4, 0.012, 1.0), (0.7, 0.06, 0.25))
    signal = sum(height * np.exp(-((((t - at) % 1.0) / width) ** 2)) for at, width, height in waves)
    assert heart_rate(np.asarray(signal, np.float32), 500.0) == pytest.approx(60.0, rel=0.03)


def test_beats_that_alternate_are_all_counted() -> None:
    """Pulsus alternans, and bigeminy that couples late: a smaller beat is a beat, unless it is flat and early too."""
    t = np.arange(2500) / 250.0
    height = np.where(np.floor(t / 0.5) % 2, 1.0, 0.55)
    signal = height * np.exp(-0.5 * ((np.mod(t, 0.5) - 0.25) / 0.012) ** 2)
    assert heart_rate(np.asarray(signal, np.float32), 250.0) == pytest.approx(120.0, rel=0.03)


def test_not_measured_is_none() -> None:
    rng = np.random.default_rng(3)
    flat = np.zeros(2500, np.float32)
    assert heart_rate(flat, 250.0) is None
    assert heart_rate(flat + 300.0, 250.0) is None, "an electrode's offset is no beat"
    assert heart_rate(rng.normal(0, 0.2, 2500).astype(np.float32), 250.0) is None, "noise has no beats"
    assert heart_rate(_beats(60.0, 250.0, 4.0), 250.0) is None, "too short"
    invalid = _beats(60.0, 250.0)
    invalid[:600] = np.nan
    assert heart_rate(invalid, 250.0) is None
    assert heart_rate(np.full(2500, np.nan, np.float32), 250.0) is None


def test_a_few_invalid_samples_are_bridged_and_input_is_kept() -> None:
    signal = _beats(75.0, 250.0)
    signal[1000:1040] = np.nan
    before = signal.copy()
    assert heart_rate(signal, 250.0) == pytest.approx(75.0, rel=0.03)
    np.testing.assert_array_equal(signal, before)


@pytest.mark.data
def test_against_annotated_beats(data_dir: Path) -> None:
    """Within 5 bpm or 10 % on nearly all ten-second stretches of the 48 MIT-BIH records, arrhythmias included."""
    wfdb = pytest.importorskip("wfdb")
    beats = set("NLRBAaJSVrFejnE/fQ?")
    good, total, good_records = 0, 0, 0
    records = sorted(p.stem for p in (data_dir / "mitdb").glob("*.hea") if "-" not in p.stem)
    assert len(records) >= 44
    for name in records:
        record = wfdb.rdrecord(str(data_dir / "mitdb" / name), channels=[0])
        annotation = wfdb.rdann(str(data_dir / "mitdb" / name), "atr")
        marks = np.array([s for s, c in zip(annotation.sample, annotation.symbol, strict=True) if c in beats])
        signal, rate = record.p_signal[:, 0].astype(np.float32), float(record.fs)
        length = round(10 * rate)
        mine = of = 0
        for begin in range(0, signal.size - length, 6 * length):
            inside = marks[(marks >= begin) & (marks < begin + length)]
            if inside.size < 3:
                continue
            truth = 60 * rate * (inside.size - 1) / (inside[-1] - inside[0])
            found = heart_rate(signal[begin : begin + length], rate)
            of += 1
            mine += found is not None and abs(found - truth) <= max(5.0, 0.1 * truth)
        good, total, good_records = good + mine, total + of, good_records + (mine >= 0.9 * of)
    print(f"{good}/{total} stretches, {good_records}/{len(records)} records with at least 90 %")
    assert good >= 0.95 * total
    assert good_records >= 0.85 * len(records)


@given(arrays(np.float64, st.integers(3, 80), elements=st.integers(0, 9)), st.integers(0, 9), st.integers(0, 999))
def test_local_maxima_are_scipy_s_flat_tops_among_them(x: np.ndarray, height: int, seed: int) -> None:
    wanted, _ = find_peaks(x, height=height)
    np.testing.assert_array_equal(peaks(x, height, 1), wanted)
    distinct = x + np.random.default_rng(seed).permutation(x.size) * 1e-3  # which of equals stays is nobody's promise
    for distance in (1, 2, 5, 17):
        wanted, _ = find_peaks(distinct, height=height, distance=distance)
        np.testing.assert_array_equal(peaks(distinct, height, distance), wanted)
