"""Tables of windows without files. Not a test file: a test's own processes run it by its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import FloatArray
from agent.core.preprocessing import Preprocessing
from training.data import Licence, WindowTable
from training.data.windows import COUNTS_PER_MV, MOST
from training.defaults import STEP_SECONDS


def in_memory(
    signals: FloatArray,
    lead_mask: NDArray[np.bool_],
    labels: NDArray[np.int8],
    patient: Sequence[str],
    *,
    sources: Sequence[str] = ("made",),
    preprocessing: Preprocessing | None = None,
    reports: Sequence[str] = (),
    **columns: Any,
) -> WindowTable:
    """A small table.

    Args:
        signals: (n, 12, T) mV; what ``lead_mask`` (n, 12) leaves out is not kept.
        lead_mask: (n, 12).
        labels: (n, 77).
        patient: (n,).
        sources: Names; column ``source`` (n,) points at them, all at the first where it is not given.
        preprocessing: Default: 250 Hz, as long as the signals, gain 1.
        reports: (n,) texts.
        columns: Any other array of the table. ``record`` is the patient where it is not given, ``start`` counts a
            record's windows, and the rest is unknown or False.
    """
    n, samples = len(signals), signals.shape[2]
    rows = np.clip(np.rint(signals[lead_mask] * COUNTS_PER_MV), -MOST, MOST).astype(np.int16)
    counts = lead_mask.sum(axis=1)
    record = np.asarray(columns.pop("record", patient), str)
    _, number = np.unique(record, return_inverse=True)
    defaults: dict[str, Any] = {
        "shard": np.zeros(n, np.int32),
        "first_row": (np.cumsum(counts) - counts).astype(np.int32),
        "source": np.zeros(n, np.int16),
        "site": np.full(n, "", "U1"),
        "age": np.full(n, np.nan, np.float32),
        "sex": np.full(n, "", "U1"),
        "start": np.array([STEP_SECONDS * np.sum(number[:i] == k) for i, k in enumerate(number)], np.float32),
        "targets": {},
        "continuous": np.zeros(n, bool),
        "held_out": np.zeros(n, bool),
        # With reports every window is a recording of its own, for that is what a report belongs to.
        "recording": (np.arange(n) if reports else number).astype(np.int32),
    }
    return WindowTable(
        sources=tuple(sources),
        licence=(Licence("made for a test"),) * len(sources),
        preprocessing=preprocessing or Preprocessing(seconds=samples / 250.0, gain=1.0),
        step=STEP_SECONDS,
        rows=(rows,),
        lead_mask=lead_mask,
        labels=labels,
        record=record,
        patient=np.asarray(patient, str),
        report_of=tuple(reports),
        **defaults | columns,
    )
