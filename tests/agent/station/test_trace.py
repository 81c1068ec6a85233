"""The ring of the display lead and its encoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.station.trace import INVALID, MICROVOLTS, RECORD, Trace


@dataclass
class Record:
    bed: int
    epoch: int
    rate: float
    first: float
    millivolts: np.ndarray


def decode(data: bytes) -> Record:
    bed, epoch, count, rate, first = RECORD.unpack_from(data)
    counts = np.frombuffer(data, "<i2", count, RECORD.size)
    assert len(data) == RECORD.size + 2 * count
    return Record(bed, epoch, rate, first, np.where(counts == INVALID, np.nan, counts * (MICROVOLTS / 1000)))


def ramp(n: int) -> np.ndarray:
    return (np.arange(n) % 1000 * 0.002).astype(np.float32)


def test_blocks_come_out_as_they_went_in() -> None:
    trace = Trace("II", 250.0, 12.0, 7)
    signal = ramp(1000)
    got = []
    for k in range(4):
        trace.append(signal[250 * k : 250 * (k + 1)], 100.0 + k)
        record = decode(trace.increment(3))
        assert (record.bed, record.epoch, record.rate, record.first) == (3, 7, 250.0, 250.0 * k)
        got.append(record.millivolts)
    np.testing.assert_allclose(np.concatenate(got), signal, atol=MICROVOLTS / 2000 + 1e-6)
    assert trace.increment(3) == b""
    np.testing.assert_allclose(decode(trace.history(3)).millivolts, signal, atol=MICROVOLTS / 2000 + 1e-6)


def test_memory_is_bounded_and_a_late_reader_sees_how_much_it_lost() -> None:
    trace = Trace("II", 250.0, 12.0, 1)
    for k in range(100):
        trace.append(np.full(250, k * 0.01, np.float32), 100.0 + k)
    record = decode(trace.increment(0))
    assert record.first == 88 * 250
    assert record.millivolts.size == 12 * 250
    assert trace.recent().size == 12 * 250


def test_gaps_become_invalid_samples_and_repetitions_nothing() -> None:
    trace = Trace("II", 250.0, 12.0, 1)
    trace.append(np.ones(250, np.float32), 0.0)
    trace.append(np.ones(250, np.float32), 0.0)
    trace.append(np.ones(250, np.float32), 1.5)
    values = decode(trace.increment(0)).millivolts
    assert values.size == 625
    assert np.isnan(values[250:375]).all()
    assert not np.isnan(values[:250]).any()
    assert not np.isnan(values[375:]).any()


def test_a_clock_that_jumps_joins_blocks() -> None:
    trace = Trace("II", 250.0, 12.0, 1)
    for start in (0.0, 86400.0, 3.0):
        trace.append(np.ones(250, np.float32), start)
    assert decode(trace.increment(0)).millivolts.size == 750


def test_blocks_without_time_and_a_drifting_clock_leave_no_holes() -> None:
    trace = Trace("II", 250.0, 12.0, 1)
    for _ in range(3):
        trace.append(np.ones(250, np.float32), None)
    for k in range(6):
        trace.append(np.ones(250, np.float32), 10.0 + k * 1.004)
    values = decode(trace.increment(0)).millivolts
    assert values.size == 9 * 250
    assert not np.isnan(values).any()


@pytest.mark.parametrize(("rate", "shown"), [(125.0, 125.0), (360.0, 360.0), (500.0, 250.0), (1000.0, 250.0)])
def test_high_rates_keep_every_peak(rate: float, shown: float) -> None:
    trace = Trace("II", rate, 12.0, 1)
    signal = np.zeros(round(4 * rate), np.float32)
    at = np.arange(37, signal.size, round(rate) - 13)
    signal[at] = 1.5
    signal[at + 3] = -0.7
    pieces = []
    begin = 0
    for block in np.array_split(signal, 16):
        trace.append(block, begin / rate)
        begin += block.size
        if record := trace.increment(0):
            pieces.append(decode(record))
    values = np.concatenate([piece.millivolts for piece in pieces])
    assert pieces[0].rate == shown
    assert [p.first for p in pieces[1:]] == list(np.cumsum([p.millivolts.size for p in pieces])[:-1])
    assert abs(values.size - 4 * shown) <= 2
    assert np.count_nonzero(values > 1.4) == at.size
    assert np.count_nonzero(values < -0.6) == at.size


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=12))
def test_overlapping_blocks_never_repeat_or_shift_a_sample(blocks: list[tuple[int, int]]) -> None:
    """Blocks in any overlap, in order of their start: what comes out is the signal, or invalid where none was sent."""
    signal = ramp(300)
    trace = Trace("II", 125.0, 12.0, 1)
    blocks = sorted(blocks)
    origin = blocks[0][0]
    for begin, n in blocks:
        trace.append(signal[begin : begin + n], begin / 125.0)
    values = trace.recent()
    assert values.size <= max(begin + n for begin, n in blocks) - origin + 2 * len(blocks)
    expected = signal[origin : origin + values.size]
    present = ~np.isnan(values)
    # A disagreement of up to two samples is taken for the clock's own, so each join may shift what follows by so much.
    np.testing.assert_allclose(values[present], expected[present], atol=2 * len(blocks) * 0.002)
