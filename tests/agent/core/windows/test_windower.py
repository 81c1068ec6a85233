"""Windowing: the same blocks give the same windows however they come, and nothing is ever made up."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agent.core.census import Stay
from agent.core.ecg import (
    LEADS,
    Encounter,
    EncounterChange,
    EncounterEvent,
    Gap,
    GapReason,
    Lead,
    Provenance,
    Samples,
    Window,
)
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.windower import Windower

SETTINGS = WindowingSettings()
MONITOR = (Lead.I, Lead.II, Lead.III)
M, D, X = Provenance.MEASURED, Provenance.DERIVED, Provenance.MISSING


LEAD_SETS = st.sampled_from([MONITOR, LEADS, (Lead.II,), (Lead.II, Lead.V1)])
FIRST, SECOND = Encounter(patient_ids=("1^^^A^MR",)), Encounter(patient_ids=("2^^^A^MR",))


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([100, 240, 250, 500]), LEAD_SETS, st.booleans(), st.floats(0, 4.99))
def test_any_split_order_and_repetition_gives_the_same_windows(
    make: SimpleNamespace, seed: int, rate: int, leads: tuple[Lead, ...], apart: bool, offset: float
) -> None:
    """Against the signal itself: blocks of 50 ms to 1 s, delayed by up to 2 s, some twice, leads together or apart."""
    rng = np.random.default_rng(seed)
    signal = make.strip(27, rate, leads, seed % 1000)
    first = round(offset * rate)
    blocks: list[Samples] = []
    for group in [(lead,) for lead in leads] if apart else [leads]:
        a = first
        while a < 27 * rate:
            b = min(27 * rate, a + int(rng.integers(rate // 20, rate + 1)))
            blocks.append(make.block({lead: signal[lead] for lead in group}, rate, a, b))
            a = b
    blocks += [blocks[i] for i in rng.integers(0, len(blocks), len(blocks) // 3)]
    delays = rng.uniform(0, 1.999, len(blocks))
    order = np.argsort([(b.start or 0) + d for b, d in zip(blocks, delays, strict=True)], kind="stable")
    windows, gaps = make.run(blocks[i] for i in order)
    assert not [g for g in gaps if g.reason is not GapReason.LATE]
    grid = [t for t in (0, 5, 10, 15) if t * rate >= first]
    # One lead in blocks of its own: the first window waits until the feed is `late` further, for others to come.
    assert [w.start - make.T0 for w in windows] == grid
    for w in windows:
        at = round((w.start - make.T0) * rate)
        for lead in leads:
            assert np.array_equal(w.samples[LEADS.index(lead)], signal[lead][at : at + 10 * rate])


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([240, 250, 360, 500]), st.sampled_from([0.0005, 0.002, 0.0045]))
def test_jittering_stamps_leave_no_seam_and_no_trace_of_the_order(
    make: SimpleNamespace, seed: int, rate: int, jitter: float
) -> None:
    rng = np.random.default_rng(seed)
    signal = make.strip(27, rate)
    blocks = [
        make.block(signal, rate, a, a + rate, start=make.T0 + 0.3 + a / rate + float(rng.uniform(-jitter, jitter)))
        for a in range(0, 27 * rate, rate)
    ]
    straight, gaps = make.run(blocks)
    assert not gaps
    assert len(straight) == 3
    for w in straight:  # a stretch of the signal as it is, at most the first stamp's error away
        place = round((w.start - make.T0 - 0.3) * rate)
        shifts = range(-round(jitter * rate) - 1, round(jitter * rate) + 2)
        assert any(np.array_equal(w.samples[1], signal[Lead.II][place + s : place + s + 10 * rate]) for s in shifts)
    order = np.argsort([(b.start or 0) + d for b, d in zip(blocks, rng.uniform(0, 0.9, 27), strict=True)])
    shuffled, _ = make.run(blocks[i] for i in order)
    make.assert_same(straight, shuffled)


# Patients: as `agent.core.census` tells them


def test_another_patient_s_samples_are_never_mixed_with_the_first_one_s(make: SimpleNamespace) -> None:
    first, second = make.strip(60, 250, seed=1), make.strip(60, 250, seed=2)
    blocks = [
        *(replace(b, encounter=FIRST) for b in make.cut(first, 250)[:23]),
        *(replace(b, encounter=SECOND) for b in make.cut(second, 250)[23:]),
    ]
    ward = make.Ward()
    windows, gaps = ward.push(blocks)
    assert [g.reason for g in gaps] == [GapReason.ENCOUNTER]
    for x in windows:
        signal, who, generation = (first, FIRST, 0) if x.start < make.T0 + 23 else (second, SECOND, 1)
        at = round((x.start - make.T0) * 250)
        assert np.array_equal(x.samples[1], signal[Lead.II][at : at + 2500])
        assert x.encounter == who
        assert x.generation == generation
    # The first patient's blocks that come late are nobody's, and say nothing of who lies there.
    assert ward.push([replace(make.cut(first, 250)[22], encounter=FIRST)]) == ([], [])
    assert ward.census.stay("h/icu/1") == Stay(1, SECOND)
    assert ward.windower.counts["earlier_patient"] == 1


def test_a_late_block_of_whoever_adt_has_said_to_have_left_is_nobodys(make: SimpleNamespace) -> None:
    blocks = [replace(b, encounter=FIRST) for b in make.cut(make.strip(40, 250), 250)]
    ward = make.Ward()
    ward.push(blocks[:18])
    (gap,) = ward.adt(EncounterChange(EncounterEvent.ADMIT, "h/icu/1", SECOND, 18.0))
    assert (gap.reason, gap.start, gap.end) == (GapReason.ENCOUNTER, make.T0 + 15, make.T0 + 18)
    assert ward.push([blocks[16]]) == ([], [])
    assert ward.census.stay("h/icu/1") == Stay(1, SECOND)


@pytest.mark.parametrize("back", [20.0, 3600.0])
def test_a_clock_that_is_set_back_after_a_change_of_patient_blinds_the_bed_for_a_minute_at_most(
    make: SimpleNamespace, back: float
) -> None:
    """As in the night in which summer time ends, within an hour of the change."""
    blocks = make.cut(make.strip(160, 250), 250)
    ward = make.Ward()
    ward.push(blocks[:18])
    ward.adt(EncounterChange(EncounterEvent.ADMIT, "h/icu/1", SECOND, 18.0))
    ward.push(blocks[18:30])
    windows, _ = ward.push([replace(b, start=b.start - back) for b in blocks[30:]])
    assert windows and windows[0].start <= make.T0 + 30 - back + 75
    assert ward.windower.counts["earlier_patient"] <= 60
    assert all(x.generation == 1 for x in windows)


def test_the_end_of_an_encounter_clears_the_bed(make: SimpleNamespace) -> None:
    blocks = make.cut(make.strip(40, 250), 250)
    ward = make.Ward()
    before, _ = ward.push(blocks[:18])
    ward.adt(EncounterChange(EncounterEvent.ADMIT, "h/icu/1", SECOND, 18.0))
    after, _ = ward.push([blocks[16], *blocks[18:]])
    assert [x.start - make.T0 for x in before] == [0, 5]
    assert [x.start - make.T0 for x in after] == [20, 25, 30]
    assert all(x.generation == 1 and x.encounter == SECOND for x in after)


def test_a_window_holds_one_generation_even_where_nobody_told_that_the_patient_left(make: SimpleNamespace) -> None:
    blocks = make.cut(make.strip(40, 250), 250)
    windower = Windower(SETTINGS)
    for b in blocks[:18]:
        windower.push(b, Stay(3, FIRST))
    found = [item for b in blocks[18:] for item in windower.push(b, Stay(4, SECOND))]
    assert [(item.start - make.T0, type(item)) for item in found] == [
        (15, Gap), (20, Window), (25, Window), (30, Window)
    ]  # fmt: skip


def test_push_refuses_a_late_block_of_the_patient_before_by_itself(make: SimpleNamespace) -> None:
    blocks = make.cut(make.strip(20, 250), 250)
    windower = Windower(SETTINGS)
    for b in blocks[:8]:
        windower.push(b, Stay(0))
    windower.push(blocks[9], Stay(1))
    assert windower.push(blocks[8], Stay(1)) == ()
    assert windower.counts["earlier_patient"] == 1


def test_one_patients_pacemaker_is_not_the_next_ones(make: SimpleNamespace) -> None:
    blocks = make.cut(make.strip(60, 250), 250)
    blocks[0] = replace(blocks[0], paced=True)
    windower = Windower(SETTINGS)
    found = [item for i, b in enumerate(blocks) for item in windower.push(b, Stay(int(i >= 30)))]
    windows = [item for item in found if isinstance(item, Window)]
    assert {(x.generation, x.paced) for x in windows} == {(0, True), (1, None)}


def test_whom_adt_has_admitted_is_known_before_the_first_sample(make: SimpleNamespace) -> None:
    ward = make.Ward()
    ward.adt(EncounterChange(EncounterEvent.ADMIT, "h/icu/1", FIRST, 0.0))
    assert ward.windower.beds == ()
    (x,), _ = ward.push(make.cut(make.strip(10, 250), 250))
    assert x.encounter == FIRST


def test_a_monitor_that_forgets_its_patient_does_not_lend_the_name_to_the_next(make: SimpleNamespace) -> None:
    signal = make.strip(80.0, 250)
    known = Encounter(patient_ids=("1^^^H",), location="ICU^1^2")
    nobody = Encounter(location="ICU^1^2")
    blocks = [
        replace(b, encounter=nobody if 7 <= i < 20 or i >= 30 else known) for i, b in enumerate(make.cut(signal, 250))
    ]
    windows, gaps = make.Ward().push(blocks)
    # Some senders name the patient in some messages only; from one that no longer does, twenty seconds are enough.
    assert {x.generation for x in windows if x.end <= make.T0 + 49} == {0}
    assert all(x.encounter == known for x in windows if x.end <= make.T0 + 49)
    after = [x for x in windows if x.end > make.T0 + 51]
    assert after and all(x.encounter == nobody and x.generation == 1 and x.start >= make.T0 + 50 for x in after)
    assert [g.reason for g in gaps] == [GapReason.ENCOUNTER]


def test_an_unknown_patient_contradicts_nobody_and_erases_nothing(make: SimpleNamespace) -> None:
    unknown = Encounter(location="icu^1^1")
    blocks = [
        replace(b, encounter=FIRST if k % 15 < 3 else unknown) for k, b in enumerate(make.cut(make.strip(30, 250), 250))
    ]
    windows, gaps = make.Ward().push(blocks)
    assert not gaps
    assert all(w.encounter == replace(FIRST, location="icu^1^1") for w in windows)


# Beds, devices, memory


def test_beds_that_only_adt_knows_never_keep_a_bed_with_samples_out(make: SimpleNamespace) -> None:
    ward = make.Ward(WindowingSettings(max_beds=4))
    signal = make.strip(20.0, 250)
    for i in range(50):
        someone = Encounter(patient_ids=(f"{i}^^^H",))
        ward.adt(EncounterChange(EncounterEvent.ADMIT, f"h/ward/{i}", someone, 0.0))
    for bed in (make.BED, *make.OTHERS[:3]):
        windows, _ = ward.push([replace(b, bed=bed) for b in make.cut(signal, 250)])
        assert len(windows) == 3
    assert "too_many_beds" not in ward.census.counts | ward.windower.counts
    assert len(ward.windower.beds) == 4


def test_silent_beds_are_forgotten(make: SimpleNamespace) -> None:
    w = Windower(WindowingSettings(idle=60))
    make.push(w, make.cut(make.strip(10, 250), 250))
    assert w.forget(69.0) == ()
    assert w.forget(71.0) == ("h/icu/1",)
    assert w.beds == ()
    assert w.forget(1000.0) == ()


def test_beds_and_devices_are_apart(make: SimpleNamespace) -> None:
    one, other = make.strip(10, 250, seed=1), make.strip(10, 250, seed=2)
    w = Windower(SETTINGS)
    blocks = []
    for a, b in zip(make.cut(one, 250), make.cut(other, 250), strict=True):
        blocks += [a, replace(b, device="n"), replace(b, bed=make.OTHERS[0])]
    windows, _ = make.push(w, blocks)
    assert [(x.bed, x.device) for x in windows] == [("h/icu/1", "m"), ("h/icu/1", "n"), (make.OTHERS[0], "m")]
    assert np.array_equal(windows[0].samples[1], one[Lead.II])
    assert np.array_equal(windows[1].samples[1], other[Lead.II])
    assert w.beds == ("h/icu/1", make.OTHERS[0])


def test_memory_is_bounded_whatever_is_sent(make: SimpleNamespace) -> None:
    w = Windower(WindowingSettings(max_beds=3))
    for k in range(10):
        make.push(w, [replace(b, bed=f"h/icu/{k}") for b in make.cut(make.strip(2, 250), 250)])
    assert len(w.beds) == 3
    assert w.counts["too_many_beds"] == 14
    w = Windower(SETTINGS)
    hour = {Lead.II: np.zeros(250 * 61, np.float32)}
    assert [g.reason for g in make.run([make.block(hour, 250, 0, 250 * 61)])[1]] == [GapReason.INVALID]
    for k in range(40):
        make.push(w, [replace(b, device=str(k)) for b in make.cut(make.strip(1, 250), 250)])
    assert w.counts["too_many_devices"] == 24
    held = Windower(SETTINGS)
    make.push(held, make.cut(make.strip(300, 250), 250))
    strip = held._beds["h/icu/1"].streams["m"]._strip
    assert sum(b.size for b in strip.timeline.blocks) <= 11 * 250


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.floats(1.7e9, 1.7e9 + 30)),
            st.integers(0, 600),
            st.one_of(st.none(), st.integers(-5, 100)),
            st.sampled_from([100.0, 250.0, 499.7, 1e9, 1e-3]),
            st.floats(0, 100),
        ),
        max_size=30,
    )
)
def test_nothing_that_a_sender_does_raises(
    make: SimpleNamespace,
    blocks: list[tuple[float | None, int, int | None, float, float]],
) -> None:
    w = Windower(SETTINGS)
    for start, size, sequence, rate, received in blocks:
        values = (np.ones(size, np.float32), np.full(size // 2, np.nan, np.float32))
        channels = (make.channel(Lead.II, rate), make.channel(Lead.V1, rate))
        for result in w.push(Samples("b", "d", channels, values, start, received, sequence)):
            assert isinstance(result, Gap) or np.isfinite(result.samples).all()
