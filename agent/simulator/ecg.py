"""Our own twelve-lead ECG: for golden windows, for the demo where there are no recordings, and for load. No patient's.

The heart is a dipole whose vector is a sum of Gaussians per beat (McSharry 2003; Sameni 2007), seen from eight leads
through Dower's matrix (1980); III, aVR, aVL and aVF follow from I and II, so Einthoven's and Goldberger's identities
hold to the last bit. Everything is drawn from the seed: the same arguments give the same strip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from agent.core.ecg import LEADS, FloatArray, Lead, Provenance
from agent.core.leads import LEAD_INDEX, complete

_Array = NDArray[np.float64]


class Rhythm(StrEnum):
    """What the strip shows."""

    SINUS = "sinus"
    BRADYCARDIA = "bradycardia"
    """Sinus, 36–48/min."""
    TACHYCARDIA = "tachycardia"
    """Sinus, 110–140/min."""
    AFIB = "afib"
    """Atrial fibrillation, ventricular rate 75–120/min."""
    VT = "vt"
    """Monomorphic ventricular tachycardia, 150–200/min, with dissociated P waves."""
    VF = "vf"
    ASYSTOLE = "asystole"
    PACED = "paced"
    """Ventricular pacing: a spike before each wide QRS."""
    NOISE = "noise"
    """Sinus rhythm under muscle and motion artefact."""
    LEAD_OFF = "lead_off"
    """Sinus rhythm; now and then the LA electrode is off, when a monitor has II alone: the other leads are NaN."""


INDEPENDENT: tuple[Lead, ...] = (Lead.I, Lead.II, Lead.V1, Lead.V2, Lead.V3, Lead.V4, Lead.V5, Lead.V6)

_DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
"""The eight independent leads from the vector (x to the left, y to the feet, z to the back)."""

_FIBRILLATION = np.array([0.25, 0.55, 1.0, 0.65, 0.4, 0.25, 0.2, 0.2])
"""Size of fibrillatory waves in the eight leads: V1 looks at the right atrium."""


_RATES: dict[Rhythm, tuple[float, float]] = {
    Rhythm.SINUS: (62.0, 84.0),
    Rhythm.BRADYCARDIA: (36.0, 46.0),
    Rhythm.TACHYCARDIA: (112.0, 138.0),
    Rhythm.AFIB: (80.0, 115.0),
    Rhythm.VT: (155.0, 195.0),
    Rhythm.PACED: (60.0, 75.0),
}


@dataclass(frozen=True, slots=True)
class _Wave:
    """One Gaussian of a beat."""

    at: float
    """Seconds from the R peak."""
    width: float
    """Standard deviation, seconds."""
    vector: tuple[float, float, float]
    """mV."""


# A left ventricle of ordinary size and position: axis about 60°, transition between V3 and V4.
_QRS = (
    _Wave(-0.021, 0.008, (-0.16, -0.10, -0.26)),  # the septum, from left to right
    _Wave(0.0, 0.0115, (1.05, 0.92, 0.46)),  # the free walls
    _Wave(0.024, 0.0095, (-0.22, -0.20, 0.36)),  # the base, last
)
# Out of the left ventricle's inferior wall: right bundle branch block form, superior axis.
_QRS_VENTRICULAR = (
    _Wave(-0.030, 0.026, (-0.25, -0.75, -0.75)),
    _Wave(0.028, 0.033, (-0.75, -0.95, -0.35)),
)
# Out of the right ventricle's apex: left bundle branch block form, superior axis.
_QRS_PACED = (
    _Wave(-0.028, 0.024, (0.65, -0.65, 0.75)),
    _Wave(0.030, 0.030, (0.95, -0.80, 0.55)),
)


@dataclass(frozen=True, slots=True)
class _Person:
    """What differs from one to another."""

    size: float
    p_size: float
    t_size: float
    pr: float
    """P peak to R peak, seconds."""
    qtc: float
    """Fridericia's, seconds."""
    turn: _Array
    """(3, 3) rotation of the heart in the chest."""
    breaths: float
    """Hz."""


def synthesize(
    rhythm: Rhythm,
    seconds: float,
    rate: float,
    leads: Sequence[Lead] = LEADS,
    seed: int = 0,
    *,
    heart_rate: float | None = None,
    noise: float = 1.0,
    mains: float = 50.0,
) -> FloatArray:
    """A strip of ``rhythm``: (len(leads), round(seconds · rate)) in mV, float32; NaN only where an electrode is off.

    ``heart_rate`` (per minute) replaces the one drawn from the rhythm's range; ``noise`` scales baseline wander, mains
    hum (at ``mains`` Hz) and muscle noise, 1 being a quiet patient on a monitor. Minutes are made at once, without a
    seam: about 0.1 s of CPU per minute of signal. Raises ValueError for less than a second or under 100 Hz.
    """
    if seconds < 1 or rate < 100:
        raise ValueError("A synthetic strip needs at least one second at 100 Hz or more.")
    rng = np.random.default_rng([seed, *rhythm.value.encode()])
    n = round(seconds * rate)
    person = _person(rng)
    independent = _heart(rhythm, n, rate, person, rng, heart_rate)
    independent += noise * _disturbance(n, rate, person, mains, rng)
    if rhythm is Rhythm.NOISE:
        independent += _artefact(n, rate, rng)

    out = np.zeros((len(LEADS), n), np.float32)
    provenance = [Provenance.MISSING] * len(LEADS)
    for lead, values in zip(INDEPENDENT, independent, strict=True):
        out[LEAD_INDEX[lead]] = values
        provenance[LEAD_INDEX[lead]] = Provenance.MEASURED
    complete(out, provenance)
    if rhythm is Rhythm.LEAD_OFF:
        spans = max(1, round(seconds / 60))
        for k in range(spans):
            off = slice(round((k + 0.3) / spans * n), round((k + 0.7) / spans * n))
            out[[i for i, lead in enumerate(LEADS) if lead is not Lead.II], off] = np.nan
    return np.ascontiguousarray(out[[LEAD_INDEX[lead] for lead in leads]])


def _person(rng: np.random.Generator) -> _Person:
    around_z, around_y = np.radians(rng.normal(0, 9)), np.radians(rng.normal(0, 7))
    c, s = np.cos(around_z), np.sin(around_z)
    frontal = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    c, s = np.cos(around_y), np.sin(around_y)
    transverse = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return _Person(
        size=float(rng.uniform(0.85, 1.15)),
        p_size=float(rng.uniform(0.9, 1.2)),
        t_size=float(rng.uniform(0.85, 1.15)),
        pr=float(rng.uniform(0.135, 0.165)),
        qtc=float(rng.uniform(0.395, 0.425)),
        turn=frontal @ transverse,
        breaths=float(rng.uniform(0.2, 0.3)),
    )


def _heart(
    rhythm: Rhythm, n: int, rate: float, person: _Person, rng: np.random.Generator, heart_rate: float | None
) -> _Array:
    """(8, n): the leads without any disturbance."""
    if rhythm is Rhythm.ASYSTOLE:
        return np.zeros((len(INDEPENDENT), n))
    if rhythm is Rhythm.VF:
        return _ventricular_fibrillation(n, rate, rng)

    drawn = float(rng.uniform(*_RATES.get(rhythm, _RATES[Rhythm.SINUS])))
    interval = 60.0 / (drawn if heart_rate is None else heart_rate)
    end = n / rate
    dipole = np.zeros((3, n))
    atria = np.zeros((len(INDEPENDENT), n))
    if rhythm is Rhythm.AFIB:
        # Independent intervals: the next says nothing of the one after. The AV node lets none through under .3 s.
        beats = _beats(end, rng, lambda: max(0.3, float(interval * rng.lognormal(-0.036, 0.27))))
        _add_beats(dipole, rate, beats, _QRS, person, rng)
        atria = _FIBRILLATION[:, None] * _f_waves(n, rate, rng)
    elif rhythm is Rhythm.VT:
        beats = _beats(end, rng, lambda: float(interval * (1 + rng.normal(0, 0.008))))
        _add_beats(dipole, rate, beats, _QRS_VENTRICULAR, person, rng, size=1.2, discordant=0.4)
        _add_atria(dipole, rate, _beats(end, rng, lambda: float(0.7 * (1 + rng.normal(0, 0.02)))), person)
    elif rhythm is Rhythm.PACED:
        beats = _beats(end, rng, lambda: interval)
        _add_beats(dipole, rate, beats, _QRS_PACED, person, rng, discordant=0.4)
        for beat in beats:
            # Bipolar, a few tenths of a millivolt after the monitor's own band, which makes it milliseconds wide.
            _add(dipole, rate, beat - 0.095, max(0.0008, 0.45 / rate), (0.4, 0.8, -0.2))
    else:
        beats = _sinus_beats(end, interval, person, rng)
        _add_beats(dipole, rate, beats, _QRS, person, rng)
        _add_atria(dipole, rate, [beat - person.pr for beat in beats], person)

    # Breathing turns the heart and fills the lungs: the complexes rise and fall by a few per cent.
    breath = np.sin(2 * np.pi * person.breaths * np.arange(n) / rate + rng.uniform(0, 2 * np.pi))
    return np.asarray(_DOWER @ (person.size * person.turn @ (dipole * (1 + 0.03 * breath))) + atria)


def _sinus_beats(end: float, interval: float, person: _Person, rng: np.random.Generator) -> list[float]:
    """Breathing (respiratory sinus arrhythmia), the 0.1 Hz of blood pressure, and what is left over."""
    phase = rng.uniform(0, 2 * np.pi, 2)
    times = [-2.0 + float(rng.uniform(0, 1))]
    while times[-1] < end + 1.5:
        vagal = 0.022 * np.sin(2 * np.pi * person.breaths * times[-1] + phase[0])
        pressure = 0.016 * np.sin(2 * np.pi * 0.095 * times[-1] + phase[1])
        times.append(times[-1] + float(interval * (1 + vagal + pressure + rng.normal(0, 0.008))))
    return times


def _beats(end: float, rng: np.random.Generator, interval: Callable[[], float]) -> list[float]:
    """R peaks from before the strip to after it."""
    times = [-2.0 + float(rng.uniform(0, 1))]
    while times[-1] < end + 1.5:
        times.append(times[-1] + interval())
    return times


def _add(dipole: _Array, rate: float, at: float, width: float, vector: Sequence[float] | _Array) -> None:
    """Add one Gaussian wave, out to where it is below a thousandth of its height."""
    first = max(0, round((at - 4 * width) * rate))
    last = min(dipole.shape[1], round((at + 4 * width) * rate) + 1)
    if first < last:
        wave = np.exp(-0.5 * ((np.arange(first, last) / rate - at) / width) ** 2)
        dipole[:, first:last] += np.asarray(vector)[:, None] * wave


def _add_beats(
    dipole: _Array,
    rate: float,
    beats: Sequence[float],
    qrs: Sequence[_Wave],
    person: _Person,
    rng: np.random.Generator,
    *,
    size: float = 1.0,
    discordant: float = 0.0,
) -> None:
    """QRS and T of every beat; ``discordant`` > 0: the T wave is so much of the QRS, turned about."""
    area = np.sum([w.width * np.array(w.vector) for w in qrs], axis=0) / sum(w.width for w in qrs)
    t_vector = -discordant * area if discordant else np.array([0.30, 0.25, -0.16]) * person.t_size
    for before, beat in pairwise(beats):
        r = float(size * (1 + rng.normal(0, 0.012)))
        for wave in qrs:
            _add(dipole, rate, beat + wave.at, wave.width, r * np.array(wave.vector))
        # Fridericia: QT grows with the cube root of the interval before it. The T wave rises slowly and falls fast.
        qt = person.qtc * float(np.cbrt(min(beat - before, 1.6)))
        onset = qrs[0].at - 2.4 * qrs[0].width
        peak = beat + onset + qt - 0.085 * float(np.cbrt(min(beat - before, 1.2)))
        narrow = float(np.cbrt(min(beat - before, 1.0)))
        _add(dipole, rate, peak - 0.045 * narrow, 0.045 * narrow, 0.42 * t_vector)
        _add(dipole, rate, peak, 0.030 * narrow, 0.72 * t_vector)


def _add_atria(dipole: _Array, rate: float, peaks: Sequence[float], person: _Person) -> None:
    """P waves: the right atrium to the front, then the left to the back, so V1 is biphasic."""
    for peak in peaks:
        _add(dipole, rate, peak - 0.016, 0.016, np.array([0.035, 0.075, -0.055]) * person.p_size)
        _add(dipole, rate, peak + 0.016, 0.017, np.array([0.060, 0.060, 0.045]) * person.p_size)


def _band(n: int, rate: float, centre: float, width: float, rng: np.random.Generator, rows: int = 1) -> _Array:
    """(rows, n) Gaussian noise of unit power around ``centre`` Hz."""
    length = fft.next_fast_len(n, real=True)
    f = np.fft.rfftfreq(length, 1 / rate)
    shape = np.exp(-0.5 * ((f - centre) / width) ** 2)
    white = rng.standard_normal((rows, f.size)) + 1j * rng.standard_normal((rows, f.size))
    x = np.asarray(fft.irfft(white * shape, length, axis=-1)[:, :n], np.float64)
    return np.asarray(x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True)))


def _f_waves(n: int, rate: float, rng: np.random.Generator) -> _Array:
    """(n,) fibrillatory waves as V1 shows them: 4–9 Hz, wandering in rate and size, steeper on one side."""
    rate_now = rng.uniform(5.2, 7.2) + 0.9 * _band(n, rate, 0.0, 1.2, rng)[0]
    phase = 2 * np.pi * np.cumsum(np.clip(rate_now, 4.0, 9.0)) / rate + rng.uniform(0, 2 * np.pi)
    size = 1 + 0.4 * np.clip(_band(n, rate, 0.0, 1.0, rng)[0], -2, 2)
    waves = size * (np.sin(phase) + 0.3 * np.sin(2 * phase + 0.8)) + 0.8 * _band(n, rate, 6.5, 1.3, rng)[0]
    return np.asarray(rng.uniform(0.06, 0.09) * waves)


def _ventricular_fibrillation(n: int, rate: float, rng: np.random.Generator) -> _Array:
    """(8, n): waves of 3–7 Hz whose rate, size and direction wander; coarse."""
    rate_now = rng.uniform(4.3, 5.6) + 0.5 * _band(n, rate, 0.0, 0.6, rng)[0]
    phase = 2 * np.pi * np.cumsum(np.clip(rate_now, 3.0, 7.0)) / rate
    turns = 1.3 * _band(n, rate, 0.0, 0.5, rng, 3)
    size = rng.uniform(0.28, 0.42) * (1 + 0.35 * np.clip(_band(n, rate, 0.0, 0.4, rng, 3), -2, 2))
    waves = size * np.sin(phase + turns) + 0.10 * _band(n, rate, 5.0, 1.2, rng, 3)
    return np.asarray(_DOWER @ (np.array([[0.8], [0.9], [0.6]]) * waves))


def _disturbance(n: int, rate: float, person: _Person, mains: float, rng: np.random.Generator) -> _Array:
    """(8, n): what a quiet patient's electrodes add: wander of breathing and skin, mains hum, muscle."""
    t = np.arange(n) / rate
    rows = len(INDEPENDENT)
    breath = np.sin(2 * np.pi * person.breaths * t + rng.uniform(0, 0.8, (rows, 1)))
    wander = rng.uniform(0.01, 0.05, (rows, 1)) * breath + 0.02 * _band(n, rate, 0.0, 0.12, rng, rows)
    hum = rng.uniform(0.001, 0.005, (rows, 1)) * np.sin(2 * np.pi * mains * t + rng.uniform(0, 2 * np.pi))
    muscle = rng.uniform(0.003, 0.008, (rows, 1)) * _band(n, rate, 45.0, 25.0, rng, rows)
    return np.asarray(wander + hum + muscle)


def _artefact(n: int, rate: float, rng: np.random.Generator) -> _Array:
    """(8, n): a patient who shivers and moves: muscle of half a millivolt, electrodes that slide by millivolts."""
    rows = len(INDEPENDENT)
    restless = np.clip(0.8 + 0.5 * _band(n, rate, 0.0, 0.3, rng)[0], 0.3, 2.0)
    return np.asarray(
        restless * (0.30 * _band(n, rate, 40.0, 25.0, rng, rows) + 0.6 * _band(n, rate, 1.5, 1.5, rng, rows))
    )
