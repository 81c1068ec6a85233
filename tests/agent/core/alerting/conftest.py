"""A manifest, predictions, and a ward that shows them to an alerting behind a census."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from agent.core.alerting.alerting import Alerting
from agent.core.bundle.manifest import Manifest
from agent.core.census import Census, CensusEvent
from agent.core.ecg import (
    LEADS,
    Alert,
    Encounter,
    EncounterChange,
    EncounterEvent,
    Prediction,
    Priority,
    Provenance,
    Window,
)

SHA = "0" * 64
X = Encounter(patient_ids=("1^^^H^MR",), family_name="Canary", location="ICU^1^1")
Y = Encounter(patient_ids=("2^^^H^MR",), family_name="Finch")
WALL = 1_700_000_000.0
NORMAL, AFIB, LBBB = (0.1, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9)


def rule_of(priority: Priority = Priority.MEDIUM, open_after: int = 3, close_after: int = 2) -> dict[str, object]:
    return {
        "threshold": 0.8,
        "release": 0.5,
        "open_after": open_after,
        "close_after": close_after,
        "priority": priority,
        "false_alerts_per_bed_day": 0.2,
        "false_alerts_upper": 0.9,
        "negative_hours": 40.0,
    }


def manifest_of(*labels: tuple[str, dict[str, object] | None], required: Sequence[str] = ("I", "II")) -> Manifest:
    evidence = {"auroc": 0.97, "lower": 0.95, "upper": 0.99, "positive_patients": 50, "negative_patients": 500}
    return Manifest.model_validate(
        {
            "name": "sl",
            "version": "1",
            "architecture": "deepecg-sl",
            "statement": "for tests",
            "weights_sha256": SHA,
            "input": {"required_leads": required, "preprocessing": {}},
            "labels": [
                {"name": name, "severity": "pathological", "evidence": evidence if rule else None, "rule": rule}
                for name, rule in labels
            ],
            "engines": [{"flavour": "openvino", "precision": "f32", "library": "x", "files": ["a.xml"]}],
            "golden": {"windows": "w.npy", "probabilities": "p.npy", "tolerance": 1e-4},
            "files": {name: {"sha256": SHA, "size": 1} for name in ("a.xml", "w.npy", "p.npy")},
            "training": {"summary": "s", "datasets": {}, "patients": 0, "windows": 0},
            "change": {"what": "w", "how_tested": "h", "impact": "i"},
        }
    )


MANIFEST = manifest_of(
    ("Sinusal", None), ("Afib", rule_of()), ("Left bundle branch block", rule_of(Priority.LOW, 1, 1))
)


def prediction(
    n: float,
    probabilities: Sequence[float],
    *,
    bed: str = "h/icu/1",
    device: str = "m1",
    generation: int = 0,
    encounter: Encounter | None = None,
    paced: bool | None = None,
    missing: Sequence[int] = (),
    model: str = "sl/1",
) -> Prediction:
    """The ``n``-th window of ten seconds every five."""
    window = Window(
        bed=bed,
        device=device,
        generation=generation,
        start=1000.0 + 5 * n,
        end=1010.0 + 5 * n,
        rate=250.0,
        samples=np.zeros((12, 2500), np.float32),
        provenance=tuple(Provenance.MISSING if i in missing else Provenance.MEASURED for i in range(len(LEADS))),
        received=100.0 + 5 * n,
        paced=paced,
        encounter=encounter,
    )
    return Prediction(window, model, "openvino-f32", np.array(probabilities, np.float32), window.received + 0.1)


class Ward:
    """Drives an `Alerting` through time, behind a census as in the line, and collects what it sends."""

    def __init__(self, alerting: Alerting | None = None, opened: Iterable[Alert] = ()) -> None:
        self.alerting = alerting or Alerting(MANIFEST, open_alerts=opened)
        self.census = Census()
        self.sent: list[Alert] = []
        self.n = 0
        for alert in self.alerting.open_alerts():
            self.tell(self.census.restore(alert.bed, alert.encounter))

    def tell(self, events: Iterable[CensusEvent]) -> tuple[Alert, ...]:
        out: tuple[Alert, ...] = ()
        for event in events:
            out += self.alerting.on_census(event, WALL + 5 * self.n)
        self.sent += out
        return out

    def see(
        self,
        *many: Sequence[float],
        bed: str = "h/icu/1",
        device: str = "m1",
        encounter: Encounter | None = None,
        **how: object,
    ) -> tuple[Alert, ...]:
        out: tuple[Alert, ...] = ()
        for probabilities in many:
            out += self.tell(self.census.identify(bed, device, encounter, 100.0 + 5 * self.n))
            stay = self.census.stay(bed)
            assert stay is not None
            p = prediction(
                self.n,
                probabilities,
                bed=bed,
                device=device,
                generation=stay.generation,
                encounter=stay.encounter,
                **how,  # type: ignore[arg-type]
            )
            made = self.alerting.on_prediction(p, WALL + 5 * self.n, stay)
            self.sent += made
            out += made
            self.n += 1
        return out

    def tick(self, seconds: float) -> tuple[Alert, ...]:
        """``seconds`` after the last window."""
        after = 5 * (self.n - 1) + seconds
        out = self.alerting.on_tick(100.0 + after, WALL + after)
        self.sent += out
        return out

    def adt(self, event: EncounterEvent, who: Encounter, bed: str = "h/icu/1", prior: str | None = None) -> list[Alert]:
        return list(self.tell(self.census.apply(EncounterChange(event, bed, who, 100.0, prior))))


def phases(alerts: Sequence[Alert]) -> list[tuple[str, str, str]]:
    return [(alert.label, alert.phase.value, alert.reason) for alert in alerts]


def opened(encounter: Encounter | None = X) -> Ward:
    ward = Ward()
    ward.see(AFIB, AFIB, AFIB, encounter=encounter)
    assert phases(ward.sent) == [("Afib", "start", "")]
    return ward


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """``make.Ward()`` sees predictions, ``make.opened(who)`` is one with an open alert."""
    return SimpleNamespace(
        MANIFEST=MANIFEST,
        rule_of=rule_of,
        manifest_of=manifest_of,
        prediction=prediction,
        Ward=Ward,
        phases=phases,
        opened=opened,
    )
