"""A modest heart rate for the live page: mean R-R interval of a few seconds of one lead.

It serves the eye only: no alert is ever made of it, and where the lead does not show clear QRS complexes it answers
None rather than guess. The method is Pan and Tompkins' (IEEE Trans. Biomed. Eng. 32:230, 1985) reduced to one pass:
band-pass around the QRS, energy, moving integration, peaks above a fraction of the lead's own beat height, of which
one that soon follows a steeper one is that beat's T wave.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import FloatArray

_RATE = 125.0  # about the rate that the estimate works at, samples per second
_BAND = (8.0, 20.0)  # Hz: QRS yes, T and P waves and baseline hardly
_INTEGRATION = 0.12  # s, about a QRS complex
_REFRACTORY = 0.24  # s: 250 beats per minute at most
_FRACTION = 0.35  # of the typical beat's height; a smaller peak is no beat
_T_WAVE = 0.36  # s after a beat in which its T wave may come (Pan and Tompkins)
_T_SLOPE = 0.5  # of the beat's own slope; what is less steep so soon after it is its T wave (Pan and Tompkins)
_CLEARNESS = 4.0  # typical beat to the quietest fifth of the lead; white and pink noise reach 3.2, 230 bpm 4.3
_MINIMUM = 0.03  # mV of band-passed envelope; below it the lead is flat
_SECONDS = 5.0
_INVALID = 0.2


def heart_rate(signal: FloatArray, rate: float) -> float | None:
    """Beats per minute over ``signal`` (n,) in mV at ``rate`` samples per second; 8 to 12 s are best.

    None where the signal is shorter than 5 s, more than a fifth invalid (NaN), flat, or without clear beats: "not
    measured", which is not the same as zero.
    """
    if signal.size < _SECONDS * rate or rate < 2 * _BAND[1]:
        return None
    invalid = ~np.isfinite(signal)
    if invalid.mean() > _INVALID:
        return None
    x = signal.astype(np.float64)
    if invalid.any():
        x[invalid] = np.interp(np.flatnonzero(invalid), np.flatnonzero(~invalid), x[~invalid])
    step = max(1, int(rate // _RATE))
    if step > 1:
        x = x[: x.size - x.size % step].reshape(-1, step).mean(axis=1)
    hz = rate / step
    narrow = _qrs_band(x - np.median(x), hz)
    width = max(1, round(_INTEGRATION * hz))
    envelope = np.sqrt(np.convolve(np.square(narrow), np.full(width, 1.0 / width), mode="same"))

    second = round(hz)
    height = float(np.median(envelope[: envelope.size - envelope.size % second].reshape(-1, second).max(axis=1)))
    between = float(np.quantile(envelope, 0.2))
    if height < _MINIMUM or height < _CLEARNESS * between:
        return None
    beats = peaks(envelope, _FRACTION * height, max(1, round(_REFRACTORY * hz)))
    beats = _without_t_waves(beats, narrow, hz)
    if beats.size < 3:
        return None
    return float(60.0 * hz * (beats.size - 1) / (beats[-1] - beats[0]))


def peaks(x: NDArray[np.float64], height: float, distance: int) -> NDArray[np.intp]:
    """Samples of ``x`` (n,) that are local maxima of at least ``height``, no two nearer than ``distance`` samples.

    Of two that are too near the higher stays, of equals the later. As `scipy.signal.find_peaks`, of which the tests
    hold it to be an equal; importing that package takes longer than all else that the agent imports for its start.
    """
    step = np.diff(x)
    moving = np.flatnonzero(step)  # a flat top is one peak, at its middle
    turns = np.flatnonzero((step[moving[:-1]] > 0) & (step[moving[1:]] < 0))
    found: NDArray[np.intp] = (moving[turns] + 1 + moving[turns + 1]) // 2
    found = found[x[found] >= height]
    kept = np.ones(found.size, dtype=np.bool_)
    for i in np.argsort(x[found], kind="stable")[::-1]:
        if kept[i]:
            kept[np.abs(found - found[i]) < distance] = False
            kept[i] = True
    beats: NDArray[np.intp] = found[kept]
    return beats


def _without_t_waves(beats: NDArray[np.intp], narrow: NDArray[np.float64], hz: float) -> NDArray[np.intp]:
    """The peaks that are no T wave of the peak before them: those that come later, or are as steep."""
    slope = np.abs(np.diff(narrow, prepend=narrow[:1]))
    reach = max(1, round(_INTEGRATION * hz))
    kept: list[int] = []
    last = 0.0
    for beat in beats.tolist():
        steepest = float(slope[max(0, beat - reach) : beat + reach + 1].max())
        if kept and beat - kept[-1] < _T_WAVE * hz and steepest < _T_SLOPE * last:
            continue
        kept.append(beat)
        last = steepest
    return np.array(kept, np.intp)


def _qrs_band(x: NDArray[np.float64], hz: float) -> NDArray[np.float64]:
    """Zero-phase band-pass with the squared magnitude of a second-order Butterworth filter."""
    from scipy.fft import irfft, next_fast_len, rfft, rfftfreq  # see `agent.core.preprocessing.prepare`

    n = next_fast_len(x.size + round(hz), real=True)  # a second of zeros, or the end would ring into the beginning
    f = rfftfreq(n, 1.0 / hz)
    f[0] = f[1] * 1e-3
    low, high = _BAND
    gain = 1.0 / (1.0 + ((f * f - low * high) / (f * (high - low))) ** 4)
    return np.asarray(irfft(rfft(x, n) * gain, n)[: x.size], dtype=np.float64)
