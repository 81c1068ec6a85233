"""Alerting: patients, restarts, stops; and what must hold whatever comes in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import ClassVar

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from agent.core.alerting.alerting import Alerting
from agent.core.alerting.settings import AlertingSettings
from agent.core.alerting.technical import ECG_MISSING
from agent.core.bundle.manifest import Manifest
from agent.core.census import Census, CensusEvent, Departure, Left, Stay, contradict, same_known
from agent.core.ecg import (
    Alert,
    Encounter,
    EncounterChange,
    EncounterEvent,
    Gap,
    GapReason,
    Phase,
    Prediction,
    Priority,
    SourceAlarm,
)

X = Encounter(patient_ids=("1^^^H^MR",), family_name="Canary", location="ICU^1^1")
Y = Encounter(patient_ids=("2^^^H^MR",), family_name="Finch")
WALL = 1_700_000_000.0
NORMAL, AFIB, LBBB = (0.1, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9)


def test_a_prediction_of_an_earlier_encounter_is_discarded(make: SimpleNamespace) -> None:
    ward = make.Ward()
    ward.see(AFIB, AFIB)
    assert ward.alerting.on_prediction(make.prediction(2, AFIB), WALL, Stay(2)) == ()
    assert ward.alerting.take_suppressed() == {"generation": 1}
    assert ward.alerting.on_prediction(make.prediction(3, NORMAL, generation=2), WALL) == ()
    assert ward.alerting.on_prediction(make.prediction(4, AFIB), WALL) == ()
    assert ward.alerting.take_suppressed() == {"generation": 1}, "also where only the windows tell the generation"


def test_a_new_generation_ends_the_alerts_and_starts_every_count_anew(make: SimpleNamespace) -> None:
    alerting = Alerting(make.MANIFEST)
    out: list[Alert] = []
    for n, generation in enumerate([1, 1, 1, 3, 3, 3]):
        out += alerting.on_prediction(make.prediction(n, AFIB, generation=generation), WALL + n)
        if n == 3:
            assert make.phases(out) == [("Afib", "start", ""), ("Afib", "end", "patient_changed")]
    assert make.phases(out)[2:] == [("Afib", "start", "")]


def test_a_window_without_the_required_leads_or_of_another_model_counts_for_nothing(make: SimpleNamespace) -> None:
    ward = make.Ward()
    ward.see(AFIB, AFIB)
    assert ward.see(AFIB, missing=(1,)) == () and ward.see(AFIB, model="sl/2") == ()
    assert ward.alerting.take_suppressed() == {"leads": 1, "model": 1}
    assert ward.alerting.take_suppressed() == {}


def test_discharge_ends_and_forgets(make: SimpleNamespace) -> None:
    ward = make.opened()
    (end,) = ward.adt(EncounterEvent.DISCHARGE, X)
    assert make.phases([end]) == [("Afib", "end", "discharge")] and end.encounter == X
    assert ward.see(AFIB, AFIB) == ()
    (start,) = ward.see(AFIB)
    assert start.encounter is None, "nothing of the one who left"


def test_a_late_discharge_of_somebody_else_leaves_the_bed_alone(make: SimpleNamespace) -> None:
    ward = make.opened(X)
    assert ward.adt(EncounterEvent.DISCHARGE, Y) == []
    assert ward.adt(EncounterEvent.DISCHARGE, X, bed="h/icu/9") == []


def test_transfer_ends_the_bed_left_behind_and_whoever_lay_in_the_new_one(make: SimpleNamespace) -> None:
    ward = make.opened(X)
    ward.n = 0
    ward.see(AFIB, AFIB, AFIB, bed="h/icu/2", encounter=Y)
    out = ward.adt(EncounterEvent.TRANSFER, X, bed="h/icu/2", prior="h/icu/1")
    assert [(a.bed, a.reason) for a in out] == [("h/icu/1", "transfer"), ("h/icu/2", "patient_changed")]


def test_transfer_without_a_prior_bed_finds_the_patient(make: SimpleNamespace) -> None:
    out = make.opened(X).adt(EncounterEvent.TRANSFER, X, bed="h/icu/2")
    assert [(a.bed, a.reason) for a in out] == [("h/icu/1", "transfer")]
    assert make.opened(None).adt(EncounterEvent.TRANSFER, X, bed="h/icu/2") == []


def test_admission_of_another_or_to_an_unknown_patients_bed_ends_the_alerts(make: SimpleNamespace) -> None:
    for before in (Y, None):
        assert make.phases(make.opened(before).adt(EncounterEvent.ADMIT, X)) == [("Afib", "end", "patient_changed")]
    assert make.opened(X).adt(EncounterEvent.ADMIT, X) == []


def test_whoever_left_takes_the_alerts_along_and_gives_the_reason(make: SimpleNamespace) -> None:
    for reason in Departure:
        ward = make.opened(X)
        (end,) = ward.alerting.on_census(Left("h/icu/1", 1, reason), WALL)
        assert make.phases([end]) == [("Afib", "end", reason.value)] and end.encounter == X
        assert ward.alerting.on_census(Left("h/icu/9", 1, reason), WALL) == (), "a bed without a feed"


def test_a_gap_ends_nothing_by_itself(make: SimpleNamespace) -> None:
    ward = make.opened(X)
    ward.alerting.on_gap(Gap("h/icu/1", "m1", 1020.0, 1030.0, GapReason.MISSING))
    ward.alerting.on_gap(Gap("h/icu/9", "m1", 1020.0, 1030.0, GapReason.MISSING))
    assert len(ward.alerting.open_alerts()) == 1


def test_a_contradicting_identity_on_a_window_ends_the_alerts(make: SimpleNamespace) -> None:
    assert make.phases(make.opened(X).see(AFIB, encounter=Y)) == [("Afib", "end", "patient_changed")]


def test_after_a_restart_no_patients_alert_goes_on_in_the_next_ones_name(make: SimpleNamespace) -> None:
    unknown, known = make.opened(None).sent[-1], make.opened(X).sent[-1]
    # One alert began before anybody knew who it was; the order in which they were written does not matter.
    unknown = dataclasses.replace(unknown, label=ECG_MISSING)
    for alerts in ((unknown, known), (known, unknown)):
        out = make.Ward(opened=alerts).see(AFIB, encounter=Y)
        assert {a.reason for a in out} == {"patient_changed"} and len(out) == 2


def test_a_nameless_window_does_not_make_a_restored_alert_anybodys(make: SimpleNamespace) -> None:
    for by_adt in (True, False):
        ward = make.Ward(opened=[make.opened(X).sent[-1]])
        assert ward.see(AFIB, encounter=Encounter(location="ICU^1^1")) == ()
        out = ward.adt(EncounterEvent.UPDATE, Y) if by_adt else ward.see(AFIB, encounter=Y)
        assert make.phases(out) == [("Afib", "end", "patient_changed")]


def test_what_was_open_before_a_long_stop_is_over(make: SimpleNamespace) -> None:
    before = make.opened(X).sent[-1]
    for after, reasons in ((3000.0, []), (4000.0, ["feed_lost"])):
        ward = make.Ward(opened=[before])
        out = ward.alerting.on_tick(1.0, before.created + after)
        assert [a.reason for a in out if a.phase is Phase.END] == reasons
    assert ward.alerting.open_alerts() == ()


def test_a_transfer_without_a_prior_bed_reaches_no_bed_of_another_sender(make: SimpleNamespace) -> None:
    ward = make.opened(X)
    change = EncounterChange(EncounterEvent.TRANSFER, "h/er/1", X, 100.0, None, ("h/er/*",))
    assert ward.tell(ward.census.apply(change)) == ()
    assert [a.label for a in ward.alerting.open_alerts("h/icu/1")] == ["Afib"]


def test_a_flood_of_monitors_alarms_takes_a_bounded_memory(make: SimpleNamespace) -> None:
    ward = make.Ward()
    for i in range(5000):
        alarm = SourceAlarm(f"h/x/{i}", "m", 1, "x" * 10_000, Phase.START, True, None, None, 100.0)
        ward.alerting.on_source_alarm(alarm)
    kept = [a for i in range(5000) for a in ward.alerting.source_alarms(f"h/x/{i}")]
    assert len(kept) == 4096 and all(len(a.text) == 200 for a in kept)
    assert ward.alerting.take_suppressed() == {"too_many_beds": 904}


def test_a_bed_whose_monitor_was_put_away_is_forgotten(make: SimpleNamespace) -> None:
    ward = make.opened()
    ward.tick(31)
    assert make.phases(ward.tick(3601)) == [(ECG_MISSING, "end", "feed_lost")]
    assert ward.alerting.open_alerts() == () and ward.alerting._beds == {}


def test_an_open_alert_goes_on_after_a_restart_where_it_is_still_seen(make: SimpleNamespace) -> None:
    (start,) = make.opened().sent
    ward = make.Ward(opened=[start])
    ward.n = 10
    assert ward.tick(0) == ()
    assert ward.see(AFIB, AFIB, AFIB, encounter=X) == ()
    (end,) = ward.see(NORMAL, NORMAL, encounter=X)
    assert end.alert_id == start.alert_id and end.reason == "recovered" and end.message_id != start.message_id


@pytest.mark.parametrize("device", ["m1", "m2"])
def test_an_open_alert_ends_after_a_restart_where_its_device_is_silent(make: SimpleNamespace, device: str) -> None:
    (start,) = make.opened().sent
    ward = make.Ward(opened=[start])
    assert ward.alerting.on_tick(50.0, WALL) == ()
    if device == "m2":
        assert ward.alerting.on_prediction(make.prediction(-5, NORMAL, device="m2", encounter=X), WALL) == ()
    out = ward.alerting.on_tick(81.0, WALL + 31)
    assert make.phases(out)[0] == ("Afib", "end", "feed_lost")
    assert len(out) == (2 if device == "m1" else 1)


def test_an_open_alert_of_another_patient_ends_with_the_first_window_after_a_restart(make: SimpleNamespace) -> None:
    (start,) = make.opened(X).sent
    ward = make.Ward(opened=[start])
    (end,) = ward.see(AFIB, encounter=Y)
    assert end.reason == "patient_changed" and end.encounter == X


def test_an_open_alert_that_the_new_model_does_not_raise_ends_at_once(make: SimpleNamespace) -> None:
    (start,) = make.opened(X).sent
    ward = make.Ward(Alerting(make.manifest_of(("Sinusal", None)), open_alerts=[start]))
    assert make.phases(ward.tick(0)) == [("Afib", "end", "model_changed")]
    assert ward.tick(0) == ()


def test_a_planned_stop_leaves_nothing_active(make: SimpleNamespace) -> None:
    ward = make.opened()
    ward.see(LBBB, encounter=X)
    out = ward.alerting.on_shutdown(WALL)
    assert make.phases(out) == [("Afib", "end", "shutdown"), ("Left bundle branch block", "end", "shutdown")]
    assert ward.alerting.open_alerts() == ()


def test_the_monitors_own_alarms_are_kept_until_they_end_or_the_patient_leaves(make: SimpleNamespace) -> None:
    ward = make.opened()
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


class Line:
    """A census before an alerting."""

    def __init__(self, manifest: Manifest, opened: Sequence[Alert] = ()) -> None:
        self.alerting = Alerting(manifest, AlertingSettings(continue_every=20.0), opened)
        self.census = Census()
        self.restored = [event for alert in opened for event in self.census.restore(alert.bed, alert.encounter)]

    def tell(self, events: Iterable[CensusEvent], wall: float) -> list[Alert]:
        return [alert for event in events for alert in self.alerting.on_census(event, wall)]

    def see(self, p: Prediction, who: Encounter | None, wall: float) -> list[Alert]:
        window = p.window
        out = self.tell(self.census.identify(window.bed, window.device, who, window.received), wall)
        stay = self.census.stay(window.bed)
        assert stay is not None
        window = dataclasses.replace(window, generation=stay.generation, encounter=stay.encounter)
        return [*out, *self.alerting.on_prediction(dataclasses.replace(p, window=window), wall, stay)]

    def tick(self, now: float, wall: float) -> list[Alert]:
        self.census.forget(now)
        return list(self.alerting.on_tick(now, wall))


class Anything(RuleBasedStateMachine):
    """Predictions, ADT, silence, restarts in any order, beside one line per bed that sees that bed only."""

    make: ClassVar[SimpleNamespace]

    @initialize()
    def begin(self) -> None:
        self.now, self.wall = 100.0, WALL
        self.line = Line(self.make.MANIFEST)
        self.alone = {bed: Line(self.make.MANIFEST) for bed in ("b1", "b2", "b3")}
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
            assert out == expected, "a bed's alerts depend on that bed alone"

    @rule(
        bed=beds,
        device=st.sampled_from(["m1", "m1", "m2"]),
        p=st.sampled_from([NORMAL, AFIB, AFIB, LBBB]),
        who=people,
        step=st.sampled_from([1, 1, 1, 2, 5, -2]),
        many=st.integers(1, 4),
    )
    def predict(self, bed: str, device: str, p: Sequence[float], who: Encounter | None, step: int, many: int) -> None:
        for _ in range(many):
            self.now += 5.0
            self.wall += 5.0
            n = (self.now - 100.0) / 5 + (step if step != 1 else 0)
            made = self.make.prediction(n, p, bed=bed, device=device)
            made = dataclasses.replace(made, window=dataclasses.replace(made.window, received=self.now))
            self.take(self.line.see(made, who, self.wall), self.alone[bed].see(made, who, self.wall))

    @rule(bed=beds, p=st.sampled_from([AFIB, LBBB]))
    def stale(self, bed: str, p: Sequence[float]) -> None:
        for line in (self.line, self.alone[bed]):
            stay = line.census.stay(bed)
            if stay is not None and stay.generation:
                late = self.make.prediction(0, p, bed=bed, generation=stay.generation - 1)
                assert line.alerting.on_prediction(late, self.wall, stay) == ()

    def adt(self, change: EncounterChange) -> None:
        out = self.line.tell(self.line.census.apply(change), self.wall)
        concerned = sorted({change.bed, change.prior_bed or change.bed})
        expected = []
        for bed in concerned:
            line = self.alone[bed]
            expected += [a for a in line.tell(line.census.apply(change), self.wall) if a.bed == bed]
        assert sorted(out, key=lambda a: a.message_id) == sorted(expected, key=lambda a: a.message_id)
        self.take(out)

    @rule(bed=beds, who=st.sampled_from([X, Y]))
    def discharge(self, bed: str, who: Encounter) -> None:
        self.adt(EncounterChange(EncounterEvent.DISCHARGE, bed, who, self.now))
        assert not any(same_known(a.encounter, who) for a in self.line.alerting.open_alerts(bed))

    @rule(bed=beds, who=st.sampled_from([X, Y]), event=st.sampled_from([EncounterEvent.ADMIT, EncounterEvent.UPDATE]))
    def arrive(self, bed: str, who: Encounter, event: EncounterEvent) -> None:
        self.adt(EncounterChange(event, bed, who, self.now))
        assert not any(contradict(a.encounter, who) for a in self.line.alerting.open_alerts(bed))

    @rule(bed=beds, prior=beds, who=st.sampled_from([X, Y]))
    def transfer(self, bed: str, prior: str, who: Encounter) -> None:
        self.adt(EncounterChange(EncounterEvent.TRANSFER, bed, who, self.now, prior))

    @rule(seconds=st.sampled_from([1.0, 10.0, 31.0, 4000.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds
        out = self.line.tick(self.now, self.wall)
        expected = [a for line in self.alone.values() for a in line.tick(self.now, self.wall)]
        assert sorted(out, key=lambda a: a.message_id) == sorted(expected, key=lambda a: a.message_id)
        self.take(out)

    @rule()
    def restart(self) -> None:
        """kill -9 and a new process: the outbox knows the last message of each open alert."""
        last = {a.alert_id: a for a in self.log}
        restored = [a for a in last.values() if a.active]
        self.line = Line(self.make.MANIFEST, restored)
        self.alone = {bed: Line(self.make.MANIFEST, [a for a in restored if a.bed == bed]) for bed in self.alone}
        assert not any(isinstance(event, Left) for event in self.line.restored), "a bed's alerts are of one patient"

    @invariant()
    def ids_are_unique_and_the_state_agrees(self) -> None:
        assert len({a.message_id for a in self.log}) == len(self.log)
        assert {a.alert_id for a in self.line.alerting.open_alerts()} == {a.alert_id for a in self.open.values()}

    @invariant()
    def nobodys_alert_is_open_where_somebody_else_lies(self) -> None:
        for alert in self.line.alerting.open_alerts():
            stay = self.line.census.stay(alert.bed)
            assert stay is None or not contradict(alert.encounter, stay.encounter)


def test_what_must_hold_whatever_comes_in(make: SimpleNamespace) -> None:
    Anything.make = make
    settings = hypothesis_settings(max_examples=100, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(Anything, settings=settings)
