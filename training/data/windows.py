"""Windows of one recording: cut and preprocessed as a live one, each with its labels and its quality."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import LEADS
from agent.core.labels import index_of
from agent.core.leads import LEAD_INDEX
from agent.core.preprocessing import Preprocessing, prepare
from training.data.checks import Quality, quality
from training.data.recording import Labels, Recording, set_labels
from training.defaults import STEP_SECONDS

COUNTS_PER_MV = 1000.0
"""Stored in steps of 1 µV: a fifth of a monitor's own step, and 16 bits reach to ±32.767 mV."""
MOST = np.iinfo(np.int16).max

_AT_ONCE = 64
"""Windows that are cut and preprocessed together, so that a day of Holter needs no second copy."""
_TRANSIENT = ("Premature ventricular complex", "Premature atrial complex", "Ventricular tachycardia")
"""Said of a whole recording longer than one window, these need not be in each window of it."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedWindow:
    """One window as the table stores it."""

    start: float
    """Seconds into the recording."""
    mask: NDArray[np.bool_]
    """(12,): measured leads."""
    rows: NDArray[np.int16]
    """(mask.sum(), T) in µV, in the order of ``LEADS``."""
    labels: Labels
    quality: Quality


def window_starts(recording: Recording, seconds: float, step: float = STEP_SECONDS) -> NDArray[np.int64]:
    """First sample of each whole window of the recording, every ``step`` seconds."""
    length = round(seconds * recording.rate)
    return np.arange(0, recording.signal.shape[1] - length + 1, max(1, round(step * recording.rate)))


def window_labels(recording: Recording, start: float, seconds: float) -> Labels:
    """(77,) labels of the window that begins ``start`` seconds into the recording."""
    if recording.annotations is not None:
        return recording.annotations.rule(recording.annotations, start, seconds)
    labels = recording.labels.copy()
    if recording.seconds >= seconds + STEP_SECONDS:
        for name in _TRANSIENT:
            if labels[index_of(name)] == 1:
                set_labels(labels, -1, name)
    return labels


def prepare_windows(recording: Recording, p: Preprocessing, step: float = STEP_SECONDS) -> Iterator[PreparedWindow]:
    """The recording's windows in order.

    Each is cut at the device's rate and preprocessed by itself, exactly as on the ward. A lead with an invalid sample
    in a window is missing from that window; a window without any lead is left out.
    """
    starts = window_starts(recording, p.seconds, step)
    length = round(p.seconds * recording.rate)
    order = sorted(range(len(recording.leads)), key=lambda i: LEAD_INDEX[recording.leads[i]])
    leads = [recording.leads[i] for i in order]
    columns = [LEAD_INDEX[lead] for lead in leads]
    for first in range(0, len(starts), _AT_ONCE):
        some = starts[first : first + _AT_ONCE]
        cut = np.stack([recording.signal[order, s : s + length] for s in some])  # (windows, leads, n)
        valid: NDArray[np.bool_] = np.all(np.isfinite(cut), axis=2)
        rows = prepare(cut[valid][:, None], recording.rate, p)[:, 0] * np.float32(COUNTS_PER_MV)
        np.rint(rows, out=rows)
        ends = np.cumsum(valid.sum(axis=1))
        for k, (s, end) in enumerate(zip(some.tolist(), ends.tolist(), strict=True)):
            mask = np.zeros(len(LEADS), bool)
            mask[columns] = valid[k]
            own = rows[end - int(mask.sum()) : end]
            if not len(own):
                continue
            clipped = int(np.count_nonzero(np.abs(own) > MOST))
            start = s / recording.rate
            yield PreparedWindow(
                start=start,
                mask=mask,
                rows=np.clip(own, -MOST, MOST).astype(np.int16),
                labels=window_labels(recording, start, p.seconds),
                quality=quality(cut[k], leads, own / np.float32(COUNTS_PER_MV), mask, clipped),
            )
