"""Recordings of any archive in, prepared windows with labels out.

The public interface::

    from training.data import DatasetSettings, WindowTable, find_sources, prepare

    deepecg-train prepare DATASET FOLDER        # once: reads, checks, finds copies, cuts, preprocesses, writes
    table = WindowTable.open(dataset)
    x, mask = table.batch(index)                # (B, 12, 2500) float32 in mV; (B, 12) leads that are in it
    x *= Preprocessing().gain                   # now network input (agent.core.preprocessing)
    table.labels[index]                         # (B, 77) int8 in SL order: 1, 0, -1 = unknown (mask it out)
    table.targets["lvef"][index]                # (B,) float32 of another task, NaN = unknown
    table.folds(5)                              # fold by patient; -1 = held out for the demo: never train on it
    table.continuous & (table.labels[:, k] == 0)    # windows in which an alert of label k would be false

``DATASET/table.sqlite`` has all of it and the recordings that were refused (see `training.data.store`). `PROXIES` tells
what the labels stand on that no source names in so many words, ``table.licence`` what the sources may be used for.
``fold_of(patient, n)`` is the one split.
"""

from training.data.codes import PROXIES
from training.data.prepare import DatasetSettings, prepare, recordings
from training.data.readers import FORMATS, find_sources
from training.data.recording import Licence, Recording, Rejected, Source, fold_of
from training.data.table import WindowTable, evidence_counts
from training.data.windows import prepare_windows, window_labels, window_starts

__all__ = [
    "FORMATS",
    "PROXIES",
    "DatasetSettings",
    "Licence",
    "Recording",
    "Rejected",
    "Source",
    "WindowTable",
    "evidence_counts",
    "find_sources",
    "fold_of",
    "prepare",
    "prepare_windows",
    "recordings",
    "window_labels",
    "window_starts",
]
