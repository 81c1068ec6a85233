"""Where each block belongs: late, repeated, lost, and whatever clocks do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from agent.core.ecg import (
    Gap,
    GapReason,
    Lead,
    Provenance,
)
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.windower import Windower

SETTINGS = WindowingSettings()
MONITOR = (Lead.I, Lead.II, Lead.III)
M, D, X = Provenance.MEASURED, Provenance.DERIVED, Provenance.MISSING


def test_one_obr_per_lead_on_overlapping_messages_is_merged(make: SimpleNamespace) -> None:
    """GE-style: 6 s of signal every 5.5 s at 240 Hz, stamps in whole milliseconds, one Samples per lead."""
    signal = make.strip(70, 240)
    blocks = []
    for k in range(11):
        first = round(k * 5.5 * 240)
        stamp = round(make.T0 + 1.0 + first / 240, 3)
        for lead in MONITOR:
            blocks.append(make.block({lead: signal[lead]}, 240, first, first + 1440, start=stamp, received=float(k)))
    windows, gaps = make.run(blocks)
    assert not gaps
    assert [w.start - make.T0 for w in windows] == list(range(5, 55, 5))
    for w in windows:
        first = round((w.start - make.T0 - 1) * 240)
        assert np.array_equal(w.samples[1], signal[Lead.II][first : first + 2400])
        assert w.provenance[:6] == (M, M, M, D, D, D)


def test_a_later_message_may_bring_what_the_earlier_marked_as_missing(make: SimpleNamespace) -> None:
    signal = make.strip(12, 250, (Lead.II,))
    early = {Lead.II: signal[Lead.II].copy()}
    early[Lead.II][1400:1500] = np.nan
    blocks = [make.block(early, 250, 0, 1500), make.block(signal, 250, 1375, 3000)]
    more = [make.block(make.strip(1, 250, (Lead.II,), k), 250, 0, 250, start=make.T0 + 12 + k) for k in range(2)]
    windows, gaps = make.run([*blocks, *more])
    assert not gaps
    assert np.array_equal(windows[0].samples[1], signal[Lead.II][:2500])


def test_a_block_within_the_allowance_fills_its_hole_and_a_later_one_is_late(make: SimpleNamespace) -> None:
    blocks = make.cut(make.strip(30, 250), 250)
    inside = [*blocks[:7], blocks[8], blocks[7], *blocks[9:]]
    windows, gaps = make.run(inside)
    assert len(windows) == 5
    assert not gaps
    windows, gaps = make.run([*blocks[:7], *blocks[8:25], blocks[7], *blocks[25:]])
    assert [w.start - make.T0 for w in windows] == [10, 15, 20]
    assert [(g.start - make.T0, g.reason) for g in gaps] == [
        (0, GapReason.MISSING),
        (5, GapReason.MISSING),
        (7, GapReason.LATE),
    ]


def test_a_repeated_block_whose_windows_have_passed_is_only_counted(make: SimpleNamespace) -> None:
    blocks = make.cut(make.strip(30, 250), 250)
    w = Windower(SETTINGS)
    windows, gaps = make.push(w, [*blocks, blocks[2]])
    assert len(windows) == 5
    assert not gaps
    assert w.counts["duplicate"] == 1


def test_a_long_hole_is_one_gap_and_the_strip_begins_behind_it(make: SimpleNamespace) -> None:
    blocks = make.cut(make.strip(60, 250), 250)
    windows, gaps = make.run([*blocks[:16], *blocks[42:]])
    assert [w.start - make.T0 for w in windows] == [0, 5, 45, 50]
    assert gaps == [Gap("h/icu/1", "m", make.T0 + 15, make.T0 + 42, GapReason.MISSING)]


@pytest.mark.parametrize("hole", range(1, 11))
@pytest.mark.parametrize("first", range(18, 23))
def test_a_hole_of_whole_seconds_is_a_gap_wherever_it_lies(make: SimpleNamespace, first: int, hole: int) -> None:
    signal = make.strip(60.0, 250)
    windows, gaps = make.run([b for i, b in enumerate(make.cut(signal, 250)) if not first <= i < first + hole])
    assert {g.reason for g in gaps} == {GapReason.MISSING}
    assert windows and windows[-1].end == make.T0 + 60
    assert all(x.end <= make.T0 + first or x.start >= make.T0 + first + hole for x in windows)


def test_a_clock_that_is_set_forward_ends_the_strip(make: SimpleNamespace) -> None:
    signal = make.strip(60, 250)
    blocks = make.cut(signal, 250)
    jumped = [replace(b, start=(b.start or 0) + 3600) for b in blocks[20:]]
    windows, gaps = make.run([*blocks[:20], *jumped])
    assert [g.reason for g in gaps] == [GapReason.CLOCK_JUMP]
    assert [w.start - make.T0 for w in windows[:3]] == [0, 5, 10]
    assert windows[3].start == make.T0 + 3620
    assert np.array_equal(windows[3].samples[1], signal[Lead.II][5000:7500])


@pytest.mark.parametrize("back", [0.4, 3.0, 7200.0])
def test_a_clock_that_is_set_back_ends_the_strip_and_mixes_nothing(make: SimpleNamespace, back: float) -> None:
    signal = make.strip(60, 250)
    blocks = make.cut(signal, 250)
    windows, gaps = make.run([*blocks[:20], *(replace(b, start=(b.start or 0) - back) for b in blocks[20:])])
    assert GapReason.CLOCK_JUMP in {g.reason for g in gaps}
    assert len(windows) >= 3 + 4
    before, after = windows[:3], windows[3:]
    for w, shift in [(w, 0.0) for w in before] + [(w, back) for w in after]:
        first = round((w.start + shift - make.T0) * 250)
        assert np.array_equal(w.samples[1], signal[Lead.II][first : first + 2500])


def test_a_numbered_block_tells_a_clock_set_back_at_once_and_a_redelivery_from_both(make: SimpleNamespace) -> None:
    blocks = [replace(b, sequence=k) for k, b in enumerate(make.cut(make.strip(60, 250), 250))]
    windows, gaps = make.run([*blocks[:30], *blocks[5:12], *blocks[30:]])  # redelivered after a reconnect
    assert len(windows) == 11
    assert not gaps
    back = [replace(b, start=(b.start or 0) - 1000) for b in blocks[30:]]
    windows, gaps = make.run([*blocks[:30], *back])
    assert [g.reason for g in gaps] == [GapReason.CLOCK_JUMP]
    assert len(windows) == 5 + 5


def test_a_device_that_restarts_with_its_clock_at_another_time(make: SimpleNamespace) -> None:
    blocks = [replace(b, sequence=k + 1000) for k, b in enumerate(make.cut(make.strip(60, 250), 250))]
    again = [replace(b, sequence=k, start=(b.start or 0) - 5000) for k, b in enumerate(blocks[30:])]
    windows, gaps = make.run([*blocks[:30], *again])
    assert [g.reason for g in gaps] == [GapReason.DEVICE_RESTART]
    assert windows[5].start <= make.T0 + 30 - 5000 + 10


@pytest.mark.parametrize("true_rate", [249.9, 250.1])
def test_drift_is_followed_and_then_broken_with_a_gap(make: SimpleNamespace, true_rate: float) -> None:
    """A device that says 250 Hz and samples at 249.9: its stamps leave its samples behind by .4 ms a second."""
    signal = make.strip(900, 250)
    w = Windower(SETTINGS)
    blocks = [
        make.block(signal, 250, a, a + 250, start=round(make.T0 + a / true_rate, 3)) for a in range(0, 900 * 250, 250)
    ]
    windows, gaps = make.push(w, blocks)
    assert w.counts["drift"] == 1
    assert {g.reason for g in gaps} <= {GapReason.CLOCK_JUMP}
    assert 1 <= len(gaps) <= 2
    assert len(windows) >= 176
    for x in windows[::10]:  # every window is a stretch of the true samples, within the drift allowed
        place = round((x.start - make.T0) * true_rate)
        shifts = range(-64, 65)
        assert any(np.array_equal(x.samples[1], signal[Lead.II][max(0, place + s) :][:2500]) for s in shifts)


def test_messages_without_time_are_laid_end_to_end_from_their_arrival(make: SimpleNamespace) -> None:
    signal = make.strip(40, 500)
    rng = np.random.default_rng(0)
    blocks = [
        make.block(signal, 500, a, a + 500, start=None, received=100.0 + a / 500 + 1 + float(rng.uniform(0, 0.8)))
        for a in range(0, 20000, 500)
    ]
    windows, gaps = make.push(Windower(SETTINGS, wall_offset=make.T0), blocks)
    assert not gaps
    assert len(windows) == 6
    assert make.T0 + 100 <= windows[0].start <= make.T0 + 106
    for a, b in itertools.pairwise(windows):
        assert np.array_equal(a.samples[:, 2500:], b.samples[:, :2500])
    per_lead = [
        make.block(
            {lead: signal[lead]}, 500, round(b.received - 101) * 500, round(b.received - 101) * 500 + 500, start=None
        )
        for b in blocks[:12]
        for lead in MONITOR
    ]
    one, _ = make.run(per_lead)
    assert all(w.provenance[:3] == (M, M, M) for w in one)


def test_messages_without_time_follow_a_wall_clock_that_is_set(make: SimpleNamespace) -> None:
    signal = make.strip(80, 250)
    w = Windower(SETTINGS, wall_offset=0.0)  # the agent started before the machine knew the time
    blocks = [make.block(signal, 250, a, a + 250, start=None) for a in range(0, 20000, 250)]
    before, gaps = make.push(w, blocks[:40])
    assert not gaps
    w.wall_offset = make.T0
    after, gaps = make.push(w, blocks[40:])
    assert [g.reason for g in gaps] == [GapReason.CLOCK_JUMP]
    assert all(x.end < 100 for x in before)
    assert len(after) >= 6 and all(make.T0 + 40 <= x.start <= make.T0 + 80 for x in after)


def test_a_silence_between_messages_without_time_is_a_gap(make: SimpleNamespace) -> None:
    signal = make.strip(60, 250)
    blocks = [make.block(signal, 250, a, a + 250, start=None) for a in range(0, 15000, 250)]
    windows, gaps = make.run(
        [*blocks[:20], *blocks[25:45], *(replace(b, received=b.received + 500) for b in blocks[45:])]
    )
    assert {g.reason for g in gaps} == {GapReason.MISSING}
    for w in windows:
        first = next(i for i in range(12501) if signal[Lead.II][i] == w.samples[1, 0])
        assert np.array_equal(w.samples[1], signal[Lead.II][first : first + 2500])


def test_a_new_rate_is_a_new_strip(make: SimpleNamespace) -> None:
    slow, fast = make.strip(20, 250), make.strip(20, 500)
    later = [replace(b, start=(b.start or 0) + 20) for b in make.cut(fast, 500)]
    windows, gaps = make.run([*make.cut(slow, 250), *later])
    assert [(w.start - make.T0, w.rate) for w in windows] == [
        (0, 250), (5, 250), (10, 250), (20, 500), (25, 500), (30, 500),
    ]  # fmt: skip
    assert [g.reason for g in gaps] == [GapReason.RATE_CHANGE]
    later = [replace(b, start=(b.start or 0) + 20) for b in make.cut(make.strip(30, 250), 250)]
    windows, gaps = make.run([*make.cut(fast, 500), *later])
    assert [w.rate for w in windows[-3:]] == [250, 250, 250]
    assert [g.reason for g in gaps] == [GapReason.RATE_CHANGE]


def test_blocks_in_the_worst_order_cost_a_bounded_effort(make: SimpleNamespace) -> None:
    w = Windower(SETTINGS)
    signal = make.strip(8.0, 1000, MONITOR[:2])
    for first in range(7200, 0, -3):  # tiny blocks, each before all the others, with holes so that nothing is complete
        w.push(make.block(signal, 1000, first, first + 1, received=1.0))
    assert w.counts["too_many_blocks"] >= 1
