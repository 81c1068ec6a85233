"""Open recordings in, prepared windows with labels out.

The public interface::

    from training.data import WindowTable, prepare_all

    prepare_all(data, cache)             # once: reads data/{ptbxl500,cinc2021_mix,mitdb,cpsc2021_af,cinc2015_alarms}
    table = WindowTable.load(cache)
    x, mask = table.batch(index)         # (B, 12, 2500) float32 network input; (B, 12) leads that are in it
    table.labels[index]                  # (B, 77) int8 in SL order: 1, 0, -1 = unknown (mask it out)
    table.folds(5)                       # fold by patient; -1 = held out for the demo: never train on it
    table.continuous & (table.labels[:, k] == 0)     # windows in which an alert of label k would be false, 5 s each

``cache/evidence.json`` has the positive and negative patients of every label (held-out ones left out),
``cache/rejected.json`` every recording that is not used, with its reason. `PROXIES` tells what the labels stand on that
no source names in so many words, `LICENCES` what the sources may be used for. ``fold_of(patient, n)`` is the one split.
"""

from training.data.codes import PROXIES
from training.data.readers import LICENCES, READERS
from training.data.recording import Recording, Rejected, fold_of
from training.data.table import WindowTable, evidence_counts, prepare_all
from training.data.windows import (
    STEP_SECONDS,
    prepare_windows,
    recordings,
    window_labels,
    window_starts,
)

__all__ = [
    "LICENCES",
    "PROXIES",
    "READERS",
    "STEP_SECONDS",
    "Recording",
    "Rejected",
    "WindowTable",
    "evidence_counts",
    "fold_of",
    "prepare_all",
    "prepare_windows",
    "recordings",
    "window_labels",
    "window_starts",
]
