"""Preprocessing: raw windows in, the network's input out. The same code serves training and the ward.

One forward and one inverse real FFT per lead do everything at once. The window is extended at both ends by its odd
reflection (so that the filters meet neither a step nor a kink), transformed, multiplied by one real mask and
transformed back at the output's length: resampling costs nothing and cannot alias, because bins above the output's
Nyquist frequency are never kept. A real mask is zero-phase, so no wave of the ECG is displaced (a causal 0.5 Hz
high-pass bends the ST segment; a zero-phase one hardly does: AHA/ACC/HRS 2007, part I, allows it up to 0.67 Hz).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.core.ecg import LEADS, FloatArray

PADDING_SECONDS = 5
"""Odd reflection at each end, whole seconds so that it is on the grid of both rates. By then the impulse response of
the 0.5 Hz high-pass has decayed to 1e-5."""
ROLL_OFF = 0.9
"""The anti-alias mask falls as a raised cosine from this fraction of the lower Nyquist frequency to zero at it."""
_CHUNK_BYTES = 2**21
"""Rows are transformed in chunks of about this size, so that they stay in the core's own cache."""


class Preprocessing(BaseModel):
    """Constants of the preprocessing, stored in the bundle's manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mode: Literal["fixed", "cohort"] = "fixed"
    """fixed: the same filters for every monitor. cohort: gain and bands of the published pipeline, fitted once on
    recordings of one model of monitor (`training.importers.reference_preprocessing.Cohort`), then the same for every
    window."""
    rate: float = Field(default=250.0, gt=0)
    seconds: float = Field(default=10.0, gt=0)
    gain: float = Field(default=1 / 0.0048, gt=0)
    """Network units per mV (ADC counts of 4.8 µV)."""
    highpass: float = Field(default=0.5, ge=0)
    """Hz; 0 = none. Monitors filter at 0.5 Hz themselves; without it, drift dominates a bedside window."""
    notches: tuple[float, ...] = (50.0, 60.0, 100.0, 120.0)
    """Mains lines and their harmonics, Hz."""
    notch_width: float = Field(default=1.0, gt=0)
    """Half width of each notch, Hz."""
    monitor: str = ""
    """Cohort mode: the model of monitor that gain and bands were fitted on."""
    bands: tuple[Annotated[tuple[tuple[float, float], ...], Field(max_length=256)], ...] = ()
    """Cohort mode: from where to where (Hz) each lead's spectrum is flattened, in this order; none in fixed mode."""

    @model_validator(mode="after")
    def _of_one_mode(self) -> Self:
        if (self.mode == "cohort") != (len(self.bands) == len(LEADS)) or (self.mode == "fixed" and self.bands):
            raise ValueError("cohort mode needs the bands of all twelve leads, and fixed mode has none")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What `prepare` does to a window, in numbers: for those who do the same on another device."""

    pad: int
    """Samples of the odd reflection at each end, at the windows' rate, and at the network's."""
    pad_out: int
    samples_out: int
    length: int
    """Of the forward transform, and of the inverse one."""
    length_out: int
    mask: FloatArray
    """(bins,) real factors of the spectrum's first bins, gain and the transforms' scales included; read-only."""


def steps(samples: int, rate: float, p: Preprocessing) -> Steps:
    """The steps for windows of so many samples at this rate.

    Raises ValueError if the two or `p` do not fit, or if `p` has bands: flattening them is not linear, hence no mask.
    """
    if p.bands:
        raise ValueError("Cohort mode flattens bands of each window's spectrum, which no mask does; use prepare.")
    return _steps(samples, rate, p)


def _steps(samples: int, rate: float, p: Preprocessing) -> Steps:
    rate_in, rate_out = _whole(rate, "the windows' rate"), _whole(p.rate, "the network's rate")
    n_out = _whole(p.rate * p.seconds, "the network's samples per window")
    if samples != rate_in * p.seconds:
        raise ValueError(
            f"A window of {p.seconds:g} s at {rate_in} Hz has {rate_in * p.seconds:g} samples, not {samples}."
        )
    # The reflection needs more samples than it makes, so a window of one second or less goes without.
    pad_seconds = max(0, min(PADDING_SECONDS, (samples - 1) // rate_in))
    pad, pad_out = pad_seconds * rate_in, pad_seconds * rate_out
    length, length_out = samples + 2 * pad, n_out + 2 * pad_out
    return Steps(pad, pad_out, n_out, length, length_out, _mask(rate_in, length, length_out, p))


def prepare(windows: FloatArray, rate: float, p: Preprocessing) -> FloatArray:
    """Raw windows (B, 12, rate · p.seconds) in mV to network input (B, 12, p.rate · p.seconds), float32.

    High-pass, notches, anti-aliased resampling and gain in one pass; every lead by itself, so no window's output
    depends on its batch. ``windows`` is only read. A missing lead (all zeros) comes out as exact zeros. A lead that
    holds a NaN or an infinity comes out all NaN, and no other lead of any window is touched: the windower lets none
    through, so whoever sees NaN here has found a fault upstream, not a plausible ECG.

    Against the same filters on two minutes of signal with 0.3 mV of wander, the middle eight seconds are within 0.04 mV
    (rms 0.006) and the middle four within 0.001 mV; the outermost second carries what no ten seconds can know.

    ``rate`` is a whole number of Hz, lower or higher than ``p.rate`` (100–1000 Hz in practice). Raises ValueError if
    a rate is not whole or the array's shape does not fit.
    """
    from scipy import fft  # a tenth of a second, which a command that filters nothing need not wait

    if windows.ndim != 3:
        raise ValueError(f"windows must have the shape (batch, leads, samples), not {windows.shape}.")
    batch, leads, n = windows.shape
    s = _steps(n, rate, p)
    pad, pad_out, n_out, length, length_out, mask = s.pad, s.pad_out, s.samples_out, s.length, s.length_out, s.mask

    rows = windows.reshape(batch * leads, n)
    out = np.empty((batch * leads, n_out), np.float32)
    chunk = max(1, _CHUNK_BYTES // (4 * length))
    padded = np.empty((min(chunk, len(rows)), length), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf and the like: NaN is what is promised
        for first in range(0, len(rows), chunk):
            block = rows[first : first + chunk]
            x = padded[: len(block)]
            x[:, pad : pad + n] = block
            if pad:
                np.subtract(2 * x[:, pad : pad + 1], x[:, 2 * pad : pad : -1], out=x[:, :pad])
                last = pad + n - 1
                np.subtract(2 * x[:, last : last + 1], x[:, last - 1 : last - 1 - pad : -1], out=x[:, last + 1 :])
            spectrum = fft.rfft(x, axis=-1, workers=1)[:, : mask.size]
            spectrum *= mask
            y = fft.irfft(spectrum, length_out, axis=-1, overwrite_x=True, workers=1)
            out[first : first + chunk] = y[:, pad_out : pad_out + n_out]
    prepared = out.reshape(batch, leads, n_out)
    for i, bands in enumerate(p.bands):
        prepared[:, i] = _flatten(prepared[:, i], p.rate, bands)
    return prepared


def _flatten(x: FloatArray, rate: float, bands: tuple[tuple[float, float], ...]) -> FloatArray:
    """(B, T) of one lead, the magnitude within each band drawn as a straight line between its ends' own.

    The phase stays, and where bands overlap the last one counts: step 5 of the published pipeline, held against
    `training.importers.reference_preprocessing.flatten` by a test.
    """
    if not bands:
        return x
    from scipy import fft

    n = x.shape[-1]
    spectrum = fft.rfft(x, axis=-1, workers=1)
    magnitude, direction = np.abs(spectrum), np.exp(1j * np.angle(spectrum))
    for start, end in bands:
        first, last = max(0, ceil(start * n / rate)), min(floor(end * n / rate), n // 2 - 1)
        if first >= last:
            continue
        share = np.linspace(0.0, 1.0, last - first + 1, dtype=np.float32)
        line = magnitude[:, [first]] * (1 - share) + magnitude[:, [last]] * share
        spectrum[:, first : last + 1] = line * direction[:, first : last + 1]
    flat: FloatArray = fft.irfft(spectrum, n, axis=-1, workers=1).astype(np.float32)
    return flat


def _whole(value: float, what: str) -> int:
    whole = round(value)
    if whole < 1 or abs(whole - value) > 1e-9 * whole:
        raise ValueError(f"{what} must be a whole positive number, not {value:g}; resample the windows first.")
    return whole


@lru_cache(maxsize=64)
def _mask(rate: int, length: int, length_out: int, p: Preprocessing) -> FloatArray:
    """The real factor of every bin that both spectra have, gain and the transforms' scales included."""
    bins = min(length, length_out) // 2 + 1
    f = np.arange(bins, dtype=np.float64) * (rate / length)
    nyquist = min(float(rate), p.rate) / 2
    edge = np.clip((f / nyquist - ROLL_OFF) / (1 - ROLL_OFF), 0.0, 1.0)
    mask = 0.5 + 0.5 * np.cos(np.pi * edge)
    if p.highpass > 0:
        # |H|² of a second-order Butterworth: what filtering forwards and backwards with it gives.
        mask *= f**4 / (f**4 + p.highpass**4)
    for line in p.notches:
        if line < nyquist:
            # Gaussian edges: half the amplitude at ± notch_width, and the least ringing after a sharp QRS or spike.
            mask *= -np.expm1(-np.log(2.0) * ((f - line) / p.notch_width) ** 2)
    result = (mask * (p.gain * length_out / length)).astype(np.float32)
    result.setflags(write=False)
    return result
