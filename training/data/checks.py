"""What makes a recording unusable, and what the table notes of each window's quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import LEADS, FloatArray, Lead
from agent.core.leads import FROM_I_AND_II, LEAD_INDEX
from training.data.recording import Recording, Rejected

FLAT = 1e-3
"""mV from least to most: a lead that moves less has no electrode."""
LARGEST, LARGEST_CONTINUOUS = 20.0, 200.0
"""mV between the 1st and the 99th percentile of a lead. No heart comes near; a lead in µV declared as mV is far above.
Artefacts of an intensive-care recording reach 70 mV, so there the limit only catches the unit."""
SMALLEST = 0.02
"""mV, the same in every lead of a short recording: then volts were declared as mV, or nothing was connected."""
NOT_EINTHOVEN = 0.5
"""Root mean square of a limb lead's difference from what I and II make of it, relative to the largest of the three: a
swapped lead gives about 1. Rounding, and devices that measure the leads one after another, stay under 0.35 in every
open collection at hand."""
LEAST_DIFFERENCE = 0.1
"""mV: below it a difference is noise."""
SATURATED = 0.02
"""Share of a window's samples at the lead's own extreme that says that the amplifier was at its limit."""
NOISE = 1.4826 / np.sqrt(6.0)
"""Median of absolute second differences to standard deviation of white noise: 1.4826 for the median (Gaussian), and a
second difference (1, −2, 1) has six times the variance. The median leaves the few steep samples of a QRS out."""


def check(recording: Recording, seconds: float) -> Rejected | None:
    """Why a recording cannot be used at all, ``seconds`` being a window's length; None where it can.

    Continuous recordings may be invalid or flat for a while: that is judged window by window.
    """

    def reject(reason: str, detail: str) -> Rejected:
        return Rejected(recording.source, recording.record, reason, detail)

    if not recording.leads:
        return reject("no_leads", "; ".join(recording.notes) or "none of the twelve leads")
    if recording.rate < 1 or recording.rate != round(recording.rate):
        return reject("rate", f"{recording.rate:g} samples per second: not a whole number, resample it first")
    if recording.seconds < seconds:
        return reject("too_short", f"{recording.seconds:.1f} s; a window has {seconds:g} s")
    valid = np.isfinite(recording.signal)
    if not valid.any():
        return reject("invalid", "no valid sample in any lead")
    if not recording.continuous and not valid.all():
        return reject("invalid", f"{np.mean(~valid):.1%} of the samples are invalid")

    size = _sizes(recording.signal, valid)
    limit = LARGEST_CONTINUOUS if recording.continuous else LARGEST
    if large := _named(recording, size > limit):
        return reject("units", f"{large}: {size.max():.0f} mV from the 1st to the 99th percentile; µV declared as mV?")
    if not recording.continuous:
        if flat := _named(recording, np.ptp(recording.signal, axis=1) < FLAT):
            return reject("flat", f"no signal in {flat}")
        if size.max() < SMALLEST:
            return reject("units", f"no lead has more than {size.max():.3f} mV; volts declared as mV?")
        apart = {lead: d for lead, d in _differences(recording).items() if d[0] > NOT_EINTHOVEN}
        if wrong := [lead for lead, (_, mv) in apart.items() if mv > LEAST_DIFFERENCE]:
            worst = max(apart[lead][1] for lead in wrong)
            return reject(
                "leads", f"{', '.join(wrong)} differ by {worst:.2f} mV rms from what I and II make of them: swapped?"
            )
    return None


def _named(recording: Recording, which: NDArray[np.bool_]) -> str:
    return ", ".join(lead for lead, is_it in zip(recording.leads, which, strict=True) if is_it)


def _sizes(signal: FloatArray, valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(leads,) mV from the 1st to the 99th percentile of at most some ten thousand samples of each; 0 without any."""
    step = max(1, signal.shape[1] // 10_000)
    sizes = np.zeros(len(signal))
    for i, (row, there) in enumerate(zip(signal[:, ::step], valid[:, ::step], strict=True)):
        if there.any():
            low, high = np.percentile(row[there], (1, 99))
            sizes[i] = high - low
    return sizes


def _differences(recording: Recording) -> dict[Lead, tuple[float, float]]:
    """Limb lead to its difference from Einthoven's and Goldberger's laws, relative and in mV rms, offsets apart."""
    rows = {
        lead: row - np.median(row)
        for lead, row in zip(recording.leads, recording.signal, strict=True)
        if lead in FROM_I_AND_II or lead in {Lead.I, Lead.II}
    }
    if Lead.I not in rows or Lead.II not in rows:
        return {}
    sizes = {lead: float(np.sqrt(np.mean(np.square(row)))) for lead, row in rows.items()}
    out = {}
    for lead, (of_i, of_ii) in FROM_I_AND_II.items():
        if lead in rows:
            rest = rows[lead] - (of_i * rows[Lead.I] + of_ii * rows[Lead.II])
            difference = float(np.sqrt(np.mean(np.square(rest))))
            out[lead] = difference / max(sizes[lead], sizes[Lead.I], sizes[Lead.II], 1e-9), difference
    return out


@dataclass(frozen=True, slots=True)
class Quality:
    """What the table notes of one window. Bit i of a set of leads is ``LEADS[i]``."""

    flat: int
    """Leads that hardly move."""
    saturated: int
    """Leads that stand at an extreme of theirs."""
    missing: int
    """Invalid samples, over the leads of the recording."""
    clipped: int
    """Preprocessed samples beyond what 16 bits of 1 µV hold (±32.767 mV)."""
    noise: float
    """µV: median over the leads of the white noise that second differences show."""
    einthoven: float | None
    """µV rms: the largest difference of III, aVR, aVL or aVF from what I and II make of it; None where not to check."""


def quality(
    cut: FloatArray, leads: Sequence[Lead], prepared: FloatArray, mask: NDArray[np.bool_], clipped: int
) -> Quality:
    """Quality of a window.

    Args:
        cut: (len(leads), n) raw mV, NaN = invalid.
        leads: In the order of ``LEADS``.
        prepared: (mask.sum(), T) mV after preprocessing.
        mask: (12,) leads that are in ``prepared``.
        clipped: Samples of it that do not fit.
    """
    valid = np.all(np.isfinite(cut), axis=1)
    low, high = np.min(cut, axis=1), np.max(cut, axis=1)  # NaN where a sample is invalid
    moves = high - low
    at_limit = np.mean((cut == low[:, None]) | (cut == high[:, None]), axis=1)
    second = np.abs(np.diff(prepared, 2, axis=1))
    return Quality(
        flat=_bits(leads, valid & (moves < FLAT)),
        saturated=_bits(leads, valid & (moves >= FLAT) & (at_limit > SATURATED)),
        missing=int(np.count_nonzero(~np.isfinite(cut))),
        clipped=clipped,
        noise=round(float(np.median(np.median(second, axis=1))) * NOISE * 1000.0, 2),
        einthoven=_limb_error(prepared, mask),
    )


def _bits(leads: Sequence[Lead], which: NDArray[np.bool_]) -> int:
    return sum(1 << LEAD_INDEX[lead] for lead, is_it in zip(leads, which, strict=True) if is_it)


def _limb_error(prepared: FloatArray, mask: NDArray[np.bool_]) -> float | None:
    row = {LEADS[i]: prepared[k] for k, i in enumerate(np.flatnonzero(mask))}
    if Lead.I not in row or Lead.II not in row:
        return None
    errors = [
        float(np.sqrt(np.mean(np.square(row[lead] - (of_i * row[Lead.I] + of_ii * row[Lead.II])))))
        for lead, (of_i, of_ii) in FROM_I_AND_II.items()
        if lead in row
    ]
    return round(max(errors) * 1000.0, 2) if errors else None
