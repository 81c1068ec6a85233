"""What is wrong with a recording is found and named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.ecg import LEADS, FloatArray, Lead
from agent.core.preprocessing import Preprocessing
from agent.simulator.ecg import Rhythm, synthesize
from training.data.checks import check
from training.data.recording import Recording
from training.data.windows import prepare_windows

Make = Callable[..., Recording]


def ecg(seed: int = 0) -> FloatArray:
    return synthesize(Rhythm.SINUS, 10.0, 500, LEADS, seed).copy()


def swapped(x: FloatArray, a: int, b: int) -> FloatArray:
    out = x.copy()
    out[[a, b]] = x[[b, a]]
    return out


BAD: dict[str, tuple[Callable[[FloatArray], FloatArray], str, str]] = {
    "short": (lambda x: x[:, :4999], "too_short", "10.0 s; a window has 10 s"),
    "one NaN": (lambda x: np.where(np.arange(5000) == 5, np.nan, x).astype(np.float32), "invalid", "0.0%"),
    "all NaN": (lambda x: np.full_like(x, np.nan), "invalid", "no valid sample"),
    "flat": (lambda x: np.where(np.arange(12)[:, None] == 7, 0.1, x).astype(np.float32), "flat", "no signal in V2"),
    "microvolts": (lambda x: x * 1000, "units", "µV declared as mV"),
    "one lead in microvolts": (
        lambda x: np.where(np.arange(12)[:, None] == 6, 1000 * x, x).astype(np.float32),
        "units",
        "V1: ",
    ),
    "volts": (lambda x: x / 100, "units", "volts declared as mV"),
    "aVR and aVL swapped": (lambda x: swapped(x, 3, 4), "leads", "aVR, aVL differ"),
    "III and V1 swapped": (lambda x: swapped(x, 2, 6), "leads", "III differ"),
    "arms reversed in I only": (
        lambda x: np.where(np.arange(12)[:, None] == 0, -x, x).astype(np.float32),
        "leads",
        "swapped?",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_recordings_are_named(make_recording: Make, kind: str) -> None:
    change, reason, detail = BAD[kind]
    found = check(make_recording(change(ecg())), 10.0)
    assert found is not None
    assert (found.reason, found.record) == (reason, "x")
    assert detail in found.detail


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([r for r in Rhythm if r is not Rhythm.LEAD_OFF]), st.floats(-5, 5))
def test_what_is_good_passes_with_any_offset(seed: int, rhythm: Rhythm, offset: float) -> None:
    signal = synthesize(rhythm, 10.0, 250, LEADS, seed) + np.float32(offset)
    recording = Recording("made", "x", "x", None, "", 250.0, LEADS, signal)
    assert check(recording, 10.0) is None


def test_a_broken_rate_and_a_recording_without_leads(make_recording: Make) -> None:
    assert check(make_recording(ecg(), rate=499.5), 10.0).reason == "rate"  # type: ignore[union-attr]
    nothing = make_recording(np.zeros((0, 5000), np.float32), leads=(), notes=("channel PLETH",))
    assert check(nothing, 10.0).detail == "channel PLETH"  # type: ignore[union-attr]


def test_continuous_recordings_may_fail_for_a_while(make_recording: Make) -> None:
    signal = np.tile(ecg()[:2], (1, 3))
    signal[0, :2000] = np.nan
    signal[1, 5000:] = 0.0
    signal[0, 9000:9500] = 70.0  # a motion artefact
    assert check(make_recording(signal, leads=(Lead.I, Lead.II), continuous=True), 10.0) is None
    assert check(make_recording(1000 * signal, leads=(Lead.I, Lead.II), continuous=True), 10.0) is not None


def test_quality_of_a_window(make_recording: Make) -> None:
    p = Preprocessing(gain=1.0)
    clean = synthesize(Rhythm.SINUS, 10.0, 250, LEADS, 3, noise=0.0)

    def of(signal: FloatArray, leads: tuple[Lead, ...] = LEADS) -> object:
        (window,) = prepare_windows(make_recording(signal, rate=250.0, continuous=True, leads=leads), p)
        return window.quality

    good = of(clean)
    assert (good.flat, good.saturated, good.missing, good.clipped) == (0, 0, 0, 0)  # type: ignore[attr-defined]
    assert good.noise < 2  # type: ignore[attr-defined]
    assert good.einthoven < 1  # type: ignore[attr-defined]
    white = clean + np.random.default_rng(0).normal(0, 0.05, clean.shape).astype(np.float32)
    assert 35 < of(white).noise < 60, "µV, of 50; the notches and the last octave's roll-off take some"  # type: ignore[attr-defined]
    bad = clean.copy()
    bad[6] = 0.3
    bad[7] = np.clip(bad[7], -0.1, 0.1)
    bad[2] += 0.2 * np.sin(2 * np.pi * 5 * np.arange(2500) / 250, dtype=np.float32)
    found = of(bad)
    assert found.flat == 1 << 6  # type: ignore[attr-defined]
    assert found.saturated == 1 << 7  # type: ignore[attr-defined]
    assert 130 < found.einthoven < 150, "µV rms"  # type: ignore[attr-defined]
    assert of(clean[:2], LEADS[:2]).einthoven is None  # type: ignore[attr-defined]
