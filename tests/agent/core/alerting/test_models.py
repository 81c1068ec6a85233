"""Several models, one bed: who alerts, who has a label first, and what a restart makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.alerting.alerting import Alerting
from agent.core.alerting.models import ModelsAlerting
from agent.core.alerting.settings import AlertingSettings
from agent.core.alerting.technical import ECG_MISSING
from agent.core.bundle.manifest import Manifest
from agent.core.census import Departure, Left, Stay
from agent.core.ecg import (
    LEADS,
    Alert,
    Phase,
    Prediction,
    Priority,
    Provenance,
    SourceAlarm,
    Window,
)

WALL = 1_700_000_000.0


def manifest_of(name: str, *labels: tuple[str, bool], version: str = "1") -> Manifest:
    evidence = {"auroc": 0.97, "lower": 0.95, "upper": 0.99, "positive_patients": 50, "negative_patients": 500}
    rule = {
        "threshold": 0.8,
        "release": 0.5,
        "open_after": 2,
        "close_after": 2,
        "priority": "PM",
        "false_alerts_per_bed_day": 0.2,
        "false_alerts_upper": 0.9,
        "negative_hours": 40.0,
    }
    return Manifest.model_validate(
        {
            "name": name,
            "version": version,
            "architecture": "deepecg",
            "statement": "for tests",
            "weights_sha256": "0" * 64,
            "input": {"required_leads": ["II"], "preprocessing": {}},
            "labels": [
                {"name": label, "severity": "pathological", "evidence": evidence, "rule": rule if alerts else None}
                for label, alerts in labels
            ],
            "engines": [{"flavour": "openvino", "precision": "f32", "library": "x", "files": ["a.xml"]}],
            "golden": {"windows": "w.npy", "probabilities": "p.npy", "tolerance": 1e-4},
            "files": {file: {"sha256": "0" * 64, "size": 1} for file in ("a.xml", "w.npy", "p.npy")},
            "training": {"summary": "s", "datasets": {}, "patients": 0, "windows": 0},
            "change": {"what": "w", "how_tested": "h", "impact": "i"},
        }
    )


SL = manifest_of("sl", ("Afib", True), ("Sinusal", False))
SSL = manifest_of("ssl", ("Afib", True), ("Acute MI", True))
LVEF = manifest_of("lvef", ("LVEF <= 40", True))
SETTINGS = AlertingSettings(continue_every=0)


def predicted(
    model: str, n: int, probabilities: Sequence[float], bed: str = "h/icu/1", generation: int = 0
) -> Prediction:
    window = Window(
        bed,
        "m1",
        generation,
        1000.0 + 5 * n,
        1010.0 + 5 * n,
        250.0,
        np.zeros((12, 1), np.float32),
        (Provenance.MEASURED,) * len(LEADS),
        100.0 + 5 * n,
    )
    return Prediction(window, model, "openvino-f32", np.array(probabilities, np.float32), window.received + 0.1)


class Ward:
    """Shows windows to the models' alerting."""

    def __init__(self, *manifests: Manifest, silent: Sequence[str] = (), opened: Sequence[Alert] = ()) -> None:
        self.alerting = ModelsAlerting(manifests or (SL, SSL), SETTINGS, opened, silent)
        self.n = 0

    def see(self, **models: Sequence[float]) -> list[tuple[str, str, str]]:
        out: list[tuple[str, str, str]] = []
        for model, probabilities in models.items():
            sent = self.alerting.on_prediction(
                predicted(f"{model}/1", self.n, probabilities), WALL + 5 * self.n, Stay()
            )
            out += [(a.model.partition("/")[0], a.label, a.phase.value) for a in sent]
        self.n += 1
        return out


YES, NO = (0.9, 0.1), (0.1, 0.1)


def test_the_first_who_opens_a_label_has_it() -> None:
    ward = Ward()
    assert ward.see(sl=YES, ssl=YES) == []
    assert ward.see(sl=YES, ssl=YES) == [("sl", "Afib", "start")]
    assert ward.alerting.take_suppressed() == {"other_model": 1}
    assert ward.see(sl=YES, ssl=YES) == []
    assert ward.alerting.take_suppressed() == {}, "once per finding"
    assert len(ward.alerting.open_alerts("h/icu/1")) == 1


def test_the_other_has_it_when_the_first_alert_ends_and_it_still_holds() -> None:
    ward = Ward()
    ward.see(ssl=YES)
    assert ward.see(sl=YES, ssl=YES) == [("ssl", "Afib", "start")]
    ward.see(sl=YES, ssl=YES)
    assert ward.alerting.take_suppressed() == {"other_model": 1}
    assert ward.see(sl=YES, ssl=NO) == []
    assert ward.see(ssl=NO, sl=YES) == [("ssl", "Afib", "end"), ("sl", "Afib", "start")]


def test_each_label_and_each_bed_is_its_own() -> None:
    ward = Ward()
    ward.see(sl=YES)
    ward.see(sl=YES)
    ward.see(ssl=(0.1, 0.9))
    assert ward.see(ssl=(0.1, 0.9)) == [("ssl", "Acute MI", "start")]
    sent = [ward.alerting.on_prediction(predicted("ssl/1", n, YES, bed="h/icu/2"), WALL) for n in range(2)]
    assert [a.label for a in sent[1]] == ["Afib"], "the other bed's alert is no reason here"


def test_a_model_that_was_not_told_to_alert_does_not() -> None:
    ward = Ward(SL, silent=("lvef/1",))
    for _ in range(5):
        assert ward.see(lvef=(0.99,)) == []
    assert ward.alerting.take_suppressed() == {}
    ward.see(unknown=(0.99,))
    assert ward.alerting.take_suppressed() == {"model": 1}


def test_silence_is_told_once() -> None:
    ward = Ward()
    ward.see(sl=YES, ssl=(0.9, 0.9))
    ward.see(sl=YES, ssl=(0.9, 0.9))
    assert {a.label for a in ward.alerting.open_alerts()} == {"Afib", "Acute MI"}
    sent = ward.alerting.on_tick(100.0 + 5 + 31, WALL + 36)
    assert sorted((a.label, a.phase.value, a.reason) for a in sent) == [
        ("Acute MI", "end", "feed_lost"),
        ("Afib", "end", "feed_lost"),
        (ECG_MISSING, "start", ""),
    ]


@pytest.mark.parametrize("how", ["discharge", "shutdown"])
def test_what_ends_a_bed_ends_it_for_all(how: str) -> None:
    ward = Ward()
    ward.see(sl=YES, ssl=(0.1, 0.9))
    ward.see(sl=YES, ssl=(0.1, 0.9))
    match how:
        case "discharge":
            sent = ward.alerting.on_census(Left("h/icu/1", 1, Departure.DISCHARGE), WALL)
        case _:
            sent = ward.alerting.on_shutdown(WALL)
    assert sorted((a.label, a.phase) for a in sent) == [("Acute MI", Phase.END), ("Afib", Phase.END)]
    assert ward.alerting.open_alerts() == ()


def test_a_restart_gives_each_model_its_own_alerts_back() -> None:
    before = Ward()
    before.see(sl=YES, ssl=(0.1, 0.9))
    before.see(sl=YES, ssl=(0.1, 0.9))
    opened = before.alerting.open_alerts()
    assert len(opened) == 2
    again = Ward(SL, manifest_of("ssl", ("Afib", True), ("Acute MI", True), version="2"), opened=opened)
    assert again.alerting.on_tick(200.0, WALL + 60) == ()
    assert {a.label for a in again.alerting.open_alerts()} == {"Afib", "Acute MI"}
    alone = Ward(SL, opened=opened)
    ended = alone.alerting.on_tick(200.0, WALL + 60)
    assert [(a.label, a.reason) for a in ended] == [("Acute MI", "model_changed")]
    assert [a.label for a in alone.alerting.open_alerts()] == ["Afib"]


def test_a_pattern_has_to_name_a_label_of_some_model() -> None:
    settings = AlertingSettings(suppress=("Acute *", "Afib"))
    alerting = ModelsAlerting((SL, SSL), settings)
    for n in range(4):
        for model in ("sl/1", "ssl/1"):
            assert alerting.on_prediction(predicted(model, n, (0.9, 0.9)), WALL) == ()
    assert alerting.take_suppressed() == {"label": 3}
    with pytest.raises(ValueError, match="'Acute \\*' is no label of sl/1; take"):
        ModelsAlerting((SL,), settings)


def test_the_monitors_alarms_are_the_first_one_s() -> None:
    ward = Ward()
    alarm = SourceAlarm("h/icu/1", "m1", 1, "ASYSTOLE", Phase.START, True, Priority.HIGH, WALL, 100.0)
    assert ward.alerting.on_source_alarm(alarm) == ()
    assert ward.alerting.source_alarms("h/icu/1") == (alarm,)


@given(st.lists(st.tuples(st.sampled_from(("sl", "ssl")), st.sampled_from((YES, NO))), max_size=40))
def test_never_two_alerts_of_one_label_and_one_model_is_as_without_the_others(
    steps: list[tuple[str, tuple[float, float]]],
) -> None:
    ward, alone = Ward(), Alerting(SL, SETTINGS)
    single = ModelsAlerting((SL,), SETTINGS)
    for n, (model, p) in enumerate(steps):
        ward.see(**{model: p})
        labels = [a.label for a in ward.alerting.open_alerts("h/icu/1")]
        assert len(labels) == len(set(labels))
        if model == "sl":
            one = predicted("sl/1", n, p)
            assert single.on_prediction(one, WALL + 5 * n, Stay()) == alone.on_prediction(one, WALL + 5 * n, Stay())
