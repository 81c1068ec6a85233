"""Windows of one recording: cut and preprocessed as a live one, each with its labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import LEADS, FloatArray
from agent.core.filters import Preprocessing, prepare
from agent.core.labels import index_of
from agent.core.leads import LEAD_INDEX
from training.data.annotations import cpsc2021_labels, mitdb_labels
from training.data.readers import READERS
from training.data.recording import Labels, Recording, Rejected, set_labels

STEP_SECONDS = 5.0
"""From one window to the next, as on the ward."""

_TRANSIENT = ("Premature ventricular complex", "Premature atrial complex", "Ventricular tachycardia")
"""Said of a whole recording longer than one window, these need not be in each window of it."""


def window_starts(recording: Recording, seconds: float) -> NDArray[np.int64]:
    """First sample of each whole window of the recording, every ``STEP_SECONDS``."""
    length, step = round(seconds * recording.rate), round(STEP_SECONDS * recording.rate)
    return np.arange(0, recording.signal.shape[1] - length + 1, step)


def window_labels(recording: Recording, start: float, seconds: float) -> Labels:
    """(77,) labels of the window that begins ``start`` seconds into the recording."""
    if recording.annotations is not None:
        by_source = {"mitdb": mitdb_labels, "cpsc2021_af": cpsc2021_labels}
        return by_source[recording.source](recording.annotations, start, seconds)
    labels = recording.labels.copy()
    if recording.seconds >= seconds + STEP_SECONDS:
        for name in _TRANSIENT:
            if labels[index_of(name)] == 1:
                set_labels(labels, -1, name)
    return labels


def check(recording: Recording, seconds: float) -> Rejected | None:
    """Why a recording cannot be used at all; None where it can."""

    def reject(reason: str, detail: str) -> Rejected:
        return Rejected(recording.source, recording.record, reason, detail)

    if recording.seconds < seconds:
        return reject("too_short", f"{recording.seconds:.1f} s; a window has {seconds:g} s")
    valid = np.isfinite(recording.signal)
    if not valid.any():
        return reject("invalid", "no valid sample in any lead")
    if not recording.continuous:
        if not valid.all():
            return reject("invalid", f"{np.mean(~valid):.1%} of the samples are invalid")
        flat = [lead for lead, row in zip(recording.leads, recording.signal, strict=True) if np.ptp(row) < 1e-3]
        if flat:
            return reject("flat", f"no signal in {', '.join(flat)}")
        if float(np.max(np.abs(recording.signal))) > 30.0:
            return reject("invalid", "more than 30 mV: the gain cannot be right")
    return None


def recordings(
    data: Path, sources: Iterable[str] = tuple(READERS), seconds: float = 10.0
) -> Iterator[Recording | Rejected]:
    """Every usable recording of the sources, and every unusable one with the reason. Duplicates are found later."""
    for source in sources:
        for read in READERS[source](data):
            if isinstance(read, Rejected):
                yield read
            else:
                yield check(read, seconds) or read


def prepare_windows(recording: Recording, p: Preprocessing) -> tuple[NDArray[np.int64], NDArray[np.bool_], FloatArray]:
    """The recording's windows: first samples (n,), leads (n, 12) and rows (sum of leads, T) of the network's input.

    Each is cut at the device's rate and preprocessed by itself, exactly as on the ward. A lead with an invalid sample
    in a window is missing from that window; a window without any lead is left out.
    """
    starts = window_starts(recording, p.seconds)
    length = round(p.seconds * recording.rate)
    order = sorted(range(len(recording.leads)), key=lambda i: LEAD_INDEX[recording.leads[i]])
    columns = [LEAD_INDEX[recording.leads[i]] for i in order]
    signal = recording.signal[order]
    cut = np.stack([signal[:, s : s + length] for s in starts])
    valid: NDArray[np.bool_] = np.all(np.isfinite(cut), axis=2)
    kept = np.asarray(np.any(valid, axis=1))
    mask = np.zeros((len(starts), len(LEADS)), bool)
    mask[:, columns] = valid
    return starts[kept], mask[kept], prepare(cut[valid][:, None], recording.rate, p)[:, 0]
