"""The axis: where blocks come to lie, what contradicts, what is whole."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.windows.timeline import Added, LeadBlock, Timeline

T0 = 1000.0
SIGNAL = np.random.default_rng(0).standard_normal(5000).astype(np.float32)


def block(start: float, first: int, size: int, rows: tuple[int, ...] = (0, 1)) -> LeadBlock:
    values = tuple(SIGNAL[first : first + size] + row for row in rows)
    return LeadBlock(T0 + start, size, rows, values, (), (), received=0.0)


def line(rate: int = 250) -> Timeline:
    return Timeline(rate, tolerance=0.01, drift=0.25)


def test_blocks_follow_seamlessly_within_the_tolerance_and_leave_a_hole_beyond() -> None:
    t = line()
    for start, first in ((0.0, 0), (1.004, 250), (1.997, 500), (3.1, 750)):
        assert t.add(block(start, first, 250)) is Added.NEW
    origin = round(T0 * 250)
    # The hole is measured from the block before, whose stamp was 3 ms early.
    assert [b.index - origin for b in t.blocks] == [0, 250, 500, 776]
    assert t.cover(origin, origin + 750) == {0: True, 1: True}
    assert t.cover(origin, origin + 900) == {0: False, 1: False}


def test_the_order_of_arrival_leaves_no_trace() -> None:
    starts = [0.0, 1.003, 1.999, 3.001, 4.0]
    blocks = [(s, 250 * k) for k, s in enumerate(starts)]
    places = []
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3], [1, 0, 3, 2, 4]):
        t = line()
        for k in order:
            t.add(block(*blocks[k], 250))
        places.append([b.index for b in t.blocks])
    assert places[0] == places[1] == places[2]


def test_a_repeated_block_is_known_and_another_one_with_its_time_contradicts() -> None:
    t = line()
    t.add(block(0.0, 0, 250))
    assert t.add(block(0.0, 0, 250)) is Added.DUPLICATE
    assert t.add(block(0.0, 1000, 250)) is Added.CONTRADICTION
    assert t.add(block(0.5, 1000, 250)) is Added.CONTRADICTION
    assert len(t.blocks) == 1


@pytest.mark.parametrize("error", [-0.008, -0.004, 0.0, 0.004, 0.008])
def test_overlapping_messages_are_aligned_by_their_content(error: float) -> None:
    t = line()
    t.add(block(0.0, 0, 1500))
    assert t.add(block(5.5 + error, 1375, 1500)) is Added.NEW
    first = round(T0 * 250)
    assert t.blocks[1].index == first + 1375
    whole = t.samples(first, first + 2875, frozenset({0}))
    assert np.array_equal(whole[0], SIGNAL[:2875])
    assert not whole[1].any()


def test_leads_that_come_apart_are_covered_apart() -> None:
    t = line()
    t.add(block(0.0, 0, 500, (0, 1)))
    t.add(block(0.0, 0, 250, (6,)))
    t.add(block(1.2, 300, 200, (6,)))
    first = round(T0 * 250)
    assert t.cover(first, first + 500) == {0: True, 1: True, 6: False}
    assert t.cover(first + 300, first + 500) == {0: True, 1: True, 6: True}


def test_an_axis_that_drifts_too_far_is_broken() -> None:
    t = line()
    for k in range(60):
        t.add(block(k * 1.008, 0, 250))
    assert t.blocks[-1].segment == 1
    broken = next(i for i, b in enumerate(t.blocks) if b.segment == 1)
    at = t.blocks[broken].index
    assert t.cover(at - 250, at + 250) == {0: False, 1: False}
    assert t.cover(at, at + 500) == {0: True, 1: True}


def test_forgetting_keeps_what_is_needed_and_the_last_pacemaker_status() -> None:
    t = line()
    for k in range(8):
        b = block(float(k), 250 * k, 250)
        b.paced = k == 2 if k < 4 else None
        t.add(b)
    first = round(T0 * 250)
    assert t.forget_before(first + 1250) is False
    assert len(t.blocks) == 3
    assert t.add(block(4.0, 1000, 250)) is Added.NEW
    assert t.blocks[0].end == t.blocks[1].index
    t.forget_before(first + 10**6)
    assert len(t.blocks) == 1
