"""One alert from message to message: ids, data, continue."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from agent.core.alerting.alerting import Alerting
from agent.core.ecg import (
    Encounter,
    EncounterEvent,
    Phase,
)

X = Encounter(patient_ids=("1^^^H^MR",), family_name="Canary", location="ICU^1^1")
Y = Encounter(patient_ids=("2^^^H^MR",), family_name="Finch")
WALL = 1_700_000_000.0
NORMAL, AFIB, LBBB = (0.1, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9)


def test_ids_name_the_events(make: SimpleNamespace) -> None:
    one, two = make.Ward(), make.Ward()
    for ward in (one, two):
        ward.see(AFIB, AFIB, AFIB, NORMAL, NORMAL, AFIB, AFIB, AFIB)
    assert one.sent == two.sent, "the same inputs give the same ids"
    assert [a.phase.value for a in one.sent] == ["start", "end", "start"]
    assert one.sent[0].alert_id == one.sent[1].alert_id != one.sent[2].alert_id
    assert len({a.message_id for a in one.sent}) == 3


def test_a_device_whose_clock_restarts_gets_new_ids(make: SimpleNamespace) -> None:
    one, two = make.Ward(), make.Ward()
    (first,) = one.see(AFIB, AFIB, AFIB)
    for n in range(3):
        again = two.alerting.on_prediction(make.prediction(n, AFIB), WALL + 86400 + 5 * n)
    assert again[0].opened == first.opened and again[0].alert_id != first.alert_id


def test_a_label_that_the_table_does_not_know_goes_out_by_its_name(make: SimpleNamespace) -> None:
    (start,) = make.Ward(Alerting(make.manifest_of(("LVEF <= 40 %", make.rule_of(open_after=1))))).see((0.9,))
    assert (start.code, start.ref_id, start.text) == (0, "", "LVEF <= 40 % (advisory)")


def test_continue_brings_the_receiver_back_in_step(make: SimpleNamespace) -> None:
    ward = make.opened()
    for _ in range(58):
        ward.see((0.1, 0.85, 0.1), encounter=X)
        assert ward.tick(0) == ()
    ward.see((0.1, 0.95, 0.1), encounter=X)
    ward.see((0.1, 0.95, 0.1), encounter=X)
    (again,) = ward.tick(0)
    assert again.phase is Phase.CONTINUE and again.active and again.probability == pytest.approx(0.95)
    assert again.time == 1010.0 + 5 * (ward.n - 1) and again.alert_id == ward.sent[0].alert_id
    assert ward.tick(1) == ()


def test_a_wall_clock_set_back_only_delays_the_next_continue(make: SimpleNamespace) -> None:
    ward = make.opened()
    assert ward.alerting.on_tick(115.0, WALL - 86400) == ()
    (again,) = ward.alerting.on_tick(120.0, WALL - 86400 + 301)
    assert again.phase is Phase.CONTINUE


def test_update_travels_with_later_messages_of_the_same_patient_only(make: SimpleNamespace) -> None:
    ward = make.opened(X)
    named = dataclasses.replace(X, family_name="Corrected", location="")
    assert ward.adt(EncounterEvent.UPDATE, named) == []
    (end,) = ward.see(NORMAL, NORMAL, encounter=X)
    assert end.encounter == dataclasses.replace(named, location="ICU^1^1"), "what A08 leaves empty stays"
    assert make.phases(make.opened(X).adt(EncounterEvent.UPDATE, Y)) == [("Afib", "end", "patient_changed")]


def test_an_alert_of_an_unknown_patient_stays_one(make: SimpleNamespace) -> None:
    ward = make.opened(None)
    assert ward.adt(EncounterEvent.UPDATE, X) == []
    (end,) = ward.see(NORMAL, NORMAL, encounter=X)
    assert end.encounter is None
    (start,) = ward.see(AFIB, AFIB, AFIB, encounter=X)
    assert start.encounter == X
