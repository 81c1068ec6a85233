"""The queue by its rules, against a slow and simple one, and what a window costs it."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.ecg import Provenance, Window
from agent.engines.serving.queue import DropReason, Job, WindowQueue

SILENCE = np.zeros((12, 1), np.float32)


def job(bed: str, received: float, rate: float = 250.0) -> Job:
    leads = (Provenance.MEASURED,) * 12
    return Job(Window(bed, "m", 0, received, received + 10, rate, SILENCE, leads, received), received)


class Simple:
    """The same rules, written down without a thought for speed."""

    def __init__(self, per_bed: int, total: int, spacing: float) -> None:
        self.per_bed, self.total, self.spacing = per_bed, total, spacing
        self.waiting: list[tuple[float, int, Job]] = []
        self.number = 0
        self.taken: dict[str, float] = {}
        self.places: dict[str, tuple[float, int]] = {}

    def of(self, bed: str) -> list[tuple[float, int, Job]]:
        return sorted((w for w in self.waiting if w[2].window.bed == bed), key=lambda w: w[:2])

    def push(self, job: Job) -> tuple[set[int], DropReason] | None:
        """The numbers of those that may have had to go, and why."""
        self.number += 1
        self.waiting.append((job.window.received, self.number, job))
        mine = self.of(job.window.bed)
        if len(mine) > self.per_bed:
            return {mine[0][1]}, DropReason.OVERLOAD
        if len(self.waiting) > self.total:
            beds = Counter(w[2].window.bed for w in self.waiting)
            most = [bed for bed, n in beds.items() if n == max(beds.values())]
            return {self.of(bed)[0][1] for bed in most}, DropReason.QUEUE_FULL
        return None

    def settle(self) -> None:
        """A window's place is settled when it becomes its bed's first."""
        beds = {w[2].window.bed for w in self.waiting}
        self.places = {bed: place for bed, place in self.places.items() if bed in beds}
        for bed in beds:
            received, number, _ = self.of(bed)[0]
            if self.places.get(bed, (0.0, 0))[1] != number:
                self.places[bed] = max(received, self.taken.get(bed, -math.inf) + self.spacing), number

    def heads(self) -> list[Job]:
        self.settle()
        return [self.of(bed)[0][2] for bed in sorted(self.places, key=lambda bed: self.places[bed])]

    def remove(self, job: Job) -> None:
        self.waiting = [w for w in self.waiting if w[2] is not job]
        self.settle()

    def take(self, most: int, now: float) -> list[Job]:
        self.taken = {bed: then for bed, then in self.taken.items() if then >= now - self.spacing}
        taken: list[Job] = []
        rate = self.heads()[0].window.rate if self.waiting else 0.0
        while len(taken) < most:
            head = next((j for j in self.heads() if j.window.rate == rate), None)
            if head is None:
                break
            taken.append(head)
            self.taken[head.window.bed] = now
            self.remove(head)
        return taken


PUSH = st.tuples(st.sampled_from("abcdef"), st.integers(-30, 0), st.sampled_from((250.0, 500.0)))
STEP = st.one_of(PUSH, PUSH, PUSH, st.integers(1, 4))


@given(st.lists(STEP, max_size=120), st.integers(1, 4), st.integers(1, 9), st.sampled_from((0.0, 1.0, 7.0)))
@settings(max_examples=300, deadline=None)
def test_it_does_what_the_simple_one_does(
    steps: list[tuple[str, int, float] | int], per_bed: int, total: int, spacing: float
) -> None:
    queue, simple = WindowQueue(per_bed, total, spacing), Simple(per_bed, total, spacing)
    for now, step in enumerate(steps):
        if isinstance(step, int):
            taken, expired = queue.take(step, float(now))
            wanted = simple.take(step, float(now))
            assert not expired
            assert [j.window.bed for j in taken] == [j.window.bed for j in wanted]
            assert taken == wanted
        else:
            bed, back, rate = step
            new = job(bed, float(now + back), rate)
            dropped, allowed = queue.push(new), simple.push(new)
            assert (dropped is None) == (allowed is None)
            if dropped is not None and allowed is not None:
                numbers = {w[1] for w in simple.waiting if w[2] is dropped.job}
                assert numbers <= allowed[0]
                assert dropped.reason is allowed[1]
                simple.remove(dropped.job)
            simple.settle()
        assert len(queue) == len(simple.waiting)
        first = queue.first()
        assert (first is None) == (not simple.waiting)
    left = {id(j) for j in queue.clear()}
    assert left == {id(w[2]) for w in simple.waiting}
    assert len(queue) == 0
    assert queue.first() is None


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 20)), max_size=60), st.integers(1, 4))
def test_each_bed_keeps_its_newest_oldest_first(arrivals: list[tuple[str, int]], per_bed: int) -> None:
    queue = WindowQueue(per_bed, 1000)
    for bed, received in arrivals:
        queue.push(job(bed, float(received)))
    left: dict[str, list[float]] = {}
    while queue.first() is not None:
        (one,), _ = queue.take(1, 100.0)
        left.setdefault(one.window.bed, []).append(one.window.received)
    for bed in "abcd":
        assert left.get(bed, []) == sorted(float(r) for b, r in arrivals if b == bed)[-per_bed:]


def test_a_full_queue_drops_from_the_bed_with_the_most() -> None:
    queue = WindowQueue(per_bed=3, total=4)
    for bed, received in (("quiet", 0.0), ("loud", 1.0), ("loud", 2.0), ("loud", 3.0)):
        assert queue.push(job(bed, received)) is None
    dropped = queue.push(job("new", 4.0))
    assert dropped is not None
    assert (dropped.reason, dropped.job.window.received) == (DropReason.QUEUE_FULL, 1.0)
    taken, _ = queue.take(9, 100.0)
    assert [j.window.received for j in taken] == [0.0, 2.0, 4.0, 3.0]


def test_who_sends_a_backlog_waits_behind_everybody_else() -> None:
    """A bed delivers a minute at once, and then nineteen others send one window each: they are answered first."""
    queue = WindowQueue(per_bed=64, total=1000)
    for i in range(12):
        queue.push(job("backlog", i / 1000))
    for i in range(19):
        queue.push(job(f"bed {i}", 0.1 + i / 1000))
    order = []
    now = 0.2
    while queue.first() is not None:
        (one,), _ = queue.take(1, now)
        order.append(one.window.bed)
        now += 0.02
    assert order == ["backlog", *(f"bed {i}" for i in range(19)), *["backlog"] * 11]


def test_who_sends_too_much_is_not_starved() -> None:
    """Against twenty beds that keep the engine busy for ever, a bed that floods gets one window a second."""
    queue = WindowQueue(per_bed=4, total=1000)
    taken = Counter[str]()
    now, sent = 0.0, 0
    while now < 60.0:
        while sent / 20 <= now:  # twenty windows a second of the many, ten of the one
            queue.push(job(f"bed {sent % 20}", sent / 20))
            if sent % 2:
                queue.push(job("flood", sent / 20))
            sent += 1
        for one in queue.take(1, now)[0]:
            taken[one.window.bed.split()[0]] += 1
        now += 1 / 21
    assert 50 <= taken["flood"] <= 75
    assert taken["bed"] >= 1190


def test_a_batch_is_of_one_rate_and_no_window_overtakes_another_of_its_bed() -> None:
    queue = WindowQueue(per_bed=8, total=100)
    for bed, received, rate in (("a", 0, 500), ("b", 1, 250), ("a", 2, 250), ("c", 3, 500), ("b", 4, 500)):
        queue.push(job(bed, float(received), float(rate)))
    batches = []
    while queue.first() is not None:
        taken, _ = queue.take(8, 10.0)
        batches.append([(j.window.bed, j.window.received) for j in taken])
    assert batches == [[("a", 0), ("c", 3)], [("b", 1), ("a", 2)], [("b", 4)]]


def test_what_nobody_wants_any_more_is_not_taken() -> None:
    queue = WindowQueue(per_bed=8, total=100)
    for i in range(6):
        queue.push(job("ab"[i % 2], float(i)))
    assert [j.window.received for j in queue.expire(2.0)] == [0.0, 1.0]
    assert queue.expire(2.0) == []
    taken, expired = queue.take(8, 100.0, before=4.0)
    assert [j.window.received for j in taken] == [4.0, 5.0]
    assert [j.window.received for j in expired] == [2.0, 3.0]


class Counted(float):
    """A time that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        Counted.compared += 1
        return float(self) < float(other)

    def __gt__(self, other: float) -> bool:
        Counted.compared += 1
        return float(self) > float(other)


def _window(bed: int, received: float) -> Job:
    leads = (Provenance.MEASURED,) * 12
    window = Window(f"bed {bed}", "m", 0, 0.0, 10.0, 250.0, SILENCE, leads, Counted(received))
    return Job(window, received)


def test_a_window_costs_the_logarithm_of_those_that_wait() -> None:
    """A thousand windows of two hundred beds wait; a hundred more cost some ten comparisons each."""
    queue = WindowQueue(per_bed=5, total=1000)
    for i in range(1000):
        queue.push(_window(i % 200, i / 1000))
    Counted.compared = 0
    for i in range(100):
        queue.push(_window(i % 200, 1.0 + i / 1000))
    assert Counted.compared / 100 < 3 * math.log2(1000)


@pytest.mark.parametrize("older", [False, True])
def test_memory_is_bounded_where_much_comes_and_nothing_is_taken(older: bool) -> None:
    queue = WindowQueue(per_bed=2, total=50)
    sizes: set[int] = set()
    for i in range(20_000):
        queue.push(job(f"bed {i % 40}", float(-i if older else i)))
        sizes.add(sum(len(heads) for heads in queue._heads.values()))
    assert max(sizes) <= 2 * 40 + 66


def test_beds_that_are_gone_leave_nothing_behind() -> None:
    queue = WindowQueue(per_bed=2, total=50)
    for i in range(1000):
        queue.push(job(f"bed {i}", float(i)))
        queue.take(8, float(i))
    queue.push(job("last", 2000.0))
    queue.take(8, 2000.0)
    assert len(queue._taken) == 1
    assert not queue._beds
    assert sum(map(len, queue._by_count)) == 0
