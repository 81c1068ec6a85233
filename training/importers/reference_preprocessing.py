"""The preprocessing of the published pipeline, for parity with it and for evaluating the published weights only.

The public DeepECG code scales and cleans whole batches: the gain and the bands that are flattened come from the batch's
mean spectra. **So what one record becomes depends on the records beside it** (one and the same ECG got a gain of .00146
alone and of .00435 in a batch of six). Nothing trained here uses it; `agent.core.preprocessing` serves training and
ward. It is written after its description in deepecg.md, part 3, whose steps the docstrings name, and held against
tensors of the public code.

    made = process({"rec1": signal, "rec2": other})       # reference-batch mode; (12, T) each
    cohort = Cohort.fit(signals, monitor="MAC 5500")      # cohort mode: fitted once per monitor model, kept as JSON,
    cohort.apply(window[None])                            # then every window comes out the same, alone or not

The result is in mV; DeepECG-SL takes it multiplied by 1/0.0048, DeepECG-SSL as it is. Unlike the public code this
leaves its input as it was, and a record that cannot be used is refused by name while the others are processed.

Shapes in comments: B records, L = 12 leads, T = 2500 samples, F = 2500 bins of .1 Hz.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.signal import medfilt

from agent.core.ecg import LEADS, FloatArray

RATE, SAMPLES = 250, 2500
POWER = 3.003154
"""Mean magnitude of lead I's spectrum in PTB-XL, over records and all bins; to this each batch is scaled."""
PEAKS_FROM, TREND_FROM = 20.0, 30.0
"""Hz: where peaks are looked for, and where the trend begins that they are cut back to."""
WINDOW = 50
"""Bins of the sliding window, 5 Hz."""
DEVIATIONS, HARMONIC_DEVIATIONS = 5.0, 3.25
"""How far above its window's mean a bin stands out: in general, and near a multiple of a peak."""
MERGED, WIDENED = 1.0, 1.0
"""Hz: peaks this near are one range; how far a range is widened at both ends."""
MEDIAN, FRACTION = 5, 0.1
"""The trend: a running median over bins, then lowess (Cleveland 1979) over this fraction of them."""

Band: TypeAlias = tuple[float, float]
Array: TypeAlias = NDArray[Any]

FREQUENCIES = np.fft.fftfreq(SAMPLES, 1 / RATE)
FREQUENCIES.setflags(write=False)
_PEAK_BINS = np.flatnonzero(FREQUENCIES >= PEAKS_FROM)
_TREND_BINS = np.flatnonzero(FREQUENCIES >= TREND_FROM)


def load(signal: Array, name: str) -> NDArray[np.float64]:
    """Step 1: (12, T) or (T, 12) of any unit to (12, 2500), every (T // 2500)-th sample, **without anti-alias filter**.

    Missing limb leads are computed before, as `agent.core.leads.derive` does, by the same formulas.
    Raises ValueError, naming the record, where samples are missing, there are too few of them, or not twelve leads.
    """
    x = np.array(signal, np.float64)  # a copy
    if x.ndim == 2 and x.shape[0] != len(LEADS) and x.shape[1] == len(LEADS):
        x = x.T
    if x.ndim != 2 or x.shape[0] != len(LEADS):
        raise ValueError(f"{name} has the shape {np.shape(signal)}; give twelve leads, (12, samples)")
    if not np.isfinite(x).all():
        spoilt = [LEADS[i].value for i in np.flatnonzero(~np.isfinite(x).all(axis=1))]
        raise ValueError(f"{name} lacks samples in {', '.join(spoilt)}: the published pipeline takes none such")
    if x.shape[1] < SAMPLES:
        raise ValueError(f"{name} has {x.shape[1]} samples, and the published pipeline takes 2500 or more")
    x = x[:, :: x.shape[1] // SAMPLES]
    if x.shape[1] != SAMPLES:
        raise ValueError(f"{name} comes to {x.shape[1]} samples instead of 2500: cut it to a multiple of 2500 first")
    return np.ascontiguousarray(x)


def mean_spectrum(signals: Array) -> FloatArray:
    """(B, …, T) to (…, F): mean magnitude over the records, transformed in single precision as the public code does."""
    magnitude: FloatArray = np.abs(np.fft.fft(signals.astype(np.float32), axis=-1)).mean(axis=0)
    return magnitude


def scale_of(signals: Array) -> float:
    """Step 2: the batch's gain, from lead I of (B, L, T).

    Raises ValueError if lead I is silent.
    """
    power = mean_spectrum(signals[:, 0]).mean()
    if not power > 0:
        raise ValueError("lead I is silent in every record, so there is nothing to scale by")
    return float(POWER / power)


def peak_ranges(spectrum: FloatArray) -> tuple[Band, ...]:
    """Step 3: from where to where (Hz) lead I's mean spectrum (F) stands out.

    A bin is looked at once for every window that it is in, and the bar is lower near multiples of what was flagged
    before; so the order counts, and a range may come more than once, or with its ends exchanged.
    """
    s, f = spectrum[_PEAK_BINS], FREQUENCIES[_PEAK_BINS]
    windows = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(s, WINDOW))  # (1001, 50)
    mean, deviation = windows.mean(axis=1), windows.std(axis=1)
    high, low = (windows > (mean + np.float32(n) * deviation)[:, None] for n in (DEVIATIONS, HARMONIC_DEVIATIONS))
    harmonic = np.zeros(len(f), bool)
    peaks: list[int] = []
    flagged: set[int] = set()
    for window, offset in zip(*np.nonzero(low), strict=True):
        i = int(window + offset)
        if not (high[window, offset] or harmonic[i]):
            continue
        peaks.append(i)
        if i not in flagged:
            flagged.add(i)
            for ratio in (2, 3, 4):
                harmonic |= np.isclose(f, f[i] * ratio, rtol=0.05)
    if not peaks:
        return ()
    found = f[peaks]
    first = np.flatnonzero(np.concatenate([[True], np.diff(found) > MERGED]))
    last = np.append(first[1:], len(found)) - 1
    return tuple((float(a), float(b)) for a, b in zip(found[first], found[last], strict=True))


def trend(spectrum: FloatArray) -> tuple[FloatArray, NDArray[np.float64]]:
    """Step 4, first half: the running median of a lead's mean spectrum (F) from 30 Hz on (950), and lowess over it."""
    from statsmodels.nonparametric.smoothers_lowess import lowess

    median: FloatArray = medfilt(spectrum[_TREND_BINS], kernel_size=MEDIAN)
    smooth: NDArray[np.float64] = lowess(median, FREQUENCIES[_TREND_BINS], frac=FRACTION, return_sorted=False)  # type: ignore[no-untyped-call]
    return median, smooth


def crossings(spectrum: FloatArray, ranges: tuple[Band, ...]) -> tuple[Band, ...]:
    """Step 4, second half: where a lead's mean spectrum (F) crosses its trend on either side of each range's middle.

    Where it does not, the range's own end stands.
    """
    s, f = spectrum[_TREND_BINS], FREQUENCIES[_TREND_BINS]
    _, smooth = trend(spectrum)
    above, below = s > smooth, s < smooth
    # crosses[i]: between bins i - 1 and i.
    crosses = np.concatenate([[False], (above[:-1] & below[1:]) | (below[:-1] & above[1:])])
    at = np.flatnonzero(crosses)
    found = []
    for start, end in ranges:
        middle = int(np.argmin(np.abs(f - (start + end) / 2)))
        before, after = at[at <= middle], at[at > middle]
        low = float(f[before[-1]]) if before.size else start
        high = float(f[after[0] - 1]) if after.size else end
        found.append((low, high))
    return tuple(found)


def widened(bands: tuple[Band, ...]) -> tuple[Band, ...]:
    """Step 4, end: each band an Hz wider at both ends."""
    return tuple((start - WIDENED, end + WIDENED) for start, end in bands)


def flatten(signals: Array, bands: tuple[Band, ...]) -> FloatArray:
    """Step 5: in (B, T) of one lead the magnitude within each band becomes a straight line between its ends' own.

    The phase stays. Where bands overlap, the last one counts.
    """
    spectrum = np.fft.fft(signals.astype(np.float32), axis=-1)  # (B, F)
    magnitude, direction = np.abs(spectrum), np.exp(1j * np.angle(spectrum))
    half = SAMPLES // 2
    for start, end in bands:
        first = int(np.searchsorted(FREQUENCIES[:half], start, side="left"))
        last = min(int(np.searchsorted(FREQUENCIES[:half], end, side="right")) - 1, half - 1)
        if start >= end or first >= last:
            continue
        bins = np.arange(first, last + 1)
        share = (bins - first) / (last - first)
        line = magnitude[:, [first]] * (1 - share) + magnitude[:, [last]] * share  # (B, bins)
        spectrum[:, bins] = line * direction[:, bins]
        if first > 0:
            spectrum[:, -bins] = line * direction[:, -bins]
    out: FloatArray = np.fft.ifft(spectrum, axis=-1).real.astype(np.float32)
    return out


class Cohort(BaseModel):
    """Gain and bands, fitted on one batch and then fixed: what a bundle stores for one model of monitor.

    With it a record's result no longer depends on the records beside it, but it does on the ones of the fitting, and
    the transform takes whole windows of ten seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    monitor: str = ""
    """Whose recordings it was fitted on."""
    records: int = Field(ge=1)
    """How many of them."""
    factor: float = Field(gt=0)
    """mV per unit of the recordings."""
    bands: tuple[tuple[Band, ...], ...] = Field(min_length=len(LEADS), max_length=len(LEADS))
    """Hz, by lead, in the order in which they are flattened; none where nothing stood out."""

    @classmethod
    def fit(cls, signals: Array, monitor: str = "") -> Self:
        """Steps 2 to 4 on (B, 12, 2500) of any unit, B of hundreds for figures that hold for the next recording too.

        Raises ValueError if the shape is another, a sample is missing, or lead I is silent.
        """
        _check(signals)
        factor = scale_of(signals)
        scaled = signals * factor
        spectra = mean_spectrum(scaled)  # (L, F)
        ranges = peak_ranges(spectra[0])
        bands: list[tuple[Band, ...]] = [()] * len(LEADS)
        if ranges:
            # The public code takes each band once, in the order of a set of them; overlaps are decided by it.
            bands = [tuple(set(widened(crossings(spectrum, ranges)))) for spectrum in spectra]
        return cls(monitor=monitor, records=len(signals), factor=factor, bands=tuple(bands))

    def apply(self, signals: Array) -> FloatArray:
        """(B, 12, 2500) in the unit of the fitting to mV: step 2's gain and step 5, for each record by itself.

        Raises ValueError if the shape is another or a sample is missing.
        """
        _check(signals)
        scaled = signals * self.factor
        if not any(self.bands):
            plain: FloatArray = scaled.astype(np.float32)
            return plain
        return np.stack([flatten(scaled[:, i], bands) for i, bands in enumerate(self.bands)], axis=1)


def _check(signals: Array) -> None:
    if signals.ndim != 3 or signals.shape[1:] != (len(LEADS), SAMPLES) or not len(signals):
        raise ValueError(f"signals have the shape {signals.shape}; give (records, 12, 2500)")
    if len(spoilt := np.flatnonzero(~np.isfinite(signals).all(axis=(1, 2)))):
        raise ValueError(f"record {spoilt[0]} of the batch lacks samples; leave it out, or use process()")


@dataclass(frozen=True, slots=True, eq=False)
class Processed:
    """A batch in reference-batch mode."""

    signals: FloatArray
    """(B, 12, 2500) in mV, of the records in ``names``."""
    names: tuple[str, ...]
    refused: Mapping[str, str]
    """Why a record is not among them, by name."""
    cohort: Cohort
    """What was fitted on the batch."""


def process(records: Mapping[str, Array], monitor: str = "") -> Processed:
    """Steps 1 to 5 on one batch of records (12, T) by name.

    Raises ValueError if no record is left, or lead I is silent in all of them.
    """
    loaded: dict[str, NDArray[np.float64]] = {}
    refused: dict[str, str] = {}
    for name, signal in records.items():
        try:
            loaded[name] = load(signal, name)
        except ValueError as e:
            refused[name] = str(e)
    if not loaded:
        raise ValueError(f"no record of the batch can be used: {next(iter(refused.values()), 'it is empty')}")
    signals = np.stack(list(loaded.values()))
    cohort = Cohort.fit(signals, monitor)
    return Processed(cohort.apply(signals), tuple(loaded), refused, cohort)
