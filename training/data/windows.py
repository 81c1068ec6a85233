"""Every window of every source, preprocessed as a live one, with its labels: one table for training and for figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agent.core.ecg import LEADS, FloatArray, Lead
from agent.core.filters import Preprocessing, prepare
from agent.core.labels import LABEL_NAMES, LABELS
from agent.core.leads import FROM_I_AND_II, LEAD_INDEX
from training.data.annotations import cpsc2021_labels, mitdb_labels
from training.data.duplicates import find_duplicates
from training.data.readers import READERS
from training.data.recording import Labels, Recording, Rejected, fold_of, set_labels

STEP_SECONDS = 5.0
"""From one window to the next, as on the ward."""

_TRANSIENT = ("Premature ventricular complex", "Premature atrial complex", "Ventricular tachycardia")
"""Said of a whole recording longer than one window, these need not be in each window of it."""

_FORMAT = 1


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
            i = LABEL_NAMES.index(name)
            if labels[i] == 1:
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


def prepare_all(
    data: Path, cache: Path, preprocessing: Preprocessing | None = None, sources: Iterable[str] = tuple(READERS)
) -> dict[str, Any]:
    """Read, check, de-duplicate, cut and preprocess everything under ``data`` and write the table into ``cache``.

    Writes ``rows.npy``, ``table.npz``, ``rejected.json`` (each unused recording with its reason), ``evidence.json``
    (patients per label, and per source for AF) and ``index.json``; returns the last one's content. Needs about 2 GB.
    """
    p = preprocessing or Preprocessing()
    sources = tuple(sources)
    rejected: list[Rejected] = []
    used: list[Recording] = []
    for read in recordings(data, sources, p.seconds):
        if isinstance(read, Rejected):
            rejected.append(read)
        else:
            used.append(read)
    duplicates = find_duplicates(used)
    rejected += [
        Rejected(r.source, r.record, "duplicate", f"same signal as {duplicates[r.id]}")
        for r in used
        if r.id in duplicates
    ]
    used = [recording for recording in used if recording.id not in duplicates]
    parts: dict[str, list[Any]] = {
        name: []
        for name in (
            "first_row",
            "lead_mask",
            "source",
            "record",
            "patient",
            "start",
            "labels",
            "continuous",
            "held_out",
        )
    }
    blocks: list[NDArray[np.float16]] = []
    n_rows = 0
    for recording in used:
        starts, mask, rows = prepare_windows(recording, p)
        per_window = mask.sum(axis=1)
        parts["first_row"].append(
            n_rows + np.concatenate([[0], np.cumsum(per_window)[:-1]]) if len(starts) else np.empty(0)
        )
        parts["lead_mask"].append(mask)
        parts["source"].append(np.full(len(starts), sources.index(recording.source)))
        parts["record"].append(np.full(len(starts), recording.record))
        parts["patient"].append(np.full(len(starts), recording.patient))
        parts["start"].append(starts / recording.rate)
        parts["labels"].append(
            np.array([window_labels(recording, s / recording.rate, p.seconds) for s in starts], np.int8).reshape(
                -1, len(LABELS)
            )
        )
        parts["continuous"].append(np.full(len(starts), recording.continuous))
        parts["held_out"].append(np.full(len(starts), recording.held_out))
        # Half precision: 2⁻¹¹ of the value, a thousandth of a millimetre on paper; clipped far beyond any heart.
        blocks.append(np.clip(rows, -6e4, 6e4).astype(np.float16))
        n_rows += len(rows)
    types: Mapping[str, type[np.generic]] = {
        "first_row": np.int64, "lead_mask": np.bool_, "source": np.int8, "record": np.str_, "patient": np.str_,
        "start": np.float32, "labels": np.int8, "continuous": np.bool_, "held_out": np.bool_,
    }  # fmt: skip
    table: dict[str, NDArray[Any]] = {
        name: np.concatenate(values).astype(types[name]) for name, values in parts.items()
    }
    cache.mkdir(parents=True, exist_ok=True)
    np.save(cache / "rows.npy", np.concatenate(blocks))
    np.savez(cache / "table.npz", **table)  # type: ignore[arg-type]
    reasons = [{"source": r.source, "record": r.record, "reason": r.reason, "detail": r.detail} for r in rejected]
    (cache / "rejected.json").write_text(json.dumps(reasons, indent=1), "utf-8")
    (cache / "evidence.json").write_text(json.dumps(evidence_counts(table, sources), indent=1), "utf-8")
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
    (cache / "index.json").write_text(json.dumps(about, indent=1), "utf-8")
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
