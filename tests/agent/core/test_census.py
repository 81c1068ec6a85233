"""Who lies in which bed: the example in the module, and one property for each of its rules."""

from __future__ import annotations

import copy
import dataclasses
import doctest
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core import census as module
from agent.core.census import (
    Arrived,
    Census,
    CensusEvent,
    Departure,
    Left,
    Stay,
    Updated,
    contradict,
    same_known,
)
from agent.core.ecg import Encounter, EncounterChange, EncounterEvent

BEDS = ("h/icu/1", "h/icu/2", "h/icu/3", "x/er/1")
IDLE = 600.0


def test_the_example_runs() -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 8 and result.failed == 0


# What may come in

ids = st.sampled_from([("1^^^H",), ("1^^^H", "9^^^N"), ("9^^^N",), ("1",), ("2^^^H",), ("2^^^X", "7^^^N"), ("1^^^X",)])
named = st.builds(
    Encounter,
    patient_ids=ids,
    family_name=st.sampled_from(["", "Canary", "Finch"]),
    sex=st.sampled_from(["", "F"]),
    location=st.sampled_from(["", "icu^1"]),
)
nameless = st.builds(Encounter, family_name=st.sampled_from(["", "Canary"]), location=st.sampled_from(["", "icu^2"]))
anybody = st.one_of(named, named, nameless)
beds = st.sampled_from(BEDS)
changes = st.builds(
    EncounterChange,
    event=st.sampled_from(EncounterEvent),
    bed=beds,
    encounter=anybody,
    received=st.just(0.0),
    prior_bed=st.one_of(st.none(), beds),
    sender_beds=st.sampled_from([("*",), ("h/*",), ("x/*",)]),
)


@dataclass(frozen=True)
class Identity:
    """What a block of samples carries, ``after`` seconds of silence."""

    bed: str
    device: str
    encounter: Encounter | None
    after: float


blocks = st.builds(
    Identity,
    bed=beds,
    device=st.sampled_from(["m", "n"]),
    encounter=st.one_of(st.none(), anybody),
    after=st.sampled_from([1.0, 1.0, 8.0, 25.0, 700.0]),
)
steps = st.lists(st.one_of(changes, blocks, blocks), max_size=40)


class Feed:
    """A census, and the time of the agent's clock."""

    def __init__(self, max_beds: int = 2048) -> None:
        self.census = Census(max_beds, IDLE)
        self.now = 0.0

    def take(self, step: EncounterChange | Identity) -> tuple[CensusEvent, ...]:
        if isinstance(step, EncounterChange):
            return self.census.apply(step)
        self.now += step.after
        self.census.forget(self.now)
        return self.census.identify(step.bed, step.device, step.encounter, self.now)

    def stays(self) -> dict[str, Stay]:
        return {bed: stay for bed in BEDS if (stay := self.census.stay(bed)) is not None}


def fed(history: list[EncounterChange | Identity]) -> Census:
    feed = Feed()
    for step in history:
        feed.take(step)
    return feed.census


def who(census: Census, bed: str) -> Encounter | None:
    stay = census.stay(bed)
    return None if stay is None else stay.encounter


def kinds(events: tuple[CensusEvent, ...]) -> list[tuple[type[CensusEvent], str]]:
    return [(type(event), event.bed) for event in events]


# 1. Same patient


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("1^^^A^MR",), ("1^^^A^PI",), True),
        (("1^^^A",), ("1",), True),  # many a monitor names no authority
        (("1^^^A",), ("1^^^B",), False),  # two hospitals count from 1
        (("1^^^A&1.2.3&ISO",), ("1^^^&1.2.3&ISO",), True),
        (("1^^^A&1.2.3&ISO",), ("1^^^A",), True),
        (("1^^^A&1.2.3&ISO",), ("1^^^B&1.2.4&ISO",), False),
        (("1^^^A", "9^^^N"), ("2^^^A", "9^^^N"), True),
        (("1^^^A",), ("2^^^A",), False),
    ],
)
def test_a_number_is_a_patient_only_with_its_authority(
    one: tuple[str, ...], other: tuple[str, ...], same: bool
) -> None:
    a, b = Encounter(patient_ids=one), Encounter(patient_ids=other)
    assert same_known(a, b) is same_known(b, a) is same
    assert contradict(a, b) is contradict(b, a) is not same


numbers = st.sampled_from("123")
authorities = st.sampled_from(["", "A", "B", "&1.2", "A&1.2", "B&1.3"])
identifiers = st.lists(st.tuples(numbers, authorities), min_size=1, max_size=4)


@given(identifiers, identifiers)
def test_rule_1_two_contradict_each_other_where_no_identifier_of_one_fits_any_of_the_other(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    def fits(x: tuple[str, str], y: tuple[str, str]) -> bool:
        mine, theirs = ({part for part in authority.split("&") if part} for _, authority in (x, y))
        return x[0] == y[0] and (not mine or not theirs or bool(mine & theirs))

    a, b = (Encounter(patient_ids=tuple(f"{n}^^^{authority}^MR" for n, authority in many)) for many in (one, other))
    shared = any(fits(x, y) for x in one for y in other)
    assert (contradict(a, b), same_known(a, b)) == (not shared, shared)
    for unknown in (None, Encounter(), Encounter(family_name="Canary")):
        assert not contradict(a, unknown) and not contradict(unknown, a), "who names nobody contradicts nobody"
        assert not same_known(a, unknown) and not same_known(unknown, unknown)


def test_many_identifiers_are_compared_one_by_one_and_not_each_with_each() -> None:
    one = Encounter(patient_ids=tuple(f"1^^^A{i}" for i in range(50_000)))
    other = Encounter(patient_ids=tuple(f"1^^^B{i}" for i in range(50_000)))
    assert contradict(one, other)


# 2. Generation


@given(steps, st.sampled_from([2, 2048]))
def test_rule_2_the_generation_never_falls_and_the_events_tell_all_that_changes(
    history: list[EncounterChange | Identity], max_beds: int
) -> None:
    feed = Feed(max_beds)
    told: dict[str, Stay] = {}
    for step in history:
        before = {bed: feed.census.generation(bed) for bed in BEDS}
        events = feed.take(step)
        lefts = [event for event in events if isinstance(event, Left)]
        assert all(event.generation > before[event.bed] for event in lefts)
        for event in events:
            told[event.bed] = Stay(event.generation, None if isinstance(event, Left) else event.encounter)
        for bed in BEDS:
            assert feed.census.generation(bed) >= before[bed]
            stay, known = feed.census.stay(bed), told.get(bed)
            if stay is not None and known is not None and known.generation == stay.generation:
                assert stay == known
            elif stay is not None:  # nothing has been said of him since he was new here, or was forgotten
                assert stay.encounter is None and (known is None or stay.generation > known.generation)


@given(steps)
def test_rule_2_an_arrival_follows_a_departure_of_the_same_generation(
    history: list[EncounterChange | Identity],
) -> None:
    feed = Feed()
    for step in history:
        events = feed.take(step)
        for last, event in zip((None, *events), events, strict=False):
            if isinstance(event, Arrived):
                assert isinstance(last, Left)
                assert (last.bed, last.generation) == (event.bed, event.generation)


# 3 to 6. Hospital messages


@given(steps, beds, anybody)
def test_rule_3_an_update_adds_what_it_says_and_replaces_whom_it_contradicts(
    history: list[EncounterChange | Identity], bed: str, update: Encounter
) -> None:
    census = fed(history)
    before, generation = who(census, bed) or Encounter(), census.generation(bed)
    events = census.apply(EncounterChange(EncounterEvent.UPDATE, bed, update, 0.0))
    if contradict(before, update):
        assert events == (
            Left(bed, generation + 1, Departure.PATIENT_CHANGED),
            Arrived(bed, generation + 1, update),
        )
        return
    after = who(census, bed)
    assert census.generation(bed) == generation and {type(event) for event in events} <= {Updated}
    for field in dataclasses.fields(Encounter):
        said = getattr(update, field.name)
        assert getattr(after, field.name) == (said or getattr(before, field.name))


@given(steps, beds, anybody)
def test_rule_4_an_admission_ends_the_stay_of_anybody_who_is_not_known_to_be_the_same(
    history: list[EncounterChange | Identity], bed: str, patient: Encounter
) -> None:
    census = fed(history)
    twin, before = copy.deepcopy(census), who(census, bed)
    events = census.apply(EncounterChange(EncounterEvent.ADMIT, bed, patient, 0.0))
    if same_known(before, patient):
        assert events == twin.apply(EncounterChange(EncounterEvent.UPDATE, bed, patient, 0.0))
    else:
        assert kinds(events) == [(Left, bed), (Arrived, bed)]
        assert who(census, bed) == patient, "nothing of the one before"


@given(steps, beds, anybody)
def test_rule_5_a_discharge_empties_the_bed_unless_the_next_patient_is_there(
    history: list[EncounterChange | Identity], bed: str, patient: Encounter
) -> None:
    census = fed(history)
    before, others = census.stay(bed), {b: census.stay(b) for b in BEDS if b != bed}
    events = census.apply(EncounterChange(EncounterEvent.DISCHARGE, bed, patient, 0.0))
    if before is not None and contradict(before.encounter, patient):
        assert events == () and census.stay(bed) == before
    else:
        assert events == (Left(bed, census.generation(bed), Departure.DISCHARGE),)
        assert who(census, bed) is None
    assert {b: census.stay(b) for b in others} == others


@given(steps, beds, st.one_of(st.none(), beds), anybody, st.sampled_from([("*",), ("h/*",), ("x/*",)]))
def test_rule_6_a_transfer_is_a_departure_and_an_admission(
    history: list[EncounterChange | Identity],
    bed: str,
    prior: str | None,
    patient: Encounter,
    reach: tuple[str, ...],
) -> None:
    census = fed(history)
    twin, before = copy.deepcopy(census), {b: who(census, b) for b in BEDS}
    transfer = EncounterChange(EncounterEvent.TRANSFER, bed, patient, 0.0, prior, reach)
    events = census.apply(transfer)
    if prior == bed:
        assert events == twin.apply(EncounterChange(EncounterEvent.UPDATE, bed, patient, 0.0))
        return
    left = [prior] if prior is not None else [b for b in BEDS if b != bed and same_known(before[b], patient)]
    if prior is None:
        left = [b for b in left if b.startswith("h/") or "h/*" not in reach]
        left = [b for b in left if b.startswith("x/") or "x/*" not in reach]
    expected: list[CensusEvent] = []
    for b in left:
        for event in twin.apply(EncounterChange(EncounterEvent.DISCHARGE, b, patient, 0.0)):
            assert isinstance(event, Left)
            expected.append(dataclasses.replace(event, reason=Departure.TRANSFER))
    admitted = twin.apply(EncounterChange(EncounterEvent.ADMIT, bed, patient, 0.0))
    assert sorted(events[: len(expected)], key=lambda event: event.bed) == sorted(expected, key=lambda e: e.bed)
    assert events[len(expected) :] == admitted
    assert [census.stay(b) for b in BEDS] == [twin.stay(b) for b in BEDS]


# 7 and 8. What samples carry


@given(steps, beds, anybody)
def test_rule_7_samples_replace_whom_they_contradict_and_are_heard_once(
    history: list[EncounterChange | Identity], bed: str, said: Encounter
) -> None:
    census = fed(history)
    before, generation = who(census, bed), census.generation(bed)
    events = census.identify(bed, "new device", said, 1e6)
    if contradict(before, said):
        assert kinds(events) == [(Left, bed), (Arrived, bed)] and who(census, bed) == said
    else:
        after = who(census, bed)
        assert census.generation(bed) == generation and {type(event) for event in events} <= {Updated}
        assert after is not None
        for field in dataclasses.fields(Encounter):
            assert getattr(after, field.name) in (getattr(said, field.name), getattr(before, field.name, ""))
            assert getattr(after, field.name) or not getattr(said, field.name), "it fills in what is empty"
    assert census.identify(bed, "new device", said, 1e6) == ()


@given(steps, beds, named, st.lists(anybody, max_size=8))
def test_rule_7_of_a_patient_whom_adt_has_named_samples_only_fill_in_what_is_empty(
    history: list[EncounterChange | Identity], bed: str, patient: Encounter, said: list[Encounter]
) -> None:
    census = fed(history)
    census.apply(EncounterChange(EncounterEvent.ADMIT, bed, patient, 0.0))
    known = who(census, bed)
    assert known is not None
    for encounter in said:
        if not contradict(known, encounter):
            census.identify(bed, "new device", encounter, 1e6)
    after = who(census, bed)
    assert all(
        getattr(after, field.name) == getattr(known, field.name)
        for field in dataclasses.fields(Encounter)
        if getattr(known, field.name)
    )


def test_rule_7_what_a_monitor_keeps_repeating_does_not_undo_what_another_has_said_since() -> None:
    census = Census()
    old, new = (Encounter(patient_ids=("1^^^H",), family_name=name) for name in ("Canari", "Canary"))
    census.identify("h/icu/1", "m", old, 0.0)
    census.identify("h/icu/1", "n", new, 1.0)
    assert census.identify("h/icu/1", "m", old, 2.0) == ()
    assert who(census, "h/icu/1") == new


CANARY = Encounter(patient_ids=("1^^^H",))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([CANARY, None, None, None, Encounter(location="icu^1")]),
            st.sampled_from([0.0, 1.0, 5.0, 10.0, 15.0]),
        ),
        max_size=40,
    )
)
def test_rule_8_a_device_that_no_longer_names_its_patient_has_forgotten_him(
    said: list[tuple[Encounter | None, float]],
) -> None:
    census, now = Census(), 0.0
    named_at, blocks = None, 0
    for encounter, after in said:
        now += after
        events = census.identify("h/icu/1", "m", encounter, now)
        if encounter is CANARY:
            named_at, blocks = now, 0
        elif named_at is not None:
            blocks += 1
        withdrawn = blocks >= 3 and named_at is not None and now - named_at > 20.0
        assert any(isinstance(event, Left) for event in events) == withdrawn
        if withdrawn:
            assert who(census, "h/icu/1") == encounter, "and nothing of the name is left"
            named_at, blocks = None, 0


def test_rule_8_is_no_matter_of_devices_that_never_named_anybody() -> None:
    census = Census()
    census.apply(EncounterChange(EncounterEvent.ADMIT, "h/icu/1", CANARY, 0.0))
    for second in range(100):
        assert census.identify("h/icu/1", "m", None, float(second)) == ()
    assert who(census, "h/icu/1") == CANARY


# 9. Restart


@given(st.lists(st.one_of(st.none(), anybody), max_size=8))
def test_rule_9_whoever_is_newest_among_the_open_alerts_lies_there_after_a_restart(
    alerts: list[Encounter | None],
) -> None:
    census = Census()
    for encounter in alerts:
        before = who(census, "h/icu/1")
        events = census.restore("h/icu/1", encounter)
        assert any(isinstance(event, Left) for event in events) == contradict(before, encounter)
        if encounter is not None and encounter.patient_ids:
            assert same_known(who(census, "h/icu/1"), encounter)
        else:
            assert not same_known(before, before) or same_known(who(census, "h/icu/1"), before)


def test_rule_9_he_lies_there_until_something_says_otherwise_and_no_longer_than_a_silent_monitor() -> None:
    census = Census(idle=IDLE)
    census.restore("h/icu/1", CANARY)
    census.identify("h/icu/1", "m", None, 100.0)
    census.forget(100.0 + IDLE)
    assert who(census, "h/icu/1") == CANARY
    census.forget(101.0 + IDLE)
    assert census.stay("h/icu/1") is None
    census.restore("h/icu/2", CANARY)
    census.forget(5000.0)
    census.forget(5000.0 + IDLE)
    assert who(census, "h/icu/2") == CANARY, "its monitor has had no time to say anything yet"
    census.forget(5001.0 + IDLE)
    assert census.stay("h/icu/2") is None


# 10. Memory


@settings(max_examples=50)
@given(st.lists(st.one_of(changes, blocks), max_size=60), st.integers(1, 3))
def test_rule_10_memory_is_bounded_and_a_bed_with_samples_is_never_pushed_out(
    history: list[EncounterChange | Identity], max_beds: int
) -> None:
    feed = Feed(max_beds)
    heard: dict[str, float] = {}
    for step in history:
        feed.take(step)
        if isinstance(step, Identity) and feed.census.stay(step.bed) is not None:
            heard[step.bed] = feed.now
        alive = {bed for bed, at in heard.items() if feed.now - at <= IDLE}
        assert alive <= set(feed.stays()) and len(feed.stays()) <= max_beds
        if isinstance(step, Identity) and step.bed not in feed.stays():
            assert len(alive) == max_beds, "refused only where every place is one with samples"
            assert feed.census.counts["too_many_beds"]


def test_rule_10_whom_adt_has_put_there_outlasts_a_monitor_that_is_off_and_others_do_not() -> None:
    census = Census(idle=IDLE)
    census.apply(EncounterChange(EncounterEvent.ADMIT, "h/icu/1", CANARY, 0.0))
    for bed in ("h/icu/1", "h/icu/2"):
        census.identify(bed, "m", CANARY, 0.0)
    census.forget(IDLE + 1.0)
    assert who(census, "h/icu/1") == CANARY
    assert census.stay("h/icu/2") is None
    assert census.generation("h/icu/2") == 1, "whoever comes next is somebody else"
    census.apply(EncounterChange(EncounterEvent.DISCHARGE, "h/icu/1", CANARY, 0.0))
    census.identify("h/icu/1", "m", CANARY, 2 * IDLE)
    census.forget(3 * IDLE + 1.0)
    assert census.stay("h/icu/1") is None, "whom ADT has put there had left"


def test_rule_10_beds_that_only_adt_knows_make_room() -> None:
    census = Census(max_beds=4)
    for i in range(50):
        someone = Encounter(patient_ids=(f"{i}^^^H",))
        census.apply(EncounterChange(EncounterEvent.ADMIT, f"h/ward/{i}", someone, 0.0))
    for bed in BEDS:
        census.identify(bed, "m", None, 0.0)
        assert census.stay(bed) is not None
    assert census.counts == {"encounter_forgotten": 50}
    (left,) = census.apply(EncounterChange(EncounterEvent.ADMIT, "h/ward/1", CANARY, 0.0))
    assert isinstance(left, Left) and census.stay("h/ward/1") is None, "whoever lay there lies there no longer"
    assert census.counts["too_many_beds"] == 1


def test_rule_10_a_bed_keeps_a_bounded_number_of_devices() -> None:
    census = Census()
    for i in range(1000):
        census.identify("h/icu/1", f"m{i}", CANARY, 0.0)
    assert len(census._beds["h/icu/1"].devices) == 16
    (left, _) = census.identify("h/icu/1", "one more", Encounter(patient_ids=("2^^^H",)), 0.0)
    assert isinstance(left, Left), "what further ones say counts all the same"
