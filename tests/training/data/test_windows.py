"""Windows are those that the ward would send, and each has its own labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from agent.core.ecg import LEADS, FloatArray, Lead
from agent.core.labels import index_of
from agent.core.preprocessing import Preprocessing, prepare
from training.data.codes import from_snomed
from training.data.recording import Recording
from training.data.windows import prepare_windows, window_labels, window_starts

P = Preprocessing(gain=1.0)
Make = Callable[..., Recording]


def noise(leads: int, n: int) -> FloatArray:
    return np.random.default_rng(0).standard_normal((leads, n)).astype(np.float32)


def test_windows_are_preprocessed_as_live_ones(make_recording: Make) -> None:
    signal = noise(2, 360 * 23)
    windows = list(prepare_windows(make_recording(signal, leads=(Lead.V5, Lead.II), rate=360.0), P))
    assert [w.start for w in windows] == [0.0, 5.0, 10.0]
    assert [LEADS[i] for i in np.flatnonzero(windows[0].mask)] == [Lead.II, Lead.V5]
    live = np.zeros((1, 12, 3600), np.float32)
    live[0, 1], live[0, 10] = signal[1, 1800:5400], signal[0, 1800:5400]
    expected = prepare(live, 360.0, P)[0]
    np.testing.assert_allclose(windows[1].rows / 1000, expected[[1, 10]], atol=5.1e-4)


def test_an_invalid_lead_is_missing_from_its_window_only(make_recording: Make) -> None:
    signal = noise(2, 250 * 20)
    signal[0, 100] = np.nan
    signal[:, 250 * 19] = np.nan
    found = make_recording(signal, leads=(Lead.I, Lead.II), rate=250.0, continuous=True)
    windows = list(prepare_windows(found, P))
    assert [w.start for w in windows] == [0.0, 5.0]  # the third has no lead at all
    assert [w.mask[:2].tolist() for w in windows] == [[False, True], [True, True]]
    assert [w.rows.shape for w in windows] == [(1, 2500), (2, 2500)]
    assert [w.quality.missing for w in windows] == [1, 0]


def test_what_sixteen_bits_do_not_hold_is_clipped_and_counted(make_recording: Make) -> None:
    signal = noise(1, 2500) * 0.1
    signal[0, 1000:1003] = 60.0
    (window,) = prepare_windows(make_recording(signal, leads=(Lead.II,), rate=250.0), P)
    expected = prepare(signal[None], 250.0, P)[0, 0]
    assert window.quality.clipped == np.count_nonzero(np.abs(expected) > 32.767) > 0
    assert window.rows.max() == 32767
    (whole,) = prepare_windows(make_recording(signal / 10, leads=(Lead.II,), rate=250.0), P)
    assert whole.quality.clipped == 0


@pytest.mark.parametrize("tone", [200.0, 180.0, 145.0])
def test_a_tone_above_the_new_nyquist_vanishes(make_recording: Make, tone: float) -> None:
    """The reference takes every second sample without a filter, which makes 50 Hz of 200 Hz."""
    t = np.arange(5000) / 500
    signal = (np.hanning(5000) * np.sin(2 * np.pi * tone * t))[None].astype(np.float32)
    p = Preprocessing(gain=1.0, notches=())  # a notch at 50 Hz would hide the alias
    (window,) = prepare_windows(make_recording(signal, leads=(Lead.II,)), p)
    assert np.max(np.abs(window.rows)) <= 1, "µV, of a tone of 1 mV"
    decimated = signal[0, ::2]
    assert np.max(np.abs(decimated)) > 0.9, "what the reference does"


def test_long_recordings_come_in_pieces_that_are_the_same(make_recording: Make) -> None:
    long = make_recording(noise(1, 100 * 400), leads=(Lead.II,), rate=100.0, continuous=True)
    windows = list(prepare_windows(long, P, step=1.0))
    assert [w.start for w in windows] == list(range(391))
    alone = replace(long, signal=long.signal[:, 100 * 200 : 100 * 210])
    (expected,) = prepare_windows(alone, P)
    assert np.max(np.abs(windows[200].rows - expected.rows)) <= 1


def test_a_long_record_keeps_its_rhythm_but_not_its_ectopy_in_each_window(make_recording: Make) -> None:
    labels = from_snomed(["164889003", "164884008"], "A")
    short, long = (make_recording(noise(12, n), labels=labels) for n in (5000, 15000))
    pvc, af = index_of("Premature ventricular complex"), index_of("Afib")
    assert (window_labels(short, 0.0, 10.0)[pvc], window_labels(long, 5.0, 10.0)[pvc]) == (1, -1)
    assert window_labels(long, 5.0, 10.0)[af] == 1
    assert labels[pvc] == 1
    assert list(window_starts(long, 10.0)) == [0, 2500, 5000, 7500, 10000]
    assert list(window_starts(long, 10.0, step=20.0)) == [0, 10000]
