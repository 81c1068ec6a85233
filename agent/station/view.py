"""What a viewer is told of a tile: JSON-able, in plain words, most urgent and most probable first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.core.bundle.manifest import Manifest
from agent.core.ecg import LEADS, Encounter, Prediction, Priority
from agent.core.labels import label as label_info
from agent.station.tile import OpenAlert, Tile

_RANK = {Priority.HIGH: 0, Priority.MEDIUM: 1, Priority.LOW: 2, Priority.NONE: 3}


@dataclass(frozen=True, slots=True)
class View:
    """How tiles are told."""

    model: Manifest
    """Of the first model: names, severities, evidence and thresholds of its labels."""
    further: tuple[Manifest, ...]
    """The same of further models."""
    findings: int
    """How many findings a tile names."""
    show_patients: bool
    synthetic: frozenset[str]
    """Beds that a signal generator feeds."""

    def tile(self, name: str, tile: Tile, now: float) -> dict[str, object]:
        """One bed, at ``now`` monotonic seconds."""
        window = tile.prediction.window if tile.prediction is not None else None
        return {
            "bed": name,
            "number": tile.number,
            "synthetic": name in self.synthetic,
            "transport": tile.transport,
            "lead": None if tile.trace is None else tile.trace.lead,
            "age": None if tile.received is None else _age(tile.received, now),
            "rate": tile.rate,
            "paced": tile.paced,
            "provenance": None
            if window is None
            else {lead.value: p.value for lead, p in zip(LEADS, window.provenance, strict=True)},
            "findings": self._top(self.model, tile.prediction),
            "findings_age": None if window is None else _age(window.received, now),
            "models": [self._opinion(model, tile, now) for model in self.further],
            "gap": None if tile.gap is None else {"reason": tile.gap.reason.value, "age": _age(tile.gap_at, now)},
            "alerts": [_alert(known) for known in sorted(tile.alerts.values(), key=_urgency)],
            "patient": self._patient(tile.encounter),
        }

    def _patient(self, encounter: Encounter | None) -> str | None:
        if not self.show_patients or encounter is None:
            return None
        return ", ".join(part for part in (encounter.family_name, encounter.given_name) if part) or None

    def _opinion(self, model: Manifest, tile: Tile, now: float) -> dict[str, object]:
        """What a further model has said, how long ago, and whether it is asked to look again."""
        prediction = tile.further.get(model.name)
        return {
            "model": model.name,
            "findings": self._top(model, prediction),
            "time": None if prediction is None else prediction.window.end,
            "age": None if prediction is None else _age(prediction.window.received, now),
            "requested": model.name in tile.requested,
        }

    def _top(self, model: Manifest, prediction: Prediction | None) -> list[dict[str, object]]:
        """The most probable labels among those that have evidence."""
        if prediction is None or prediction.probabilities.shape != (len(model.labels),):
            return []  # of another model than the manifest's: between two bundles
        p = prediction.probabilities
        order = [int(i) for i in np.argsort(-p) if model.labels[i].evidence is not None][: self.findings]
        return [
            {
                "label": entry.name,
                "text": label_text(entry.name),
                "probability": round(float(p[i]), 4),
                "threshold": None if entry.rule is None else entry.rule.threshold,
                "severity": entry.severity,
            }
            for i in order
            for entry in (model.labels[i],)
        ]


def label_text(name: str) -> str:
    """Plain words for a label; a model with labels of its own shows its own names."""
    try:
        return label_info(name).text
    except KeyError:
        return name


def _age(then: float, now: float) -> float:
    return round(max(0.0, now - then), 1)


def _urgency(known: OpenAlert) -> tuple[int, float]:
    return _RANK[known.alert.priority], -known.alert.opened


def _alert(known: OpenAlert) -> dict[str, object]:
    alert = known.alert
    return {
        "id": alert.alert_id,
        "label": alert.label,
        "title": label_text(alert.label),
        "text": alert.text,
        "priority": alert.priority.value,
        "opened": alert.opened,
        "probability": None if alert.probability is None else round(alert.probability, 4),
        "acknowledged": sorted(known.acknowledged),
    }
