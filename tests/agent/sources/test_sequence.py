"""Sequence numbers of one device: in order, again, late, with gaps, and begun anew."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sources.sequence import Arrival, SequenceTracker


def judge_all(blocks: list[tuple[int, float | None]], remember: int = 64) -> list[Arrival]:
    tracker = SequenceTracker(remember)
    return [tracker.judge(number, start, b"%d" % number)[0] for number, start in blocks]


def test_each_way_to_arrive() -> None:
    v = Arrival
    assert judge_all([(5, 5.0), (6, 6.0), (6, 6.0), (9, 9.0), (8, 8.0), (8, 8.0), (10, 10.0)]) == [
        v.NEXT, v.NEXT, v.DUPLICATE, v.GAP, v.LATE, v.DUPLICATE, v.NEXT,
    ]  # fmt: skip


def test_a_restart_while_the_numbers_are_remembered() -> None:
    v = Arrival
    assert judge_all([(0, 100.0), (1, 101.0), (2, 102.0), (0, 110.0), (1, 111.0), (1, 111.0), (2, 112.0)]) == [
        v.NEXT, v.NEXT, v.NEXT, v.RESTART, v.NEXT, v.DUPLICATE, v.NEXT,
    ]  # fmt: skip


def test_a_restart_far_back_and_far_ahead() -> None:
    assert judge_all([(100_000, 1.0), (0, 2.0), (1, 3.0)]) == [Arrival.NEXT, Arrival.RESTART, Arrival.NEXT]
    assert judge_all([(1, 1.0), (2**40, 2.0), (2**40 + 1, 3.0)]) == [Arrival.NEXT, Arrival.RESTART, Arrival.NEXT]
    assert judge_all([(65535, None), (0, None)]) == [Arrival.NEXT, Arrival.RESTART]


def test_without_a_clock_the_bytes_tell() -> None:
    tracker = SequenceTracker(8)
    assert tracker.judge(1, None, b"a")[0] is Arrival.NEXT
    assert tracker.judge(1, None, b"a")[0] is Arrival.DUPLICATE
    assert tracker.judge(1, None, b"b")[0] is Arrival.RESTART


def test_the_count_of_a_gap() -> None:
    tracker = SequenceTracker(8)
    tracker.judge(1, 1.0, b"")
    assert tracker.judge(5, 5.0, b"") == (Arrival.GAP, 3)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=80))
def test_no_block_passes_twice_and_none_is_lost(order: list[int]) -> None:
    """Any order and repetition of blocks of one run of the device, within what is remembered."""
    tracker = SequenceTracker(64)
    highest, passed = -1, []
    for number in order:
        arrival, _ = tracker.judge(number, 100.0 + number, b"")
        assert arrival is not Arrival.RESTART
        if arrival is not Arrival.DUPLICATE:
            passed.append(number)
        highest = max(highest, number)
    assert sorted(passed) == sorted(set(order))


def test_memory_is_bounded() -> None:
    tracker = SequenceTracker(16)
    for i in range(1000):
        tracker.judge(i * 2, float(i), b"")
    assert len(tracker._seen) == 16
