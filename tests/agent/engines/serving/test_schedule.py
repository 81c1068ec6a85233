"""The schedule on a simulated clock: further models and trials never cost the first model its deadline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.ecg import Provenance, Window
from agent.engines.serving.queue import DropReason, Job, WindowQueue
from agent.engines.serving.schedule import Lane, Longest, Pace, Schedule

FIRST = "first"
SILENCE = np.zeros((12, 1), np.float32)


def job(bed: str, received: float) -> Job:
    leads = (Provenance.MEASURED,) * 12
    return Job(Window(bed, "m", 0, received, received + 10, 250.0, SILENCE, leads, received), received)


def lane(answer_within: float, seconds: float | None = None) -> Lane:
    made = Lane(WindowQueue(64, 100_000), answer_within)
    made.pace.restart(seconds, 0.0)
    return made


@dataclass(frozen=True)
class Ward:
    """Arrivals that repeat every period, and what a batch costs."""

    period: float
    offsets: tuple[float, ...]
    """When in the period each bed's window comes."""
    answer_within: float
    max_batch: int
    cost: tuple[float, float]
    """Seconds per batch and per window of the first model."""
    further: tuple[tuple[float, float, float], ...]
    """The same of further models, and seconds between the windows of a bed that each gets."""
    periods: int = 8

    def run(self, *, further: bool, careful: bool = True) -> tuple[dict[tuple[str, float], float], int]:
        """Seconds from arrival to answer of the first model's windows; windows that further models answered."""
        schedule = Schedule(self.max_batch, 0.01, 1e6, FIRST, lane(self.answer_within))
        if not careful:
            schedule._room = lambda one, *_: min(len(one.queue), self.max_batch)  # type: ignore[method-assign]
        beds = [f"bed {i}" for i in range(len(self.offsets))]
        starts = [k * self.period for k in range(self.periods)]
        events = [(start + o, FIRST, bed) for start in starts for bed, o in zip(beds, self.offsets, strict=True)]
        costs = {FIRST: self.cost}
        for i, (batch, window, every) in enumerate(self.further if further else ()):
            name = f"further {i}"
            costs[name] = (batch, window)
            schedule.add(name, lane(100.0, batch + window), canary=bool(i % 2))
            times = np.arange(0.0, self.periods * self.period, every)
            events += [(t + k / 10, name, bed) for t in times for k, bed in enumerate(beds[:10])]
        events.sort()
        now, answers, others = 0.0, dict[tuple[str, float], float](), 0
        while True:
            while events and events[0][0] <= now:
                came, name, bed = events.pop(0)
                found = schedule.find(name)
                assert found is not None
                found.queue.push(job(bed, came))
            pick = schedule.next(now)
            assert not pick.dropped
            if pick.jobs:
                per_batch, per_window = costs[pick.lane]
                began, now = now, now + per_batch + per_window * len(pick.jobs)
                schedule.done(pick.lane, pick.jobs, began, now)
                if pick.lane == FIRST:
                    answers |= {(j.window.bed, j.window.received): now - j.window.received for j in pick.jobs}
                else:
                    others += len(pick.jobs)
            elif events:
                now = min(events[0][0], now + max(pick.wait, 1e-9))
            elif pick.wait == math.inf or now > (self.periods + 4) * self.period:
                return answers, others
            else:
                now += pick.wait

    def late(self, *, careful: bool = True) -> int:
        """The first model's windows that are late only because of others, once a period has been seen."""
        alone, _ = self.run(further=False)
        mixed, _ = self.run(further=True, careful=careful)
        assert mixed.keys() == alone.keys()
        return sum(mixed[key] > self.answer_within >= alone[key] for key in mixed if key[1] >= self.period)


seconds = st.floats
OFFSETS = st.lists(st.one_of(seconds(0.0, 4.9), st.integers(0, 4).map(float), st.just(0.0)), min_size=1, max_size=40)
WARDS = st.builds(
    Ward,
    period=st.just(5.0),
    offsets=OFFSETS.map(tuple),
    answer_within=st.sampled_from((0.5, 1.0, 2.0)),
    max_batch=st.sampled_from((1, 2, 4, 8, 16)),
    cost=st.tuples(seconds(0.0, 0.02), seconds(0.001, 0.03)),
    further=st.lists(
        st.tuples(
            seconds(0.0, 0.1), st.one_of(seconds(0.001, 0.1), seconds(0.1, 1.5)), st.sampled_from((1.0, 3.0, 10.0))
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
)


@given(WARDS)
@settings(max_examples=150, deadline=None)
def test_a_further_model_never_makes_the_first_one_late(ward: Ward) -> None:
    assert ward.late() == 0


HEAVY = Ward(5.0, (0.0,) * 20 + (2.5,) * 5, 1.0, 8, (0.005, 0.02), ((0.05, 0.4, 1.0), (0.01, 0.03, 1.0)))


def test_without_that_care_it_would() -> None:
    assert HEAVY.late(careful=False) > 0
    assert HEAVY.late() == 0


def test_what_the_first_model_leaves_is_used() -> None:
    _, others = HEAVY.run(further=True)
    assert others > 50
    light = Ward(5.0, (0.0,), 1.0, 8, (0.0, 0.01), ((0.0, 0.01, 1.0),))
    assert light.run(further=True)[1] == 40, "one bed, one window a second, 40 seconds: all of them"


def test_a_model_that_is_too_slow_for_the_deadline_is_never_begun() -> None:
    slow = Ward(5.0, (0.0, 1.0), 1.0, 8, (0.0, 0.01), ((0.0, 1.2, 5.0),))
    assert slow.run(further=True)[1] == 0


def schedule(**changes: float) -> Schedule:
    values = {"max_batch": 4, "max_wait": 0.1, "expire_after": 30.0} | changes
    return Schedule(int(values["max_batch"]), values["max_wait"], values["expire_after"], FIRST, lane(2.0))


def push(of: Schedule, name: str, *jobs: Job) -> None:
    found = of.find(name)
    assert found is not None
    for one in jobs:
        assert found.queue.push(one) is None


def test_the_first_model_waits_a_little_for_company() -> None:
    s = schedule()
    push(s, FIRST, job("a", 10.0))
    assert s.next(10.02).wait == pytest.approx(0.08)
    push(s, FIRST, job("b", 10.05))
    assert [j.window.bed for j in s.next(10.11).jobs] == ["a", "b"]
    push(s, FIRST, *(job(bed, 15.0) for bed in "abcde"))
    assert [j.window.bed for j in s.next(15.0).jobs] == ["a", "b", "c", "d"], "a full batch does not wait"
    assert len(s) == 1


def test_while_the_first_model_waits_for_company_others_begin_only_what_is_done_by_then() -> None:
    """On a ward that always has a window waiting for company they would otherwise never begin."""
    s = schedule()
    s.add("other", lane(30.0, 0.03))
    s.add("unknown", lane(40.0))
    push(s, "other", *(job(bed, 9.0) for bed in "abc"))
    push(s, "unknown", job("a", 9.0))
    push(s, FIRST, job("a", 10.0))
    pick = s.next(10.03)
    assert (pick.lane, len(pick.jobs)) == ("other", 2), "sixty milliseconds of seventy"
    assert s.next(10.09).jobs == (), "ten are left"
    assert s.next(10.09).wait == pytest.approx(0.01)
    assert [s.next(t).lane for t in (10.11, 10.12, 10.15)] == [FIRST, "other", "unknown"]


def test_the_most_urgent_of_the_others_goes_first_and_trials_last() -> None:
    s = schedule()
    s.add("trial", lane(1.0, 0.01), canary=True)
    s.add("patient", lane(60.0, 0.01))
    s.add("urgent", lane(5.0, 0.01))
    for name in ("trial", "patient", "urgent"):
        push(s, name, job("a", 10.0))
    push(s, "patient", job("b", -10.0))
    picks = [s.next(11.0 + i) for i in range(4)]
    assert [(p.lane, [j.window.bed for j in p.jobs]) for p in picks] == [
        ("urgent", ["a"]),
        ("patient", ["b", "a"]),
        ("trial", ["a"]),
        ("", []),
    ]


def test_a_model_that_does_not_fit_does_not_hold_up_one_that_does() -> None:
    s = schedule()
    s.add("slow", lane(1.0, 5.0))
    s.add("quick", lane(60.0, 0.01))
    for name in ("slow", "quick"):
        push(s, name, job("a", 10.0))
    assert s.next(10.0).lane == "quick"
    pick = s.next(10.1)
    assert pick.jobs == ()
    assert 0 < pick.wait <= 2


def test_a_batch_has_as_many_windows_as_fit() -> None:
    s = schedule(max_batch=32)
    s.add("other", lane(60.0, 0.3))
    push(s, "other", *(job(f"{i}", 10.0) for i in range(20)))
    assert len(s.next(10.0).jobs) == 6, "1.8 of 2 seconds"
    push(s, FIRST, job("a", 20.0))
    taken = s.next(20.2)
    s.done(FIRST, taken.jobs, 20.2, 20.9)  # 0.9 from its last sample, 32 of them in at most 22 s
    assert s.next(21.0).jobs == (), "a full batch of the first model leaves no time"


def test_what_waited_too_long_is_dropped_and_told() -> None:
    s = schedule()
    s.add("other", lane(1.0, 100.0))
    push(s, FIRST, job("old", 1.0), job("new", 20.0))
    push(s, "other", job("old", 1.0))
    pick = s.next(40.0)
    assert [j.window.bed for j in pick.jobs] == ["new"]
    assert {(name, d.job.window.bed, d.reason) for name, d in pick.dropped} == {
        (FIRST, "old", DropReason.EXPIRED),
        ("other", "old", DropReason.EXPIRED),
    }


def test_lanes_come_and_go() -> None:
    s = schedule()
    s.add("other", lane(1.0, 0.1))
    s.add("trial", lane(1.0, 0.1), canary=True)
    push(s, "trial", job("a", 1.0))
    gone = s.remove("trial")
    assert gone is not None
    assert len(gone.queue) == 1
    assert s.find("trial") is None
    assert s.remove("trial") is None
    s.done("trial", (job("a", 1.0),), 2.0, 3.0)
    push(s, "other", job("a", 1.0))
    push(s, FIRST, job("a", 1.0))
    assert {(name, d.reason) for name, d in s.clear()} == {(FIRST, DropReason.SHUTDOWN), ("other", DropReason.SHUTDOWN)}
    assert len(s) == 0


def test_a_window_that_came_late_does_not_count_against_the_others() -> None:
    """A lead that lags makes a window late before it gets here: no reason for other models never to run."""
    s = schedule()
    s.add("other", lane(60.0, 0.5))
    late = Job(job("a", 10.0).window, 12.5)
    push(s, FIRST, late)
    taken = s.next(12.5)
    s.done(FIRST, taken.jobs, 12.5, 12.51)
    push(s, "other", job("a", 10.0))
    assert s.next(12.6).lane == "other"


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 30)), max_size=30))
def test_the_longest_of_the_last_minute_or_two(values: list[tuple[float, float]]) -> None:
    longest, now, seen = Longest(), 0.0, list[tuple[float, float]]()
    for value, pause in values:
        now += pause
        longest.add(value, now)
        seen.append((now, value))
        found = longest.get(now)
        assert found is not None
        assert max(v for t, v in seen if now - t < 60) <= found <= max(v for t, v in seen if now - t <= 120)
    if seen:
        assert longest.get(now + 121) is None


@pytest.mark.parametrize(
    ("known", "size", "expected"),
    [
        ([], 1, None),
        ([(1, 0.1)], 1, 0.1),
        ([(1, 0.1)], 5, 0.5),
        ([(1, 0.1), (4, 0.2)], 3, 0.2),
        ([(1, 0.1), (4, 0.2)], 9, 0.6),
        ([(8, 0.4)], 2, 0.4),
    ],
)
def test_pace(known: Sequence[tuple[int, float]], size: int, expected: float | None) -> None:
    pace = Pace()
    for n, took in known:
        pace.add(n, took, 10.0)
    assert pace.seconds(size, 10.0) == (None if expected is None else pytest.approx(expected))


def test_pace_forgets_what_once_went_wrong_but_not_how_fast_it_can_be() -> None:
    pace = Pace()
    pace.add(1, 0.1, 0.0)
    pace.add(1, 9.0, 1.0)
    assert pace.seconds(1, 50.0) == 9.0
    assert pace.seconds(1, 200.0) == 0.1
    pace.restart(0.5, 200.0)
    assert pace.seconds(1, 200.0) == 0.5
    pace.restart(None, 200.0)
    assert pace.seconds(1, 200.0) is None
