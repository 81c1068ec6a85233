"""Alerting: persistence, hysteresis, life cycle, patients, silence; and what must hold whatever comes in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.core.alerting.engine import ECG_MISSING, LEADS_OFF, Alerting, AlertingSettings
from agent.core.bundle.manifest import Manifest
from agent.core.ecg import (
    LEADS,
    Alert,
    Encounter,
    EncounterChange,
    EncounterEvent,
    Gap,
    GapReason,
    Phase,
    Prediction,
    Priority,
    Provenance,
    SourceAlarm,
    Window,
)

SHA = "0" * 64
X = Encounter(patient_ids=("1^^^H^MR",), family_name="Canary", location="ICU^1^1")
Y = Encounter(patient_ids=("2^^^H^MR",), family_name="Finch")
WALL = 1_700_000_000.0


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
NORMAL, AFIB, LBBB = (0.1, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9)


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
    """Drives an `Alerting` through time and collects what it sends."""

    def __init__(self, alerting: Alerting | None = None) -> None:
        self.alerting = alerting or Alerting(MANIFEST)
        self.sent: list[Alert] = []
        self.n = 0

    def see(self, *many: Sequence[float], **how: object) -> tuple[Alert, ...]:
        out: tuple[Alert, ...] = ()
        for probabilities in many:
            out += self.alerting.on_prediction(prediction(self.n, probabilities, **how), WALL + 5 * self.n)  # type: ignore[arg-type]
            self.n += 1
        self.sent += out
        return out

    def tick(self, seconds: float) -> tuple[Alert, ...]:
        """``seconds`` after the last window."""
        after = 5 * (self.n - 1) + seconds
        out = self.alerting.on_tick(100.0 + after, WALL + after)
        self.sent += out
        return out

    def adt(self, event: EncounterEvent, who: Encounter, bed: str = "h/icu/1", prior: str | None = None) -> list[Alert]:
        out = self.alerting.on_encounter_change(EncounterChange(event, bed, who, 100.0, prior), WALL + 5 * self.n)
        self.sent += out
        return list(out)


def phases(alerts: Sequence[Alert]) -> list[tuple[str, str, str]]:
    return [(alert.label, alert.phase.value, alert.reason) for alert in alerts]


# Opening and closing


def test_consecutive_windows_open_one_alert() -> None:
    ward = Ward()
    assert ward.see(AFIB, AFIB) == ()
    (start,) = ward.see(AFIB)
    assert (start.label, start.code, start.ref_id) == ("Afib", 199736, "MDC_EVT_ECG_ATR_FIB")
    assert start.phase is Phase.START and start.active and start.priority is Priority.MEDIUM
    assert start.text == "Atrial fibrillation (advisory)"
    assert start.opened == start.time == 1020.0 and start.created == WALL + 10
    assert (start.probability, start.threshold, start.model) == (pytest.approx(0.9), 0.8, "sl/1")
    assert start.received == 110.0 and start.encounter is None and start.source_code == 131328
    assert ward.see(AFIB, AFIB, AFIB) == (), "one open alert per bed and label"


def test_a_window_below_the_threshold_starts_the_count_anew() -> None:
    assert Ward().see(AFIB, AFIB, NORMAL, AFIB, AFIB) == ()


def test_the_threshold_itself_counts_and_hysteresis_keeps_open() -> None:
    ward = Ward(Alerting(manifest_of(("Afib", rule_of(open_after=1)))))
    assert phases(ward.see((0.5,), (0.79,))) == []
    assert phases(ward.see((np.nextafter(np.float32(0.8), np.float32(1)),))) == [("Afib", "start", "")]
    assert ward.see((0.6,), (0.5,), (0.1,), (0.6,), (0.1,)) == (), "at or above release is not recovered"
    (end,) = ward.see((0.1,))
    assert phases([end]) == [("Afib", "end", "recovered")] and not end.active
    assert end.opened == ward.sent[0].opened and end.time == 1010.0 + 5 * (ward.n - 1)


def test_ids_name_the_events() -> None:
    one, two = Ward(), Ward()
    for ward in (one, two):
        ward.see(AFIB, AFIB, AFIB, NORMAL, NORMAL, AFIB, AFIB, AFIB)
    assert one.sent == two.sent, "the same inputs give the same ids"
    assert [a.phase.value for a in one.sent] == ["start", "end", "start"]
    assert one.sent[0].alert_id == one.sent[1].alert_id != one.sent[2].alert_id
    assert len({a.message_id for a in one.sent}) == 3


def test_a_device_whose_clock_restarts_gets_new_ids() -> None:
    one, two = Ward(), Ward()
    (first,) = one.see(AFIB, AFIB, AFIB)
    for n in range(3):
        again = two.alerting.on_prediction(prediction(n, AFIB), WALL + 86400 + 5 * n)
    assert again[0].opened == first.opened and again[0].alert_id != first.alert_id


def test_a_label_without_a_rule_raises_nothing() -> None:
    assert Ward().see(*[(1.0, 0.1, 0.1)] * 10) == ()


def test_a_label_that_the_table_does_not_know_goes_out_by_its_name() -> None:
    (start,) = Ward(Alerting(manifest_of(("LVEF <= 40 %", rule_of(open_after=1))))).see((0.9,))
    assert (start.code, start.ref_id, start.text) == (0, "", "LVEF <= 40 % (advisory)")


def test_nan_is_no_evidence_either_way() -> None:
    nan = (0.1, float("nan"), 0.1)
    ward = Ward()
    assert ward.see(AFIB, AFIB, nan, AFIB, AFIB) == ()
    assert phases(ward.see(AFIB)) == [("Afib", "start", "")]
    assert ward.see(NORMAL, nan, NORMAL) == ()
    assert phases(ward.see(NORMAL)) == [("Afib", "end", "recovered")]


# Device time


def test_a_gap_in_device_time_starts_the_count_anew() -> None:
    ward = Ward()
    ward.see(AFIB, AFIB)
    ward.n += 2  # the next window starts 5 s after the last one's end
    assert ward.see(AFIB, AFIB) == ()
    assert phases(ward.see(AFIB)) == [("Afib", "start", "")]
    ward.see(NORMAL)
    ward.n += 2
    assert ward.see(NORMAL) == (), "recovery is counted anew too"
    assert phases(ward.see(NORMAL)) == [("Afib", "end", "recovered")]


def test_a_dropped_window_whose_signal_the_next_ones_cover_is_no_gap() -> None:
    ward = Ward()
    ward.see(AFIB, AFIB)
    ward.n += 1  # touches: 1015 and 1015
    assert phases(ward.see(AFIB)) == [("Afib", "start", "")]


def test_a_clock_set_back_starts_anew_and_a_window_that_comes_twice_is_passed_over() -> None:
    ward = Ward()
    ward.see(AFIB, AFIB)
    ward.n -= 1
    assert ward.see(AFIB) == () and ward.alerting.take_suppressed() == {"repeated": 1}
    ward.n -= 3
    assert ward.see(AFIB, AFIB) == ()
    assert phases(ward.see(AFIB)) == [("Afib", "start", "")]


# Devices, generations, leads


def test_two_devices_of_a_bed_have_their_own_count_and_one_alert() -> None:
    ward = Ward()
    for n in range(3):
        ward.see(AFIB, device="m1")
        ward.n = n
        ward.see(NORMAL if n < 1 else AFIB, device="m2")
    assert phases(ward.sent) == [("Afib", "start", "")] and ward.sent[0].device == "m1"
    ward.see(AFIB, device="m2")
    assert ward.alerting.take_suppressed() == {"other_device": 1}
    assert phases(ward.see(NORMAL, NORMAL, device="m1")) == [("Afib", "end", "recovered")]
    ward.n -= 2
    (start,) = ward.see(AFIB, device="m2")
    assert start.phase is Phase.START and start.device == "m2", "the other device still sees it"


def test_a_prediction_of_an_earlier_encounter_is_discarded() -> None:
    ward = Ward()
    ward.see(AFIB, AFIB, generation=1)
    late = ward.alerting.on_prediction(prediction(2, AFIB, generation=1), WALL, generation=2)
    assert late == () and ward.alerting.take_suppressed() == {"generation": 1}
    ward.see(NORMAL, generation=2)
    assert ward.alerting.on_prediction(prediction(4, AFIB, generation=1), WALL) == ()
    assert ward.alerting.take_suppressed() == {"generation": 1}


def test_a_new_generation_ends_the_alerts_unless_it_is_the_same_known_patient() -> None:
    ward = Ward()
    ward.see(AFIB, AFIB, AFIB, generation=1, encounter=X)
    assert ward.see(AFIB, generation=2, encounter=X) == ()
    assert phases(ward.see(AFIB, generation=3)) == [("Afib", "end", "patient_changed")]
    assert ward.see(AFIB, generation=3) == ()
    assert phases(ward.see(AFIB, generation=3)) == [("Afib", "start", "")]
    assert ward.sent[-1].encounter is None


def test_a_window_without_the_required_leads_or_of_another_model_counts_for_nothing() -> None:
    ward = Ward()
    ward.see(AFIB, AFIB)
    assert ward.see(AFIB, missing=(1,)) == () and ward.see(AFIB, model="sl/2") == ()
    assert ward.alerting.take_suppressed() == {"leads": 1, "model": 1}
    assert ward.alerting.take_suppressed() == {}


# Suppression


def test_suppressed_labels_and_paced_patients() -> None:
    ward = Ward(Alerting(MANIFEST, AlertingSettings(suppress=("Afib",))))
    assert ward.see(*[AFIB] * 5) == () and ward.alerting.take_suppressed() == {"label": 1}
    assert ward.see(LBBB, LBBB, paced=True) == () and ward.alerting.take_suppressed() == {"paced": 1}
    assert phases(ward.see(LBBB, paced=False)) == [("Left bundle branch block", "start", "")]
    assert phases(ward.see(LBBB, paced=True)) == [("Left bundle branch block", "end", "recovered")]


def test_what_was_seen_while_paced_does_not_count_afterwards() -> None:
    ward = Ward(Alerting(manifest_of(("Left bundle branch block", rule_of(open_after=3)))))
    ward.see((0.9,), (0.9,), paced=True)
    assert ward.see((0.9,), (0.9,)) == ()
    assert phases(ward.see((0.9,))) == [("Left bundle branch block", "start", "")]


def test_suppressing_an_unknown_label_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="'Afibb' is no label of sl/1"):
        Alerting(MANIFEST, AlertingSettings(suppress=("Afibb",)))


# Patients


def opened(encounter: Encounter | None = X) -> Ward:
    ward = Ward()
    ward.see(AFIB, AFIB, AFIB, encounter=encounter)
    assert phases(ward.sent) == [("Afib", "start", "")]
    return ward


def test_discharge_ends_and_forgets() -> None:
    ward = opened()
    (end,) = ward.adt(EncounterEvent.DISCHARGE, X)
    assert phases([end]) == [("Afib", "end", "discharge")] and end.encounter == X
    assert ward.see(AFIB, AFIB, generation=1) == ()
    (start,) = ward.see(AFIB, generation=1)
    assert start.encounter is None, "nothing of the one who left"


def test_a_late_discharge_of_somebody_else_leaves_the_bed_alone() -> None:
    ward = opened(X)
    assert ward.adt(EncounterEvent.DISCHARGE, Y) == []
    assert ward.adt(EncounterEvent.DISCHARGE, X, bed="h/icu/9") == []


def test_transfer_ends_the_bed_left_behind_and_whoever_lay_in_the_new_one() -> None:
    ward = opened(X)
    ward.n = 0
    ward.see(AFIB, AFIB, AFIB, bed="h/icu/2", encounter=Y)
    out = ward.adt(EncounterEvent.TRANSFER, X, bed="h/icu/2", prior="h/icu/1")
    assert [(a.bed, a.reason) for a in out] == [("h/icu/1", "transfer"), ("h/icu/2", "patient_changed")]


def test_transfer_without_a_prior_bed_finds_the_patient() -> None:
    out = opened(X).adt(EncounterEvent.TRANSFER, X, bed="h/icu/2")
    assert [(a.bed, a.reason) for a in out] == [("h/icu/1", "transfer")]
    assert opened(None).adt(EncounterEvent.TRANSFER, X, bed="h/icu/2") == []


def test_admission_of_another_or_to_an_unknown_patients_bed_ends_the_alerts() -> None:
    for before in (Y, None):
        assert phases(opened(before).adt(EncounterEvent.ADMIT, X)) == [("Afib", "end", "patient_changed")]
    assert opened(X).adt(EncounterEvent.ADMIT, X) == []


def test_update_travels_with_later_messages_of_the_same_patient_only() -> None:
    ward = opened(X)
    named = dataclasses.replace(X, family_name="Corrected", location="")
    assert ward.adt(EncounterEvent.UPDATE, named) == []
    (end,) = ward.see(NORMAL, NORMAL, encounter=X)
    assert end.encounter == dataclasses.replace(named, location="ICU^1^1"), "what A08 leaves empty stays"
    assert phases(opened(X).adt(EncounterEvent.UPDATE, Y)) == [("Afib", "end", "patient_changed")]


def test_an_alert_of_an_unknown_patient_stays_one() -> None:
    ward = opened(None)
    assert ward.adt(EncounterEvent.UPDATE, X) == []
    (end,) = ward.see(NORMAL, NORMAL, encounter=X)
    assert end.encounter is None
    (start,) = ward.see(AFIB, AFIB, AFIB, encounter=X)
    assert start.encounter == X


def test_the_windowers_change_of_patient_ends_the_alerts_at_once() -> None:
    ward = opened(X)
    gap = Gap("h/icu/1", "m1", 1020.0, 1030.0, GapReason.ENCOUNTER)
    assert phases(ward.alerting.on_gap(gap, WALL)) == [("Afib", "end", "patient_changed")]


def test_a_contradicting_identity_on_a_window_ends_the_alerts() -> None:
    assert phases(opened(X).see(AFIB, encounter=Y)) == [("Afib", "end", "patient_changed")]


def restarted(*alerts: Alert) -> Ward:
    return Ward(Alerting(MANIFEST, None, alerts))


def test_after_a_restart_no_patients_alert_goes_on_in_the_next_ones_name() -> None:
    unknown, known = opened(None).sent[-1], opened(X).sent[-1]
    # One alert began before anybody knew who it was; the order in which they were written does not matter.
    unknown = dataclasses.replace(unknown, label=ECG_MISSING)
    for alerts in ((unknown, known), (known, unknown)):
        out = restarted(*alerts).see(AFIB, encounter=Y)
        assert {a.reason for a in out} == {"patient_changed"} and len(out) == 2


def test_a_nameless_window_does_not_make_a_restored_alert_anybodys() -> None:
    for by_adt in (True, False):
        ward = restarted(opened(X).sent[-1])
        assert ward.see(AFIB, encounter=Encounter(location="ICU^1^1")) == ()
        out = ward.adt(EncounterEvent.UPDATE, Y) if by_adt else ward.see(AFIB, encounter=Y)
        assert phases(out) == [("Afib", "end", "patient_changed")]


def test_what_was_open_before_a_long_stop_is_over() -> None:
    before = opened(X).sent[-1]
    for after, reasons in ((3000.0, []), (4000.0, ["feed_lost"])):
        ward = restarted(before)
        out = ward.alerting.on_tick(1.0, before.created + after)
        assert [a.reason for a in out if a.phase is Phase.END] == reasons
    assert ward.alerting.open_alerts() == ()


def test_a_transfer_without_a_prior_bed_reaches_no_bed_of_another_sender() -> None:
    ward = opened(X)
    change = EncounterChange(EncounterEvent.TRANSFER, "h/er/1", X, 100.0, None, ("h/er/*",))
    assert ward.alerting.on_encounter_change(change, WALL) == ()
    assert [a.label for a in ward.alerting.open_alerts("h/icu/1")] == ["Afib"]


def test_a_flood_of_monitors_alarms_takes_a_bounded_memory() -> None:
    ward = Ward()
    for i in range(5000):
        alarm = SourceAlarm(f"h/x/{i}", "m", 1, "x" * 10_000, Phase.START, True, None, None, 100.0)
        ward.alerting.on_source_alarm(alarm)
    kept = [a for i in range(5000) for a in ward.alerting.source_alarms(f"h/x/{i}")]
    assert len(kept) == 4096 and all(len(a.text) == 200 for a in kept)
    assert ward.alerting.take_suppressed() == {"too_many_beds": 904}


# Silence


def test_silence_ends_the_alerts_and_raises_a_technical_one_until_there_is_signal() -> None:
    ward = opened()
    assert ward.tick(29) == ()
    lost = ward.tick(31)
    assert phases(lost) == [("Afib", "end", "feed_lost"), (ECG_MISSING, "start", "")]
    assert lost[1].code == 197378 and lost[1].priority is Priority.LOW and "advisor" in lost[1].text
    assert lost[1].time == lost[1].opened == WALL + 41
    assert ward.tick(40) == ()
    ward.n += 20
    assert phases(ward.see(AFIB)) == [(ECG_MISSING, "end", "recovered")]
    assert ward.see(AFIB) == () and phases(ward.see(AFIB)) == [("Afib", "start", "")]


def test_a_bed_whose_monitor_was_put_away_is_forgotten() -> None:
    ward = opened()
    ward.tick(31)
    assert phases(ward.tick(3601)) == [(ECG_MISSING, "end", "feed_lost")]
    assert ward.alerting.open_alerts() == () and ward.alerting._beds == {}


def test_one_device_lost_while_the_other_goes_on_is_no_technical_alert() -> None:
    ward = opened()
    ward.n = 0
    ward.see(NORMAL, device="m2")
    assert phases(ward.alerting.on_feed_lost("h/icu/1", WALL, device="m1")) == [("Afib", "end", "feed_lost")]
    assert ward.alerting.on_feed_lost("h/icu/1", WALL, device="m9") == ()
    assert phases(ward.alerting.on_feed_lost("h/icu/1", WALL)) == [(ECG_MISSING, "start", "")]
    assert ward.alerting.on_feed_lost("h/icu/1", WALL) == () == ward.alerting.on_feed_lost("elsewhere", WALL)


def test_leads_off_is_said_where_asked_for() -> None:
    ward = Ward(Alerting(MANIFEST, AlertingSettings(leads_off=True, feed_lost_priority=Priority.MEDIUM)))
    ward.see(NORMAL)
    ward.alerting.on_gap(Gap("h/icu/1", "m1", 1010.0, 1030.0, GapReason.INVALID), WALL)
    (alert,) = ward.tick(31)
    assert (alert.label, alert.code, alert.priority) == (LEADS_OFF, 196882, Priority.MEDIUM)
    quiet = Ward(Alerting(MANIFEST, AlertingSettings(feed_lost_alert=False)))
    quiet.see(AFIB, AFIB, AFIB)
    assert phases(quiet.tick(31)) == [("Afib", "end", "feed_lost")]


def test_no_technical_alert_after_a_discharge() -> None:
    ward = opened()
    ward.adt(EncounterEvent.DISCHARGE, X)
    assert ward.tick(31) == () == ward.tick(4000)


def test_continue_brings_the_receiver_back_in_step() -> None:
    ward = opened()
    for _ in range(58):
        ward.see((0.1, 0.85, 0.1), encounter=X)
        assert ward.tick(0) == ()
    ward.see((0.1, 0.95, 0.1), encounter=X)
    ward.see((0.1, 0.95, 0.1), encounter=X)
    (again,) = ward.tick(0)
    assert again.phase is Phase.CONTINUE and again.active and again.probability == pytest.approx(0.95)
    assert again.time == 1010.0 + 5 * (ward.n - 1) and again.alert_id == ward.sent[0].alert_id
    assert ward.tick(1) == ()


def test_a_wall_clock_set_back_only_delays_the_next_continue() -> None:
    ward = opened()
    assert ward.alerting.on_tick(115.0, WALL - 86400) == ()
    (again,) = ward.alerting.on_tick(120.0, WALL - 86400 + 301)
    assert again.phase is Phase.CONTINUE


# Restart and stop


def test_an_open_alert_goes_on_after_a_restart_where_it_is_still_seen() -> None:
    (start,) = opened().sent
    ward = Ward(Alerting(MANIFEST, open_alerts=[start]))
    ward.n = 10
    assert ward.tick(0) == ()
    assert ward.see(AFIB, AFIB, AFIB, encounter=X, generation=0) == ()
    (end,) = ward.see(NORMAL, NORMAL, encounter=X)
    assert end.alert_id == start.alert_id and end.reason == "recovered" and end.message_id != start.message_id


@pytest.mark.parametrize("device", ["m1", "m2"])
def test_an_open_alert_ends_after_a_restart_where_its_device_is_silent(device: str) -> None:
    (start,) = opened().sent
    ward = Ward(Alerting(MANIFEST, open_alerts=[start]))
    assert ward.alerting.on_tick(50.0, WALL) == ()
    if device == "m2":
        assert ward.alerting.on_prediction(prediction(-5, NORMAL, device="m2", encounter=X), WALL) == ()
    out = ward.alerting.on_tick(81.0, WALL + 31)
    assert phases(out)[0] == ("Afib", "end", "feed_lost")
    assert len(out) == (2 if device == "m1" else 1)


def test_an_open_alert_of_another_patient_ends_with_the_first_window_after_a_restart() -> None:
    (start,) = opened(X).sent
    ward = Ward(Alerting(MANIFEST, open_alerts=[start]))
    (end,) = ward.see(AFIB, encounter=Y)
    assert end.reason == "patient_changed" and end.encounter == X


def test_an_open_alert_that_the_new_model_does_not_raise_ends_at_once() -> None:
    (start,) = opened(X).sent
    ward = Ward(Alerting(manifest_of(("Sinusal", None)), open_alerts=[start]))
    assert phases(ward.tick(0)) == [("Afib", "end", "model_changed")]
    assert ward.tick(0) == ()


def test_a_technical_alert_ends_with_the_first_window_after_a_restart() -> None:
    before = opened()
    alert = before.tick(31)[-1]
    ward = Ward(Alerting(MANIFEST, open_alerts=[alert]))
    ward.tick(0)
    assert phases(ward.see(NORMAL, encounter=X)) == [(ECG_MISSING, "end", "recovered")]


def test_a_planned_stop_leaves_nothing_active() -> None:
    ward = opened()
    ward.see(LBBB, encounter=X)
    out = ward.alerting.on_shutdown(WALL)
    assert phases(out) == [("Afib", "end", "shutdown"), ("Left bundle branch block", "end", "shutdown")]
    assert ward.alerting.open_alerts() == ()


# The monitor's own alarms


def test_the_monitors_own_alarms_are_kept_until_they_end_or_the_patient_leaves() -> None:
    ward = opened()
    alarm = SourceAlarm("h/icu/1", "m1", 199736, "*AFIB", Phase.START, True, Priority.LOW, 1.0, 120.0)
    assert ward.alerting.on_source_alarm(alarm) == ()
    assert ward.alerting.source_alarms("h/icu/1") == (alarm,)
    over = dataclasses.replace(alarm, phase=Phase.END, active=False)
    ward.alerting.on_source_alarm(over)
    assert ward.alerting.source_alarms("h/icu/1") == () == ward.alerting.source_alarms("nowhere")
    for i in range(100):
        ward.alerting.on_source_alarm(dataclasses.replace(alarm, text=str(i)))
    assert len(ward.alerting.source_alarms("h/icu/1")) == 64
    ward.adt(EncounterEvent.DISCHARGE, X)
    assert ward.alerting.source_alarms("h/icu/1") == ()


# What must hold whatever comes in

beds = st.sampled_from(["b1", "b2", "b3"])
people = st.sampled_from([None, X, Y])


class Anything(RuleBasedStateMachine):
    """Predictions, ADT, silence, restarts in any order, beside one `Alerting` per bed that sees that bed only."""

    @initialize()
    def begin(self) -> None:
        self.now, self.wall = 100.0, WALL
        self.generations = dict.fromkeys(["b1", "b2", "b3"], 0)
        self.alerting = Alerting(MANIFEST, AlertingSettings(continue_every=20.0))
        self.alone = {bed: Alerting(MANIFEST, AlertingSettings(continue_every=20.0)) for bed in self.generations}
        self.log: list[Alert] = []
        self.open: dict[tuple[str, str], Alert] = {}

    def take(self, out: Sequence[Alert], expected: Sequence[Alert] | None = None) -> None:
        for alert in out:
            key = (alert.bed, alert.label)
            if alert.phase is Phase.START:
                assert key not in self.open, "two open alerts for one bed and label"
                self.open[key] = alert
            else:
                assert self.open[key].alert_id == alert.alert_id, "a message without its start"
                if alert.phase is Phase.END:
                    assert alert.reason and not alert.active
                    del self.open[key]
        self.log += out
        if expected is not None:
            assert list(out) == list(expected), "a bed's alerts depend on that bed alone"

    @rule(
        bed=beds,
        device=st.sampled_from(["m1", "m1", "m2"]),
        p=st.sampled_from([NORMAL, AFIB, AFIB, LBBB]),
        encounter=people,
        step=st.sampled_from([1, 1, 1, 2, 5, -2]),
        many=st.integers(1, 4),
    )
    def predict(
        self, bed: str, device: str, p: Sequence[float], encounter: Encounter | None, step: int, many: int
    ) -> None:
        for _ in range(many):
            self.now += 5.0
            self.wall += 5.0
            n = (self.now - 100.0) / 5 + (step if step != 1 else 0)
            made = prediction(n, p, bed=bed, device=device, generation=self.generations[bed], encounter=encounter)
            made = dataclasses.replace(made, window=dataclasses.replace(made.window, received=self.now))
            generation = self.generations[bed]
            expected = self.alone[bed].on_prediction(made, self.wall, generation)
            self.take(self.alerting.on_prediction(made, self.wall, generation), expected)

    @rule(bed=beds, p=st.sampled_from([AFIB, LBBB]))
    @precondition(lambda self: any(self.generations.values()))
    def stale(self, bed: str, p: Sequence[float]) -> None:
        made = prediction(0, p, bed=bed, generation=self.generations[bed] - 1)
        assert self.alerting.on_prediction(made, self.wall, self.generations[bed]) == ()
        self.alone[bed].on_prediction(made, self.wall, self.generations[bed])

    @rule(bed=beds, who=st.sampled_from([X, Y]))
    def discharge(self, bed: str, who: Encounter) -> None:
        self.generations[bed] += 1
        change = EncounterChange(EncounterEvent.DISCHARGE, bed, who, self.now)
        expected = self.alone[bed].on_encounter_change(change, self.wall)
        self.take(self.alerting.on_encounter_change(change, self.wall), expected)
        left = self.alerting.open_alerts(bed)
        assert all(not a.encounter or not a.encounter.same_patient(who) for a in left)

    @rule(bed=beds, who=st.sampled_from([X, Y]), event=st.sampled_from([EncounterEvent.ADMIT, EncounterEvent.UPDATE]))
    def arrive(self, bed: str, who: Encounter, event: EncounterEvent) -> None:
        if event is EncounterEvent.ADMIT:
            self.generations[bed] += 1
        change = EncounterChange(event, bed, who, self.now)
        expected = self.alone[bed].on_encounter_change(change, self.wall)
        self.take(self.alerting.on_encounter_change(change, self.wall), expected)
        assert all(not a.encounter or a.encounter.same_patient(who) for a in self.alerting.open_alerts(bed))

    @rule(bed=beds, prior=beds, who=st.sampled_from([X, Y]))
    def transfer(self, bed: str, prior: str, who: Encounter) -> None:
        self.generations[bed] += 1
        self.generations[prior] += 1
        change = EncounterChange(EncounterEvent.TRANSFER, bed, who, self.now, prior)
        self.take(self.alerting.on_encounter_change(change, self.wall))
        for one in {bed, prior}:
            self.alone[one].on_encounter_change(change, self.wall)

    @rule(seconds=st.sampled_from([1.0, 10.0, 31.0, 4000.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds
        out = self.alerting.on_tick(self.now, self.wall)
        expected = [a for alone in self.alone.values() for a in alone.on_tick(self.now, self.wall)]
        assert sorted(out, key=lambda a: a.message_id) == sorted(expected, key=lambda a: a.message_id)
        self.take(out)

    @rule()
    def restart(self) -> None:
        """kill -9 and a new process: the outbox knows the last message of each open alert."""
        last = {a.alert_id: a for a in self.log}
        restored = [a for a in last.values() if a.active]
        self.alerting = Alerting(MANIFEST, AlertingSettings(continue_every=20.0), restored)
        self.alone = {
            bed: Alerting(MANIFEST, AlertingSettings(continue_every=20.0), [a for a in restored if a.bed == bed])
            for bed in self.generations
        }
        self.generations = dict.fromkeys(self.generations, 0)

    @invariant()
    def ids_are_unique_and_the_state_agrees(self) -> None:
        assert len({a.message_id for a in self.log}) == len(self.log)
        assert {a.alert_id for a in self.alerting.open_alerts()} == {a.alert_id for a in self.open.values()}


Anything.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnything = Anything.TestCase
