"""Silence: what ends, and what is told in its place."""

from __future__ import annotations

from types import SimpleNamespace

from agent.core.alerting.alerting import Alerting
from agent.core.alerting.settings import AlertingSettings
from agent.core.alerting.technical import ECG_MISSING, LEADS_OFF
from agent.core.ecg import (
    Encounter,
    EncounterEvent,
    Gap,
    GapReason,
    Priority,
)

X = Encounter(patient_ids=("1^^^H^MR",), family_name="Canary", location="ICU^1^1")
Y = Encounter(patient_ids=("2^^^H^MR",), family_name="Finch")
WALL = 1_700_000_000.0
NORMAL, AFIB, LBBB = (0.1, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9)


def test_silence_ends_the_alerts_and_raises_a_technical_one_until_there_is_signal(make: SimpleNamespace) -> None:
    ward = make.opened()
    assert ward.tick(29) == ()
    lost = ward.tick(31)
    assert make.phases(lost) == [("Afib", "end", "feed_lost"), (ECG_MISSING, "start", "")]
    assert lost[1].code == 197378 and lost[1].priority is Priority.LOW and "advisor" in lost[1].text
    assert lost[1].time == lost[1].opened == WALL + 41
    assert ward.tick(40) == ()
    ward.n += 20
    assert make.phases(ward.see(AFIB, encounter=X)) == [(ECG_MISSING, "end", "recovered")]
    assert ward.see(AFIB, encounter=X) == () and make.phases(ward.see(AFIB, encounter=X)) == [("Afib", "start", "")]


def test_one_device_lost_while_the_other_goes_on_is_no_technical_alert(make: SimpleNamespace) -> None:
    ward = make.opened()
    ward.see(NORMAL, NORMAL, NORMAL, NORMAL, device="m2", encounter=X)
    assert ward.tick(0) == ()
    ward.see(NORMAL, NORMAL, NORMAL, device="m2", encounter=X)
    assert make.phases(ward.tick(0)) == [("Afib", "end", "feed_lost")]
    assert make.phases(ward.tick(31)) == [(ECG_MISSING, "start", "")]
    assert ward.tick(32) == ()


def test_leads_off_is_said_where_asked_for(make: SimpleNamespace) -> None:
    ward = make.Ward(Alerting(make.MANIFEST, AlertingSettings(leads_off=True, feed_lost_priority=Priority.MEDIUM)))
    ward.see(NORMAL)
    ward.alerting.on_gap(Gap("h/icu/1", "m1", 1010.0, 1030.0, GapReason.INVALID))
    (alert,) = ward.tick(31)
    assert (alert.label, alert.code, alert.priority) == (LEADS_OFF, 196882, Priority.MEDIUM)
    quiet = make.Ward(Alerting(make.MANIFEST, AlertingSettings(feed_lost_alert=False)))
    quiet.see(AFIB, AFIB, AFIB)
    assert make.phases(quiet.tick(31)) == [("Afib", "end", "feed_lost")]


def test_no_technical_alert_after_a_discharge(make: SimpleNamespace) -> None:
    ward = make.opened()
    ward.adt(EncounterEvent.DISCHARGE, X)
    assert ward.tick(31) == () == ward.tick(4000)


def test_a_technical_alert_ends_with_the_first_window_after_a_restart(make: SimpleNamespace) -> None:
    before = make.opened()
    alert = before.tick(31)[-1]
    ward = make.Ward(opened=[alert])
    ward.tick(0)
    assert make.phases(ward.see(NORMAL, encounter=X)) == [(ECG_MISSING, "end", "recovered")]


def test_a_technical_alert_recovers_also_where_the_census_has_forgotten_the_bed_meanwhile(
    make: SimpleNamespace,
) -> None:
    ward = make.opened(None)
    ward.tick(31)
    ward.census.forget(100.0 + 10 + 601)
    ward.n += 125
    assert make.phases(ward.see(NORMAL)) == [(ECG_MISSING, "end", "recovered")]
