"""What is in a dataset, in numbers: for a person and as JSON."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from agent.core.ecg import LEADS
from agent.core.labels import LABEL_NAMES
from training.data.store import TABLE
from training.data.table import WindowTable

AGE_BANDS = (0, 18, 40, 60, 75)
"""First year of each band; the last has no end."""


def describe(dataset: Path) -> dict[str, Any]:
    """Counts by source, label, sex, age band, lead set, target, and reason of refusal. Raises as `WindowTable.open`."""
    table = WindowTable.open(dataset)
    _, who = np.unique(table.patient, return_inverse=True)
    _, first = np.unique(table.recording, return_index=True)  # one window of each recording

    def people(use: Any) -> int:
        return int(np.count_nonzero(np.bincount(who[use])))

    band = np.where(np.isnan(table.age), -1, np.searchsorted(AGE_BANDS, table.age, side="right") - 1)
    with closing(sqlite3.connect(dataset / TABLE)) as database:
        refused = database.execute(
            "SELECT source, reason, count(*) FROM rejected GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()
        clipped, flat, saturated = database.execute(
            "SELECT count(nullif(clipped, 0)), count(nullif(flat, 0)), count(nullif(saturated, 0)) FROM window"
        ).fetchone()
    labels = {
        name: {
            "positive_patients": people(table.labels[:, i] == 1),
            "negative_patients": people(table.labels[:, i] == 0),
            "positive_windows": int(np.sum(table.labels[:, i] == 1)),
            "negative_windows": int(np.sum(table.labels[:, i] == 0)),
        }
        for i, name in enumerate(LABEL_NAMES)
        if np.any(table.labels[:, i] >= 0)
    }
    return {
        "windows": len(table),
        "recordings": len(first),
        "patients": people(slice(None)),
        "held_out_patients": people(table.held_out),
        "hours_of_continuous": round(float(table.continuous.sum()) * table.step / 3600, 2),
        "preprocessing": table.preprocessing.model_dump(mode="json") | {"step": table.step},
        "sources": {
            name: {
                "recordings": int(np.sum(table.source[first] == k)),
                "patients": people(table.source == k),
                "windows": int(np.sum(table.source == k)),
                "refused": {reason: count for source, reason, count in refused if source == name},
                "licence": table.licence[k].text,
                "share_alike": table.licence[k].share_alike,
            }
            for k, name in enumerate(table.sources)
        },
        "labels": dict(sorted(labels.items(), key=lambda item: -item[1]["positive_patients"])),
        "targets": {
            name: {f"{value:g}": people(values == value) for value in np.unique(values[np.isfinite(values)])[:20]}
            for name, values in table.targets.items()
        },
        "sex": {name or "unknown": people(table.sex == name) for name in ("F", "M", "")},
        "age": {_band(k): people(band == k) for k in (*range(len(AGE_BANDS)), -1) if people(band == k)},
        "leads": _lead_sets(table),
        "quality": {"windows_clipped": clipped, "windows_flat_lead": flat, "windows_saturated_lead": saturated},
    }


def _band(k: int) -> str:
    if k < 0:
        return "unknown"
    return f"{AGE_BANDS[k]}+" if k == len(AGE_BANDS) - 1 else f"{AGE_BANDS[k]}-{AGE_BANDS[k + 1] - 1}"


def _lead_sets(table: WindowTable) -> dict[str, int]:
    """Windows by the leads that were measured."""
    sets, counts = np.unique(table.lead_mask, axis=0, return_counts=True)
    named = Counter(
        {
            "all twelve" if row.all() else " ".join(lead for lead, there in zip(LEADS, row, strict=True) if there): int(
                n
            )
            for row, n in zip(sets, counts, strict=True)
        }
    )
    return dict(named.most_common())


def text(found: Mapping[str, Any], *, brief: bool = False) -> str:
    """The counts as tables; ``brief`` is without the labels."""
    lines = [
        f"{found['windows']} windows of {found['recordings']} recordings of {found['patients']} patients "
        f"({found['held_out_patients']} held out for the demo); {found['hours_of_continuous']:g} h are continuous",
        "",
        f"{'source':20s} {'recordings':>10s} {'patients':>8s} {'windows':>8s}  refused, licence",
    ]
    for name, source in found["sources"].items():
        refused = ", ".join(f"{reason} {count}" for reason, count in source["refused"].items()) or "none"
        lines.append(
            f"{name:20s} {source['recordings']:10d} {source['patients']:8d} {source['windows']:8d}  "
            f"{refused}; {source['licence']}"
        )
    if brief:
        return "\n".join(lines)
    lines += ["", f"{'label':48s} {'patients +':>10s} {'-':>7s} {'windows +':>10s} {'-':>7s}"]
    for name, label in found["labels"].items():
        lines.append(
            f"{name:48s} {label['positive_patients']:10d} {label['negative_patients']:7d} "
            f"{label['positive_windows']:10d} {label['negative_windows']:7d}"
        )
    for title in ("sex", "age"):
        lines += ["", f"{title}, patients: " + ", ".join(f"{name} {count}" for name, count in found[title].items())]
    for name, values in found["targets"].items():
        lines += ["", f"{name}, patients: " + ", ".join(f"{value}: {count}" for value, count in values.items())]
    lines += ["", "leads measured, windows:", *(f"  {name}: {count}" for name, count in found["leads"].items())]
    lines += ["", "quality: " + ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in found["quality"].items())]
    return "\n".join(lines)
