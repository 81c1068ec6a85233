"""Every window of every source in one table on disk: for training, for figures, for false alerts per bed-day."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import LEADS, FloatArray, Lead
from agent.core.filters import Preprocessing
from agent.core.labels import LABEL_NAMES, LABELS
from agent.core.leads import FROM_I_AND_II, LEAD_INDEX
from training.data.duplicates import find_duplicates, without_duplicates
from training.data.readers import READERS
from training.data.recording import Recording, Rejected, fold_of
from training.data.windows import STEP_SECONDS, prepare_windows, recordings, window_labels

_FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False)
class WindowTable:
    """All windows. ``n`` windows; the arrays are parallel.

    Signals are rows of the network's input (preprocessed at the network's rate, in network units), measured leads only,
    in the order of ``LEADS``: those of window ``i`` are ``rows[first_row[i] : first_row[i] + lead_mask[i].sum()]``.
    """

    sources: tuple[str, ...]
    preprocessing: Preprocessing
    rows: NDArray[np.float16]
    """(n_rows, T), memory-mapped."""
    first_row: NDArray[np.int64]
    """(n,)"""
    lead_mask: NDArray[np.bool_]
    """(n, 12): measured leads."""
    source: NDArray[np.int8]
    """(n,): index into ``sources``."""
    record: NDArray[np.str_]
    """(n,)"""
    patient: NDArray[np.str_]
    """(n,): the unit of every split."""
    start: NDArray[np.float32]
    """(n,): seconds into the recording."""
    labels: NDArray[np.int8]
    """(n, 77): 1, 0 or -1 = unknown."""
    continuous: NDArray[np.bool_]
    """(n,): of a continuous recording; each such window stands for ``STEP_SECONDS`` of bed time."""
    held_out: NDArray[np.bool_]
    """(n,): of a patient whom the demo shows. Never train on these, never choose anything by them."""

    def __len__(self) -> int:
        return len(self.first_row)

    def batch(self, index: NDArray[np.int64], derive: bool = True) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Network input (B, 12, T) float32 of these windows and the leads (B, 12) that are in it.

        ``derive`` computes III, aVR, aVL and aVF where I and II are there, as the ward's windows have them
        (preprocessing is linear, so deriving after it is the same). Missing leads are zeros.
        """
        index = np.asarray(index)
        out = np.zeros((len(index), len(LEADS), self.rows.shape[1]), np.float32)
        mask = self.lead_mask[index].copy()
        for k, i in enumerate(index):
            first = self.first_row[i]
            out[k, mask[k]] = self.rows[first : first + int(mask[k].sum())]
        if derive:
            both = mask[:, LEAD_INDEX[Lead.I]] & mask[:, LEAD_INDEX[Lead.II]]
            for lead, (of_i, of_ii) in FROM_I_AND_II.items():
                j = LEAD_INDEX[lead]
                make = both & ~mask[:, j]
                out[make, j] = of_i * out[make, 0] + of_ii * out[make, 1]
                mask[make, j] = True
        return out, mask

    def folds(self, n: int) -> NDArray[np.int64]:
        """(n_windows,) fold of each window by its patient; -1 for held-out patients."""
        names, inverse = np.unique(self.patient, return_inverse=True)
        folds = np.array([fold_of(str(name), n) for name in names])[inverse]
        return np.where(self.held_out, -1, folds)

    @classmethod
    def load(cls, cache: Path) -> Self:
        """The table that :func:`prepare_all` wrote.

        Raises:
            FileNotFoundError: there is none, or one of another version: run ``prepare_all``.
        """
        index = cache / "index.json"
        about: dict[str, Any] = json.loads(index.read_text("utf-8")) if index.is_file() else {}
        if about.get("format") != _FORMAT:
            raise FileNotFoundError(f"no prepared windows in {cache}: run training.data.prepare_all first")
        with np.load(cache / "table.npz", allow_pickle=False) as arrays:
            table = dict(arrays)
        return cls(
            sources=tuple(about["sources"]),
            preprocessing=Preprocessing(**about["preprocessing"]),
            rows=np.load(cache / "rows.npy", mmap_mode="r", allow_pickle=False),
            **table,
        )


def _columns(
    recording: Recording, source: int, first_row: int, p: Preprocessing
) -> tuple[dict[str, NDArray[Any]], FloatArray]:
    """The table's columns of one recording, and its rows."""
    starts, mask, rows = prepare_windows(recording, p)
    n, leads = len(starts), mask.sum(axis=1)
    labels = [window_labels(recording, start / recording.rate, p.seconds) for start in starts]
    columns: dict[str, NDArray[Any]] = {
        "first_row": (first_row + np.cumsum(leads) - leads).astype(np.int64),
        "lead_mask": mask,
        "source": np.full(n, source, np.int8),
        "record": np.full(n, recording.record),
        "patient": np.full(n, recording.patient),
        "start": (starts / recording.rate).astype(np.float32),
        "labels": np.array(labels, np.int8).reshape(n, len(LABELS)),
        "continuous": np.full(n, recording.continuous),
        "held_out": np.full(n, recording.held_out),
    }
    return columns, rows


def prepare_all(
    data: Path, cache: Path, preprocessing: Preprocessing | None = None, sources: Iterable[str] = tuple(READERS)
) -> dict[str, Any]:
    """Read, check, de-duplicate, cut and preprocess everything under ``data`` and write the table into ``cache``.

    Writes ``rows.npy``, ``table.npz``, ``rejected.json`` (each unused recording with its reason), ``evidence.json``
    (`evidence_counts`) and ``index.json``; returns the last one's content.
    """
    p = preprocessing or Preprocessing()
    sources = tuple(sources)
    rejected: list[Rejected] = []
    read: list[Recording] = []
    for item in recordings(data, sources, p.seconds):
        if isinstance(item, Rejected):
            rejected.append(item)
        else:
            read.append(item)
    duplicates = find_duplicates(read)
    for recording in read:
        if recording.id in duplicates:
            detail = f"same signal as {duplicates[recording.id]}"
            rejected.append(Rejected(recording.source, recording.record, "duplicate", detail))
    used = without_duplicates(read, duplicates)

    parts: list[dict[str, NDArray[Any]]] = []
    blocks: list[NDArray[np.float16]] = []
    n_rows = 0
    for recording in used:
        columns, rows = _columns(recording, sources.index(recording.source), n_rows, p)
        parts.append(columns)
        # Half precision keeps 2⁻¹¹ of the value, under 1 µV in most of an ECG; clipped far beyond any heart.
        blocks.append(np.clip(rows, -6e4, 6e4).astype(np.float16))
        n_rows += len(rows)
    table = {name: np.concatenate([columns[name] for columns in parts]) for name in parts[0]}

    about = {
        "format": _FORMAT,
        "sources": list(sources),
        "preprocessing": p.model_dump(mode="json"),
        "windows": len(table["first_row"]),
        "rows": n_rows,
        "recordings": dict(Counter(recording.source for recording in used)),
        "patients": len({recording.patient for recording in used}),
        "rejected": dict(Counter(f"{r.source}: {r.reason}" for r in rejected)),
    }
    reasons = [{"source": r.source, "record": r.record, "reason": r.reason, "detail": r.detail} for r in rejected]
    cache.mkdir(parents=True, exist_ok=True)
    np.save(cache / "rows.npy", np.concatenate(blocks))
    np.savez(cache / "table.npz", **table)  # type: ignore[arg-type]
    for name, content in (
        ("rejected", reasons),
        ("evidence", evidence_counts(table, sources)),
        ("index", about),
    ):
        (cache / f"{name}.json").write_text(json.dumps(content, indent=1), "utf-8")
    return about


def evidence_counts(table: Mapping[str, NDArray[Any]], sources: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Per label the positive and negative patients that are not held out, in all and by source.

    A patient with a positive window is positive; one is negative who has a negative window and no positive one.
    """
    free = ~table["held_out"]
    patients = table["patient"]
    out: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(LABEL_NAMES):
        column = table["labels"][:, i]
        positive = set(patients[free & (column == 1)])
        negative = set(patients[free & (column == 0)]) - positive
        if not positive and not negative:
            continue
        out[name] = {
            "positive_patients": len(positive),
            "negative_patients": len(negative),
            "positive_windows": int(np.sum(free & (column == 1))),
            "negative_windows": int(np.sum(free & (column == 0))),
            "held_out_positive_patients": len(set(patients[~free & (column == 1)])),
            "positive_patients_by_source": {
                source: len(set(patients[free & (column == 1) & (table["source"] == k)]))
                for k, source in enumerate(sources)
            },
            "continuous_negative_hours": float(np.sum(free & table["continuous"] & (column == 0)))
            * STEP_SECONDS
            / 3600,
        }
    return dict(sorted(out.items(), key=lambda item: -item[1]["positive_patients"]))
