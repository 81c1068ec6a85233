"""Windowing: the same blocks give the same windows however they come, and nothing is ever made up."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.ecg import (
    LEADS,
    Channel,
    ChannelKind,
    Encounter,
    FloatArray,
    Gap,
    GapReason,
    Lead,
    Provenance,
    Samples,
    Window,
)
from agent.core.windows.windower import Windower, WindowingSettings

BED = "h/icu/1"
T0 = 1_700_000_000.0 + crc32(BED.encode()) % 5
"""On the grid of BED's windows."""
OTHERS = [bed for k in range(2, 99) if crc32((bed := f"h/icu/{k}").encode()) % 5 == crc32(BED.encode()) % 5]
"""Beds whose windows are on the same grid."""
SETTINGS = WindowingSettings()
MONITOR = (Lead.I, Lead.II, Lead.III)
M, D, X = Provenance.MEASURED, Provenance.DERIVED, Provenance.MISSING


def channel(lead: Lead | None, rate: float, **more: object) -> Channel:
    return replace(Channel(ChannelKind.ECG, 0, str(lead), "mV", rate, lead), **more)  # type: ignore[arg-type]


def strip(seconds: float, rate: int, leads: Sequence[Lead] = MONITOR, seed: int = 0) -> dict[Lead, FloatArray]:
    rng = np.random.default_rng(seed)
    return {lead: rng.standard_normal(round(seconds * rate)).astype(np.float32) for lead in leads}


def block(
    signal: dict[Lead, FloatArray], rate: int, first: int, last: int, *, start: float | None = -1.0, **more: object
) -> Samples:
    at = T0 + first / rate if start == -1.0 else start
    s = Samples(
        bed=BED,
        device="m",
        channels=tuple(channel(lead, float(rate)) for lead in signal),
        values=tuple(v[first:last] for v in signal.values()),
        start=at,
        received=last / rate,
    )
    return replace(s, **more)  # type: ignore[arg-type]


def cut(signal: dict[Lead, FloatArray], rate: int, step: float = 1.0, **more: object) -> list[Samples]:
    n = len(next(iter(signal.values())))
    size = round(step * rate)
    return [block(signal, rate, a, min(a + size, n), **more) for a in range(0, n, size)]


def push(windower: Windower, blocks: Iterable[Samples]) -> tuple[list[Window], list[Gap]]:
    windows: list[Window] = []
    gaps: list[Gap] = []
    for b in blocks:
        for result in windower.push(b):
            (windows if isinstance(result, Window) else gaps).append(result)  # type: ignore[arg-type]
    return windows, gaps


def run(blocks: Iterable[Samples], s: WindowingSettings = SETTINGS) -> tuple[list[Window], list[Gap]]:
    return push(Windower(s), blocks)


def assert_same(a: list[Window], b: list[Window]) -> None:
    assert [w.start for w in a] == [w.start for w in b]
    for x, y in zip(a, b, strict=True):
        assert x.provenance == y.provenance
        assert x.paced == y.paced
        assert x.filter_labels == y.filter_labels
        assert np.array_equal(x.samples, y.samples)


# What a window is


@pytest.mark.parametrize("rate", [100, 125, 240, 250, 360, 500, 1000])
def test_windows_hold_the_device_s_own_samples_on_the_absolute_grid(rate: int) -> None:
    signal = strip(23, rate)
    windows, gaps = run(cut(signal, rate))
    assert [w.start - T0 for w in windows] == [0, 5, 10]
    assert not gaps
    for w in windows:
        first = round((w.start - T0) * rate)
        assert w.rate == rate
        assert w.end == w.start + 10
        assert w.samples.shape == (12, 10 * rate)
        assert w.samples.dtype == np.float32
        for row, lead in enumerate(MONITOR):
            assert np.array_equal(w.samples[row], signal[lead][first : first + 10 * rate])
        assert w.provenance == (M, M, M, D, D, D, X, X, X, X, X, X)
        assert not w.samples[6:].any()
        assert w.received == w.end - T0


def test_a_window_starts_on_a_multiple_of_the_stride_whenever_the_feed_began() -> None:
    signal = strip(30, 250)
    windows, _ = run(block(signal, 250, a, a + 250, start=T0 + 3.256 + a / 250) for a in range(0, 7500, 250))
    assert [w.start - T0 for w in windows] == [5, 10, 15, 20]
    assert np.array_equal(windows[0].samples[1], signal[Lead.II][436 : 436 + 2500])


def test_filter_labels_paced_encounter_and_computed_leads_are_carried() -> None:
    signal = strip(10, 250)
    channels = (
        channel(Lead.I, 250.0, filter_label="0.5-40 Hz"),
        channel(Lead.II, 250.0),
        channel(Lead.III, 250.0, derived=True),
    )
    who = Encounter(patient_ids=("1",))
    blocks = [replace(b, channels=channels, encounter=who) for b in cut(signal, 250)]
    blocks[3] = replace(blocks[3], paced=True)
    (w,), _ = run(blocks)
    assert w.filter_labels == ("0.5-40 Hz",)
    assert w.paced is True
    assert w.encounter == who
    assert w.provenance[:4] == (M, M, D, D)


def test_the_pacemaker_status_is_remembered_when_its_block_is_gone() -> None:
    blocks = cut(strip(40, 250), 250)
    blocks[0] = replace(blocks[0], paced=True)
    windows, _ = run(blocks)
    assert [w.paced for w in windows] == [True] * 7


# Any split, order or repetition


LEAD_SETS = st.sampled_from([MONITOR, LEADS, (Lead.II,), (Lead.II, Lead.V1)])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([100, 240, 250, 500]), LEAD_SETS, st.booleans(), st.floats(0, 4.99))
def test_any_split_order_and_repetition_gives_the_same_windows(
    seed: int, rate: int, leads: tuple[Lead, ...], apart: bool, offset: float
) -> None:
    """Against the signal itself: blocks of 50 ms to 1 s, delayed by up to 2 s, some twice, leads together or apart."""
    rng = np.random.default_rng(seed)
    signal = strip(27, rate, leads, seed % 1000)
    first = round(offset * rate)
    blocks: list[Samples] = []
    for group in [(lead,) for lead in leads] if apart else [leads]:
        a = first
        while a < 27 * rate:
            b = min(27 * rate, a + int(rng.integers(rate // 20, rate + 1)))
            blocks.append(block({lead: signal[lead] for lead in group}, rate, a, b))
            a = b
    blocks += [blocks[i] for i in rng.integers(0, len(blocks), len(blocks) // 3)]
    delays = rng.uniform(0, 1.999, len(blocks))
    order = np.argsort([(b.start or 0) + d for b, d in zip(blocks, delays, strict=True)], kind="stable")
    windows, gaps = run(blocks[i] for i in order)
    assert not [g for g in gaps if g.reason is not GapReason.LATE]
    grid = [t for t in (0, 5, 10, 15) if t * rate >= first]
    # One lead in blocks of its own: the first window waits until the feed is `late` further, for others to come.
    assert [w.start - T0 for w in windows] == grid
    for w in windows:
        at = round((w.start - T0) * rate)
        for lead in leads:
            assert np.array_equal(w.samples[LEADS.index(lead)], signal[lead][at : at + 10 * rate])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([240, 250, 360, 500]), st.sampled_from([0.0005, 0.002, 0.0045]))
def test_jittering_stamps_leave_no_seam_and_no_trace_of_the_order(seed: int, rate: int, jitter: float) -> None:
    rng = np.random.default_rng(seed)
    signal = strip(27, rate)
    blocks = [
        block(signal, rate, a, a + rate, start=T0 + 0.3 + a / rate + float(rng.uniform(-jitter, jitter)))
        for a in range(0, 27 * rate, rate)
    ]
    straight, gaps = run(blocks)
    assert not gaps
    assert len(straight) == 3
    for w in straight:  # a stretch of the signal as it is, at most the first stamp's error away
        place = round((w.start - T0 - 0.3) * rate)
        shifts = range(-round(jitter * rate) - 1, round(jitter * rate) + 2)
        assert any(np.array_equal(w.samples[1], signal[Lead.II][place + s : place + s + 10 * rate]) for s in shifts)
    order = np.argsort([(b.start or 0) + d for b, d in zip(blocks, rng.uniform(0, 0.9, 27), strict=True)])
    shuffled, _ = run(blocks[i] for i in order)
    assert_same(straight, shuffled)


def test_one_obr_per_lead_on_overlapping_messages_is_merged() -> None:
    """GE-style: 6 s of signal every 5.5 s at 240 Hz, stamps in whole milliseconds, one Samples per lead."""
    signal = strip(70, 240)
    blocks = []
    for k in range(11):
        first = round(k * 5.5 * 240)
        stamp = round(T0 + 1.0 + first / 240, 3)
        for lead in MONITOR:
            blocks.append(block({lead: signal[lead]}, 240, first, first + 1440, start=stamp, received=float(k)))
    windows, gaps = run(blocks)
    assert not gaps
    assert [w.start - T0 for w in windows] == list(range(5, 55, 5))
    for w in windows:
        first = round((w.start - T0 - 1) * 240)
        assert np.array_equal(w.samples[1], signal[Lead.II][first : first + 2400])
        assert w.provenance[:6] == (M, M, M, D, D, D)


def test_a_later_message_may_bring_what_the_earlier_marked_as_missing() -> None:
    signal = strip(12, 250, (Lead.II,))
    early = {Lead.II: signal[Lead.II].copy()}
    early[Lead.II][1400:1500] = np.nan
    blocks = [block(early, 250, 0, 1500), block(signal, 250, 1375, 3000)]
    more = [block(strip(1, 250, (Lead.II,), k), 250, 0, 250, start=T0 + 12 + k) for k in range(2)]
    windows, gaps = run([*blocks, *more])
    assert not gaps
    assert np.array_equal(windows[0].samples[1], signal[Lead.II][:2500])


# Late, lost, invalid


def test_a_block_within_the_allowance_fills_its_hole_and_a_later_one_is_late() -> None:
    blocks = cut(strip(30, 250), 250)
    inside = [*blocks[:7], blocks[8], blocks[7], *blocks[9:]]
    windows, gaps = run(inside)
    assert len(windows) == 5
    assert not gaps
    windows, gaps = run([*blocks[:7], *blocks[8:25], blocks[7], *blocks[25:]])
    assert [w.start - T0 for w in windows] == [10, 15, 20]
    assert [(g.start - T0, g.reason) for g in gaps] == [
        (0, GapReason.MISSING),
        (5, GapReason.MISSING),
        (7, GapReason.LATE),
    ]


def test_a_repeated_block_whose_windows_have_passed_is_only_counted() -> None:
    blocks = cut(strip(30, 250), 250)
    w = Windower(SETTINGS)
    windows, gaps = push(w, [*blocks, blocks[2]])
    assert len(windows) == 5
    assert not gaps
    assert w.counts["duplicate"] == 1


def test_a_lead_that_lags_is_waited_for_and_then_missing() -> None:
    signal = strip(20, 250, (Lead.I, Lead.II, Lead.V1))
    limb = {lead: signal[lead] for lead in (Lead.I, Lead.II)}
    chest = {Lead.V1: signal[Lead.V1]}
    blocks = []
    for second in range(20):
        blocks.append(block(limb, 250, 250 * second, 250 * second + 250))
        if second < 8:
            blocks.append(block(chest, 250, 250 * second, 250 * second + 250))
    windower = Windower(SETTINGS)
    until_12, _ = push(windower, [b for b in blocks if (b.start or 0) < T0 + 12])
    assert not until_12
    after, gaps = push(windower, [b for b in blocks if (b.start or 0) >= T0 + 12])
    assert [w.start - T0 for w in after] == [0, 5, 10]
    assert not gaps
    for w in after:
        assert w.provenance[6] is X
        assert not w.samples[6].any()
    # The wait counts as latency: a window is complete with the last sample that is in it.
    assert [w.received for w in after] == [10.0, 15.0, 20.0]


def test_one_invalid_sample_takes_its_lead_out_of_the_window() -> None:
    signal = strip(20, 250)
    signal[Lead.I][600] = np.nan
    windows, gaps = run(cut(signal, 250))
    assert not gaps
    assert windows[0].provenance[:6] == (X, M, M, X, X, X)  # nothing is derived without I
    assert not windows[0].samples[0].any()
    assert all(np.isfinite(w.samples).all() for w in windows)
    assert windows[1].provenance[:6] == (M, M, M, D, D, D)


def test_a_window_of_invalid_leads_is_a_gap() -> None:
    signal = strip(20, 250)
    for values in signal.values():
        values[600:900] = np.nan
    windows, gaps = run(cut(signal, 250))
    assert [w.start - T0 for w in windows] == [5, 10]
    assert gaps == [Gap("h/icu/1", "m", T0, T0 + 10, GapReason.INVALID)]


def test_an_infinite_value_is_no_sample() -> None:
    signal = strip(10, 250)
    signal[Lead.III][5] = np.inf
    (w,), _ = run(cut(signal, 250))
    assert w.provenance[2] is D  # from I and II, as if it had not come
    assert np.isfinite(w.samples).all()


def test_a_long_hole_is_one_gap_and_the_strip_begins_behind_it() -> None:
    blocks = cut(strip(60, 250), 250)
    windows, gaps = run([*blocks[:16], *blocks[42:]])
    assert [w.start - T0 for w in windows] == [0, 5, 45, 50]
    assert gaps == [Gap("h/icu/1", "m", T0 + 15, T0 + 42, GapReason.MISSING)]


@pytest.mark.parametrize("hole", range(1, 11))
@pytest.mark.parametrize("first", range(18, 23))
def test_a_hole_of_whole_seconds_is_a_gap_wherever_it_lies(first: int, hole: int) -> None:
    signal = strip(60.0, 250)
    windows, gaps = run([b for i, b in enumerate(cut(signal, 250)) if not first <= i < first + hole])
    assert {g.reason for g in gaps} == {GapReason.MISSING}
    assert windows and windows[-1].end == T0 + 60
    assert all(x.end <= T0 + first or x.start >= T0 + first + hole for x in windows)


def test_messages_without_a_usable_lead_are_gaps_and_other_channels_are_nothing() -> None:
    pleth = Channel(ChannelKind.PLETH, 150452, "Pleth", "1", 125.0)
    values = (np.zeros(125, np.float32),)
    w = Windower(SETTINGS)
    assert w.push(Samples("h/icu/1", "m", (pleth,), values, T0, 0.0)) == ()
    assert w.beds == ()
    unspecified = (channel(None, 125.0),)
    assert w.push(Samples("h/icu/1", "m", unspecified, values, T0, 0.0)) == (
        Gap("h/icu/1", "m", T0, T0 + 1, GapReason.NO_LEADS),
    )


# Clocks


def test_a_clock_that_is_set_forward_ends_the_strip() -> None:
    signal = strip(60, 250)
    blocks = cut(signal, 250)
    jumped = [replace(b, start=(b.start or 0) + 3600) for b in blocks[20:]]
    windows, gaps = run([*blocks[:20], *jumped])
    assert [g.reason for g in gaps] == [GapReason.CLOCK_JUMP]
    assert [w.start - T0 for w in windows[:3]] == [0, 5, 10]
    assert windows[3].start == T0 + 3620
    assert np.array_equal(windows[3].samples[1], signal[Lead.II][5000:7500])


@pytest.mark.parametrize("back", [0.4, 3.0, 7200.0])
def test_a_clock_that_is_set_back_ends_the_strip_and_mixes_nothing(back: float) -> None:
    signal = strip(60, 250)
    blocks = cut(signal, 250)
    windows, gaps = run([*blocks[:20], *(replace(b, start=(b.start or 0) - back) for b in blocks[20:])])
    assert GapReason.CLOCK_JUMP in {g.reason for g in gaps}
    assert len(windows) >= 3 + 4
    before, after = windows[:3], windows[3:]
    for w, shift in [(w, 0.0) for w in before] + [(w, back) for w in after]:
        first = round((w.start + shift - T0) * 250)
        assert np.array_equal(w.samples[1], signal[Lead.II][first : first + 2500])


def test_a_numbered_block_tells_a_clock_set_back_at_once_and_a_redelivery_from_both() -> None:
    blocks = [replace(b, sequence=k) for k, b in enumerate(cut(strip(60, 250), 250))]
    windows, gaps = run([*blocks[:30], *blocks[5:12], *blocks[30:]])  # redelivered after a reconnect
    assert len(windows) == 11
    assert not gaps
    back = [replace(b, start=(b.start or 0) - 1000) for b in blocks[30:]]
    windows, gaps = run([*blocks[:30], *back])
    assert [g.reason for g in gaps] == [GapReason.CLOCK_JUMP]
    assert len(windows) == 5 + 5


def test_a_device_that_restarts_with_its_clock_at_another_time() -> None:
    blocks = [replace(b, sequence=k + 1000) for k, b in enumerate(cut(strip(60, 250), 250))]
    again = [replace(b, sequence=k, start=(b.start or 0) - 5000) for k, b in enumerate(blocks[30:])]
    windows, gaps = run([*blocks[:30], *again])
    assert [g.reason for g in gaps] == [GapReason.DEVICE_RESTART]
    assert windows[5].start <= T0 + 30 - 5000 + 10


@pytest.mark.parametrize("true_rate", [249.9, 250.1])
def test_drift_is_followed_and_then_broken_with_a_gap(true_rate: float) -> None:
    """A device that says 250 Hz and samples at 249.9: its stamps leave its samples behind by .4 ms a second."""
    signal = strip(900, 250)
    w = Windower(SETTINGS)
    blocks = [block(signal, 250, a, a + 250, start=round(T0 + a / true_rate, 3)) for a in range(0, 900 * 250, 250)]
    windows, gaps = push(w, blocks)
    assert w.counts["drift"] == 1
    assert {g.reason for g in gaps} <= {GapReason.CLOCK_JUMP}
    assert 1 <= len(gaps) <= 2
    assert len(windows) >= 176
    for x in windows[::10]:  # every window is a stretch of the true samples, within the drift allowed
        place = round((x.start - T0) * true_rate)
        shifts = range(-64, 65)
        assert any(np.array_equal(x.samples[1], signal[Lead.II][max(0, place + s) :][:2500]) for s in shifts)


def test_messages_without_time_are_laid_end_to_end_from_their_arrival() -> None:
    signal = strip(40, 500)
    rng = np.random.default_rng(0)
    blocks = [
        block(signal, 500, a, a + 500, start=None, received=100.0 + a / 500 + 1 + float(rng.uniform(0, 0.8)))
        for a in range(0, 20000, 500)
    ]
    windows, gaps = push(Windower(SETTINGS, wall_offset=T0), blocks)
    assert not gaps
    assert len(windows) == 6
    assert T0 + 100 <= windows[0].start <= T0 + 106
    for a, b in itertools.pairwise(windows):
        assert np.array_equal(a.samples[:, 2500:], b.samples[:, :2500])
    per_lead = [
        block({lead: signal[lead]}, 500, round(b.received - 101) * 500, round(b.received - 101) * 500 + 500, start=None)
        for b in blocks[:12]
        for lead in MONITOR
    ]
    one, _ = run(per_lead)
    assert all(w.provenance[:3] == (M, M, M) for w in one)


def test_messages_without_time_follow_a_wall_clock_that_is_set() -> None:
    signal = strip(80, 250)
    w = Windower(SETTINGS, wall_offset=0.0)  # the agent started before the machine knew the time
    blocks = [block(signal, 250, a, a + 250, start=None) for a in range(0, 20000, 250)]
    before, gaps = push(w, blocks[:40])
    assert not gaps
    w.wall_offset = T0
    after, gaps = push(w, blocks[40:])
    assert [g.reason for g in gaps] == [GapReason.CLOCK_JUMP]
    assert all(x.end < 100 for x in before)
    assert len(after) >= 6 and all(T0 + 40 <= x.start <= T0 + 80 for x in after)


def test_a_silence_between_messages_without_time_is_a_gap() -> None:
    signal = strip(60, 250)
    blocks = [block(signal, 250, a, a + 250, start=None) for a in range(0, 15000, 250)]
    windows, gaps = run([*blocks[:20], *blocks[25:45], *(replace(b, received=b.received + 500) for b in blocks[45:])])
    assert {g.reason for g in gaps} == {GapReason.MISSING}
    for w in windows:
        first = next(i for i in range(12501) if signal[Lead.II][i] == w.samples[1, 0])
        assert np.array_equal(w.samples[1], signal[Lead.II][first : first + 2500])


# Rates


def test_a_new_rate_is_a_new_strip() -> None:
    slow, fast = strip(20, 250), strip(20, 500)
    later = [replace(b, start=(b.start or 0) + 20) for b in cut(fast, 500)]
    windows, gaps = run([*cut(slow, 250), *later])
    assert [(w.start - T0, w.rate) for w in windows] == [
        (0, 250), (5, 250), (10, 250), (20, 500), (25, 500), (30, 500),
    ]  # fmt: skip
    assert [g.reason for g in gaps] == [GapReason.RATE_CHANGE]
    later = [replace(b, start=(b.start or 0) + 20) for b in cut(strip(30, 250), 250)]
    windows, gaps = run([*cut(fast, 500), *later])
    assert [w.rate for w in windows[-3:]] == [250, 250, 250]
    assert [g.reason for g in gaps] == [GapReason.RATE_CHANGE]


def test_a_lead_at_another_rate_is_left_out_and_counted() -> None:
    signal = strip(20, 500, (Lead.I, Lead.II, Lead.V1))
    w = Windower(SETTINGS)
    blocks = []
    for b in cut(signal, 500):
        channels = (*b.channels[:2], channel(Lead.V1, 250.0))
        blocks.append(replace(b, channels=channels, values=(*b.values[:2], b.values[2][::2])))
    windows, gaps = push(w, blocks)
    assert [x.provenance[6] for x in windows] == [X, X, X]
    assert all(x.rate == 500 for x in windows)
    assert not gaps
    assert w.counts["rate_mismatch"] == 20


@pytest.mark.parametrize(
    ("told", "used"), [(249.8, 250.0), (250.3, 250.0), (62.5, None), (2000.0, None), (100.7, None)]
)
def test_the_rate_is_taken_as_whole_hertz_where_it_is_nearly_so(told: float, used: float | None) -> None:
    blocks = [replace(b, channels=tuple(replace(c, rate=told) for c in b.channels)) for b in cut(strip(20, 250), 250)]
    windows, gaps = run(blocks)
    assert {w.rate for w in windows} == ({used} if used else set())
    assert {g.reason for g in gaps} == (set() if used else {GapReason.NO_LEADS})


# Patients


FIRST, SECOND = Encounter(patient_ids=("1^^^A^MR",)), Encounter(patient_ids=("2^^^A^MR",))


def test_another_patient_s_samples_are_never_mixed_with_the_first_one_s() -> None:
    first, second = strip(60, 250, seed=1), strip(60, 250, seed=2)
    blocks = [
        *(replace(b, encounter=FIRST) for b in cut(first, 250)[:23]),
        *(replace(b, encounter=SECOND) for b in cut(second, 250)[23:]),
    ]
    w = Windower(SETTINGS)
    windows, gaps = push(w, blocks)
    assert [g.reason for g in gaps] == [GapReason.ENCOUNTER]
    assert w.generation("h/icu/1") == 1
    for x in windows:
        signal, who, generation = (first, FIRST, 0) if x.start < T0 + 23 else (second, SECOND, 1)
        at = round((x.start - T0) * 250)
        assert np.array_equal(x.samples[1], signal[Lead.II][at : at + 2500])
        assert x.encounter == who
        assert x.generation == generation
    # The first patient's blocks that come late are nobody's.
    late = replace(cut(first, 250)[22], encounter=FIRST)
    assert w.push(late) == ()
    assert w.generation("h/icu/1") == 1
    assert w.counts["earlier_patient"] == 1


def test_an_unknown_patient_contradicts_nobody_and_erases_nothing() -> None:
    blocks = cut(strip(30, 250), 250)
    unknown = Encounter(location="icu^1^1")
    blocks = [replace(b, encounter=FIRST if k % 15 < 3 else unknown) for k, b in enumerate(blocks)]
    windows, gaps = run(blocks)
    assert not gaps
    assert all(w.encounter is not None and w.encounter.patient_ids == FIRST.patient_ids for w in windows)
    assert windows[0].encounter is not None
    assert windows[0].encounter.location == "icu^1^1"


def test_a_monitor_that_forgets_its_patient_does_not_lend_the_name_to_the_next() -> None:
    signal = strip(80.0, 250)
    known = Encounter(patient_ids=("1^^^H",), location="ICU^1^2")
    nobody = Encounter(location="ICU^1^2")
    blocks = [replace(b, encounter=nobody if 7 <= i < 20 or i >= 30 else known) for i, b in enumerate(cut(signal, 250))]
    w = Windower(SETTINGS)
    windows, gaps = push(w, blocks)
    # Some senders name the patient in some messages only; from one that no longer does, twenty seconds are enough.
    assert {x.generation for x in windows if x.end <= T0 + 49} == {0}
    assert all(x.encounter == known for x in windows if x.end <= T0 + 49)
    after = [x for x in windows if x.end > T0 + 51]
    assert after and all(x.encounter == nobody and x.generation == 1 and x.start >= T0 + 50 for x in after)
    assert [g.reason for g in gaps] == [GapReason.ENCOUNTER]


def test_what_adt_says_stays_with_a_monitor_that_never_names_anybody() -> None:
    w = Windower(SETTINGS)
    known = Encounter(patient_ids=("1^^^H",))
    w.end_encounter("h/icu/1", known)
    windows, gaps = push(w, [replace(b, encounter=Encounter(location="ICU^1^2")) for b in cut(strip(30.0, 250), 250)])
    assert gaps == []
    assert windows and all(x.encounter is not None and x.encounter.patient_ids == ("1^^^H",) for x in windows)


def test_beds_that_only_adt_knows_never_keep_a_bed_with_samples_out() -> None:
    w = Windower(WindowingSettings(max_beds=4))
    signal = strip(20.0, 250)
    for i in range(50):
        w.end_encounter(f"h/ward/{i}", Encounter(patient_ids=(f"{i}^^^H",)))
    for bed in (BED, *OTHERS[:3]):
        windows, _ = push(w, [replace(b, bed=bed) for b in cut(signal, 250)])
        assert len(windows) == 3
    assert "too_many_beds" not in w.counts
    assert w.counts["encounter_forgotten"] == 50
    w.end_encounter("h/ward/1", Encounter())
    assert w.counts["too_many_beds"] == 1
    assert len(w.beds) == 4


def test_blocks_in_the_worst_order_cost_a_bounded_effort() -> None:
    w = Windower(SETTINGS)
    signal = strip(8.0, 1000, MONITOR[:2])
    for first in range(7200, 0, -3):  # tiny blocks, each before all the others, with holes so that nothing is complete
        w.push(block(signal, 1000, first, first + 1, received=1.0))
    assert w.counts["too_many_blocks"] >= 1


def test_the_end_of_an_encounter_clears_the_bed() -> None:
    blocks = cut(strip(40, 250), 250)
    w = Windower(SETTINGS)
    before, _ = push(w, blocks[:18])
    w.end_encounter("h/icu/1", SECOND)
    assert w.generation("h/icu/1") == 1
    after, _ = push(w, [blocks[16], *blocks[18:]])
    assert [x.start - T0 for x in before] == [0, 5]
    assert [x.start - T0 for x in after] == [20, 25, 30]
    assert all(x.generation == 1 and x.encounter == SECOND for x in after)
    w.update_encounter("h/icu/1", replace(SECOND, sex="F"))
    assert w.generation("h/icu/1") == 1
    w.update_encounter("h/icu/1", FIRST)
    assert w.generation("h/icu/1") == 2


def test_whom_adt_has_admitted_is_known_before_the_first_sample() -> None:
    w = Windower(SETTINGS)
    w.end_encounter("h/icu/1", FIRST)
    assert w.beds == ()
    (x,), _ = push(w, cut(strip(10, 250), 250))
    assert x.encounter == FIRST


# Beds, devices, memory


def test_beds_and_devices_are_apart() -> None:
    one, other = strip(10, 250, seed=1), strip(10, 250, seed=2)
    w = Windower(SETTINGS)
    blocks = []
    for a, b in zip(cut(one, 250), cut(other, 250), strict=True):
        blocks += [a, replace(b, device="n"), replace(b, bed=OTHERS[0])]
    windows, _ = push(w, blocks)
    assert [(x.bed, x.device) for x in windows] == [("h/icu/1", "m"), ("h/icu/1", "n"), (OTHERS[0], "m")]
    assert np.array_equal(windows[0].samples[1], one[Lead.II])
    assert np.array_equal(windows[1].samples[1], other[Lead.II])
    assert w.beds == ("h/icu/1", OTHERS[0])


def test_silent_beds_are_forgotten_and_their_generation_is_not() -> None:
    w = Windower(WindowingSettings(idle=60))
    push(w, cut(strip(10, 250), 250))
    w.end_encounter("h/icu/1", None)
    assert w.generation("h/icu/1") == 1
    assert w.forget(69.0) == ()
    assert w.forget(71.0) == ("h/icu/1",)
    assert w.beds == ()
    assert w.generation("h/icu/1") == 2
    assert w.forget(1000.0) == ()


def test_memory_is_bounded_whatever_is_sent() -> None:
    w = Windower(WindowingSettings(max_beds=3))
    for k in range(10):
        push(w, [replace(b, bed=f"h/icu/{k}") for b in cut(strip(2, 250), 250)])
    assert len(w.beds) == 3
    assert w.counts["too_many_beds"] == 14
    w = Windower(SETTINGS)
    hour = {Lead.II: np.zeros(250 * 61, np.float32)}
    assert [g.reason for g in run([block(hour, 250, 0, 250 * 61)])[1]] == [GapReason.INVALID]
    for k in range(40):
        push(w, [replace(b, device=str(k)) for b in cut(strip(1, 250), 250)])
    assert w.counts["too_many_devices"] == 24
    held = Windower(SETTINGS)
    push(held, cut(strip(300, 250), 250))
    stream = held._beds["h/icu/1"].streams["m"]
    assert sum(b.size for b in stream.timeline.blocks) <= 11 * 250


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.floats(T0, T0 + 30)),
            st.integers(0, 600),
            st.one_of(st.none(), st.integers(-5, 100)),
            st.sampled_from([100.0, 250.0, 499.7, 1e9, 1e-3]),
            st.floats(0, 100),
        ),
        max_size=30,
    )
)
def test_nothing_that_a_sender_does_raises(
    blocks: list[tuple[float | None, int, int | None, float, float]],
) -> None:
    w = Windower(SETTINGS)
    for start, size, sequence, rate, received in blocks:
        values = (np.ones(size, np.float32), np.full(size // 2, np.nan, np.float32))
        channels = (channel(Lead.II, rate), channel(Lead.V1, rate))
        for result in w.push(Samples("b", "d", channels, values, start, received, sequence)):
            assert isinstance(result, Gap) or np.isfinite(result.samples).all()


def test_settings_refuse_what_would_lose_signal() -> None:
    with pytest.raises(ValueError, match="stride must not be longer"):
        WindowingSettings(seconds=5, stride=6)
    with pytest.raises(ValueError, match="min_rate"):
        WindowingSettings(min_rate=500, max_rate=400)


def test_the_windows_of_a_ward_end_spread_over_the_stride() -> None:
    w = Windower(WindowingSettings())
    starts = set()
    for k in range(40):
        windows, _ = push(w, [replace(b, bed=f"h/icu/{k}") for b in cut(strip(16, 250), 250)])
        starts.add(windows[0].start % 5)
    assert starts == {0.0, 1.0, 2.0, 3.0, 4.0}
