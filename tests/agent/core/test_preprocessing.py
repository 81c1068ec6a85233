"""Preprocessing: what passes, what does not, and that no window can disturb another."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from agent.core.ecg import FloatArray
from agent.core.preprocessing import Preprocessing, prepare, steps
from training.importers.reference_preprocessing import Cohort

UNIT = Preprocessing(gain=1.0)
BARE = Preprocessing(gain=1.0, highpass=0.0, notches=())


def tone(frequency: float, rate: int, seconds: float = 10.0, phase: float = 0.3) -> FloatArray:
    t = np.arange(round(seconds * rate)) / rate
    return np.sin(2 * np.pi * frequency * t + phase).astype(np.float32)


def window(row: FloatArray) -> FloatArray:
    return np.tile(row, (1, 12, 1))


def amplitude(y: FloatArray, frequency: float, rate: float = 250.0) -> float:
    """Amplitude of a tone in the middle eight seconds, where the window's ends play no part."""
    y = y[..., round(rate) : -round(rate)]
    t = np.arange(y.shape[-1]) / rate
    taper = signal.windows.hann(t.size, sym=False)
    return float(np.max(np.abs(2 * np.mean(y * taper * np.exp(-2j * np.pi * frequency * t), axis=-1)) / taper.mean()))


def ecg(seconds: float, rate: int, seed: int = 0) -> FloatArray:
    """(12, n): spikes of QRS width, slow waves, wander and an electrode offset."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    x = np.zeros((12, t.size))
    for beat in np.cumsum(rng.uniform(0.6, 1.0, round(seconds * 2))):
        for at, width, size in ((-0.16, 0.025, 0.15), (0.0, 0.011, 1.2), (0.03, 0.011, -0.3), (0.28, 0.06, 0.3)):
            x += rng.uniform(0.5, 1.0, (12, 1)) * size * np.exp(-0.5 * ((t - beat - at) / width) ** 2)
    wander = 0.3 * np.sin(2 * np.pi * 0.23 * t + rng.uniform(0, 6, (12, 1)))
    return (x + wander + rng.uniform(-20, 20, (12, 1))).astype(np.float32)


@pytest.mark.parametrize("rate", [100, 125, 200, 240, 250, 257, 333, 360, 400, 499, 500, 512, 1000])
def test_every_rate_gives_the_same_tone_at_the_same_place(rate: int) -> None:
    y = prepare(window(tone(17.0, rate)), rate, BARE)
    assert y.shape == (1, 12, 2500)
    assert y.dtype == np.float32
    middle = slice(250, 2250)
    assert np.abs(y[..., middle] - tone(17.0, 250)[middle]).max() < 2e-3


def test_the_gain_is_in_network_units_per_millivolt() -> None:
    y = prepare(window(tone(10.0, 500)), 500, Preprocessing())
    assert amplitude(y, 10.0) == pytest.approx(1 / 0.0048, rel=1e-3)


@pytest.mark.parametrize(
    ("rate", "frequency", "image"), [(500, 180.0, 70.0), (500, 130.0, 120.0), (1000, 420.0, 80.0), (360, 170.0, 80.0)]
)
def test_a_tone_above_the_output_s_nyquist_frequency_does_not_alias(rate: int, frequency: float, image: float) -> None:
    y = prepare(window(tone(frequency, rate)), rate, BARE)
    assert amplitude(y, image) < 1e-4
    assert np.abs(y[..., 250:2250]).max() < 5e-3
    # The reference takes every second sample: there the tone comes out whole, elsewhere.
    if rate == 500:
        assert amplitude(window(tone(frequency, rate))[..., ::2], image) > 0.9


@pytest.mark.parametrize(("rate", "seed"), [(500, 1), (360, 2), (240, 3), (250, 4)])
def test_the_middle_of_a_window_is_that_of_the_long_signal(rate: int, seed: int) -> None:
    """Against scipy's own filters on two minutes of signal; error in mV over the middle eight seconds."""
    long = ecg(120.0, rate, seed)
    p = Preprocessing(gain=1.0, notches=())
    reference = signal.sosfiltfilt(signal.butter(2, 0.5, "highpass", fs=rate, output="sos"), long.astype(float))
    ours = prepare(long[None, :, 50 * rate : 60 * rate], rate, p)[0]
    resampled = signal.resample(reference, 250 * 120, axis=-1)[:, 50 * 250 : 60 * 250]
    error = np.abs(ours - resampled)[:, 250:2250]
    assert np.sqrt(np.mean(error**2)) < 0.006
    assert error.max() < 0.03


def test_notches_take_the_mains_and_leave_the_neighbours() -> None:
    for line in (50.0, 60.0, 100.0):
        assert amplitude(prepare(window(tone(line, 500)), 500, UNIT), line) < 0.01
        assert amplitude(prepare(window(tone(line + 0.1, 500)), 500, UNIT), line + 0.1) < 0.02
        assert amplitude(prepare(window(tone(line - 4, 500)), 500, UNIT), line - 4) > 0.99


def test_notches_above_a_nyquist_frequency_are_absent() -> None:
    x = window(tone(20.0, 100))
    assert np.array_equal(prepare(x, 100, UNIT), prepare(x, 100, UNIT.model_copy(update={"notches": ()})))
    x = window(tone(20.0, 1000))
    many = UNIT.model_copy(update={"notches": (*UNIT.notches, 150.0, 180.0, 400.0)})
    assert np.array_equal(prepare(x, 1000, UNIT), prepare(x, 1000, many))


def test_an_offset_and_a_slow_wander_go_and_the_st_segment_stays() -> None:
    t = np.arange(5000) / 500
    assert np.abs(prepare(window(np.full(5000, 250.0, np.float32)), 500, UNIT)).max() < 1e-3
    wander = prepare(window(np.sin(2 * np.pi * 0.15 * t).astype(np.float32)), 500, UNIT)
    assert np.abs(wander[..., 250:2250]).max() < 0.05
    # 0.2 mV of ST elevation, 120 ms in every 800: the zero-phase filter moves the baseline but keeps the step.
    st = (0.2 * ((t % 0.8) < 0.12)).astype(np.float32)
    y = prepare(window(st), 500, UNIT)[0, 0, 500:2000]
    assert np.percentile(y, 97) - np.percentile(y, 40) == pytest.approx(0.2, abs=0.02)


def test_the_input_is_only_read() -> None:
    x = np.random.default_rng(0).standard_normal((3, 12, 5000)).astype(np.float32)
    before = x.copy()
    x.setflags(write=False)
    prepare(x, 500, Preprocessing())
    assert np.array_equal(x, before)
    strided = np.repeat(x, 2, axis=2)[:, :, ::2]
    assert np.array_equal(prepare(strided, 500, Preprocessing()), prepare(x, 500, Preprocessing()))


def test_a_window_comes_out_the_same_whatever_its_batch() -> None:
    x = np.random.default_rng(1).standard_normal((33, 12, 2400)).astype(np.float32)
    x[1:] *= 100
    whole = prepare(x, 240, Preprocessing())
    for i in (0, 7, 32):
        alone = prepare(x[i : i + 1], 240, Preprocessing())[0]
        assert np.abs(whole[i] - alone).max() <= 1e-6 * np.abs(alone).max()


def test_twice_the_voltage_comes_out_twice_as_high() -> None:
    x = ecg(10.0, 500)[None]
    assert np.allclose(prepare(2 * x, 500, UNIT), 2 * prepare(x, 500, UNIT), atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_nan_spoils_only_its_own_lead(bad: float) -> None:
    x = np.random.default_rng(2).standard_normal((20, 12, 5000)).astype(np.float32)
    clean = prepare(x, 500, UNIT)
    x[3, 4, 1234] = bad
    y = prepare(x, 500, UNIT)
    assert np.isnan(y[3, 4]).all()
    y[3, 4] = clean[3, 4]
    assert np.array_equal(y, clean)


def test_a_missing_lead_comes_out_as_exact_zeros() -> None:
    x = np.random.default_rng(3).standard_normal((5, 12, 5000)).astype(np.float32)
    x[:, 6:9] = 0
    y = prepare(x, 500, Preprocessing())
    assert not y[:, 6:9].any()
    assert y[:, :6].any(axis=-1).all()


def test_an_empty_batch_is_an_empty_batch() -> None:
    assert prepare(np.empty((0, 12, 5000), np.float32), 500, UNIT).shape == (0, 12, 2500)


def test_other_lengths_and_rates_of_the_network() -> None:
    p = Preprocessing(gain=1.0, highpass=0.0, notches=(), rate=500, seconds=4)
    y = prepare(window(tone(9.0, 250, 4.0)), 250, p)
    assert y.shape == (1, 12, 2000)
    assert np.abs(y[0, 0, 400:1600] - tone(9.0, 500, 4.0)[400:1600]).max() < 5e-3
    assert prepare(np.ones((1, 12, 250), np.float32), 250, p.model_copy(update={"seconds": 1.0})).shape == (1, 12, 500)


def test_what_does_not_fit_is_said_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="has 5000 samples, not 4999"):
        prepare(np.zeros((1, 12, 4999), np.float32), 500, UNIT)
    with pytest.raises(ValueError, match=r"whole positive number, not 249\.9"):
        prepare(np.zeros((1, 12, 2499), np.float32), 249.9, UNIT)
    with pytest.raises(ValueError, match="shape"):
        prepare(np.zeros((12, 5000), np.float32), 500, UNIT)


# Cohort mode

BANDS = (((48.0, 52.0), (50.5, 55.0)), (), ((30.0, 31.0),), *(((45.0, 70.0),),) * 9)


def cohort(**changes: object) -> Preprocessing:
    fields = {"mode": "cohort", "gain": 1.0, "highpass": 0.0, "notches": (), "bands": BANDS} | changes
    return Preprocessing.model_validate(fields)


def test_cohort_mode_is_the_published_pipeline_s_last_step() -> None:
    x = prepare(np.stack([ecg(10.0, 250, seed) for seed in range(3)]), 250, BARE)  # nothing above the roll-off is left
    x += 0.2 * np.stack([window(tone(50.0, 250))[0]] * 3)
    expected = Cohort(records=3, factor=0.7, bands=BANDS).apply(x)
    found = prepare(x, 250, cohort(gain=0.7))
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()
    assert amplitude(prepare(x - prepare(x, 250, cohort()), 250, BARE)[:, 3:], 50.0) > 0.15, "the hum is flattened"


@pytest.mark.parametrize("rate", [250, 500, 1000])
def test_cohort_mode_leaves_each_window_to_itself(rate: int) -> None:
    x = np.stack([ecg(10.0, rate, seed) for seed in range(4)])
    x[1, 5] = 0.0
    x[2, 3, 700] = np.nan
    together = prepare(x, rate, cohort())
    for i in range(4):
        np.testing.assert_array_equal(together[i], prepare(x[i : i + 1], rate, cohort())[0])
    assert not together[1, 5].any()
    assert np.isnan(together[2, 3]).all()
    assert np.isfinite(np.delete(together[2], 3, axis=0)).all()


def test_a_mode_without_its_constants_is_refused() -> None:
    for changes in ({"bands": ()}, {"bands": BANDS[:11]}, {"mode": "fixed"}, {"bands": ((float("inf"), 1.0),) * 12}):
        with pytest.raises(ValueError, match=r"cohort mode needs the bands|finite|valid"):
            cohort(**changes)
    with pytest.raises(ValueError, match="use prepare"):
        steps(2500, 250.0, cohort())
    assert cohort(bands=((),) * 12).mode == "cohort", "nothing stood out in any lead"
