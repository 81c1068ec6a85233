"""One device's blocks laid on one time axis of whole samples: what windows are cut from (`agent.core.windows.strip`).

Blocks are kept as they came, sorted by their time, and copied once, when a window is cut. Where a block lies follows
from the sorted blocks alone, not from the order of their arrival; so windows do not depend on it either.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np

from agent.core.ecg import LEADS, FloatArray

SAME_SAMPLE = 0.005
"""mV. Two messages that overlap carry the same samples; they may differ by a step of their resolution, not more."""
_SHIFTS = (0, -1, 1, -2, 2)
_BROKEN = -(2**62)


@dataclass(slots=True, eq=False)
class LeadBlock:
    """The ECG leads of one message that have one rate and one length. ``values[k]`` is (size,) in mV."""

    start: float
    """Device time of the first sample, seconds."""
    size: int
    rows: tuple[int, ...]
    """Each lead's place in ``LEADS``, ascending."""
    values: tuple[FloatArray, ...]
    computed: tuple[int, ...]
    """Those of ``rows`` that the sender says it computed."""
    filters: tuple[str, ...]
    received: float
    paced: bool | None = None
    index: int = 0
    """Place of the first sample on the axis; index 0 is the epoch."""
    segment: int = 0
    """Counts the breaks of the axis: samples of two segments are never neighbours in one window."""

    @property
    def end(self) -> int:
        """Index just after the last sample."""
        return self.index + self.size

    def key(self) -> tuple[float, int, tuple[int, ...]]:
        """Sort order, and identity: the same time, length and leads are the same block come again."""
        return (self.start, self.size, self.rows)


class Added(Enum):
    """What became of a block."""

    NEW = 0
    DUPLICATE = 1
    CONTRADICTION = 2
    """It overlaps samples that came before and differs from them: the clock was set. The block was not added."""


class Timeline:
    """Blocks of one device at one nominal rate.

    A block that starts within ``tolerance`` seconds (and half its own length) of where its predecessor ends follows it
    without a seam: time stamps are rounded, sampling clocks are not. What is ignored so adds up; where the samples and
    the stamps are more than ``drift`` seconds apart, the axis breaks and goes on at the stamp. Overlapping messages are
    aligned by their time, and within ± 2 samples by their content.
    """

    def __init__(self, rate: int, tolerance: float, drift: float) -> None:
        self.rate = rate
        self.blocks: list[LeadBlock] = []
        self.frontier = _BROKEN
        """Largest index reached by any lead."""
        self.newest = _BROKEN
        """Largest index at which a block starts."""
        self.relaid = 0
        """Blocks laid anew, because others came before them, since the last `forget_before`: what disorder costs."""
        self._tolerance = tolerance
        self._drift = drift
        self._settled = False

    @property
    def frontier_time(self) -> float:
        """Device time at the frontier."""
        return self.frontier / self.rate

    def add(self, block: LeadBlock) -> Added:
        """Lay a block on the axis. Blocks after it are laid anew where it came out of order."""
        blocks = self.blocks
        key = block.key()
        if not blocks or blocks[-1].key() < key:
            place = len(blocks)
        else:
            place = bisect_right(blocks, key, key=LeadBlock.key)
            if place and blocks[place - 1].key() == key:
                # A redelivery; or the clock was set back by whole blocks, and this is another second of signal.
                twin = blocks[place - 1]
                return Added.DUPLICATE if _equal(twin, block, 0, block.size, 0) else Added.CONTRADICTION
        blocks.insert(place, block)
        if place == 0 and self._settled and len(blocks) > 1:
            good = self._precede(block, blocks[1])
        else:
            self.relaid += len(blocks) - place - 1
            good = all(self._lay(i) for i in range(place, len(blocks)))
        if not good:
            del blocks[place]
            for i in range(max(place, 1), len(blocks)):
                self._lay(i)
            return Added.CONTRADICTION
        self.frontier = max(self.frontier, block.end, blocks[-1].end)
        self.newest = max(self.newest, blocks[-1].index)
        return Added.NEW

    def _lay(self, i: int) -> bool:
        """Give block i its index from block i - 1; False where what both cover differs."""
        b = self.blocks[i]
        by_clock = round(b.start * self.rate)
        if i == 0:
            b.index, b.segment = by_clock, 0
            return True
        a = self._predecessor(i)
        b.segment = a.segment
        elapsed = b.start - a.start
        tolerance = min(self._tolerance, 0.5 * min(a.size, b.size) / self.rate)
        if abs(elapsed - a.size / self.rate) <= tolerance and not set(a.rows).isdisjoint(b.rows):
            b.index = a.end
        else:
            b.index = a.index + round(elapsed * self.rate)
        if abs(b.index - b.start * self.rate) > self._drift * self.rate:
            b.index, b.segment = by_clock, a.segment + 1
            return True
        return b.index >= self.frontier or self._align(b, i)

    def _predecessor(self, i: int) -> LeadBlock:
        """The last block before i that has a lead of it; the last of all where none has."""
        blocks, rows = self.blocks, self.blocks[i].rows
        for j in range(i - 1, -1, -1):
            if blocks[j].rows == rows or not set(blocks[j].rows).isdisjoint(rows):
                return blocks[j]
        return blocks[i - 1]

    def _align(self, b: LeadBlock, i: int) -> bool:
        """Shift b onto the samples that earlier blocks of its segment have of the same leads."""
        for a in reversed(self.blocks[max(0, i - len(LEADS)) : i]):
            if a.segment == b.segment and a.end > b.index:
                shift = _shift(a, b)
                if shift is None:
                    return False
                b.index += shift
        return True

    def _precede(self, b: LeadBlock, first: LeadBlock) -> bool:
        """Lay b before all the others, which keep their places: windows have been cut from some of them."""
        gap = first.start - b.start - b.size / self.rate
        if abs(gap) <= min(self._tolerance, 0.5 * min(first.size, b.size) / self.rate):
            b.index = first.index - b.size
        else:
            b.index = first.index - round((first.start - b.start) * self.rate)
        b.segment = first.segment
        return b.end <= first.index or _shift(first, b) is not None

    def forget_before(self, index: int) -> bool | None:
        """Drop the blocks that end by ``index``, but for the last, which carries the axis on.

        Returns the last pacemaker status among the dropped, None where none says any.
        """
        self._settled = True
        self.relaid = 0
        paced = None
        keep: list[LeadBlock] = []
        for b in self.blocks:
            if b.end > index:
                keep.append(b)
            elif b.paced is not None:
                paced = b.paced
        self.blocks = keep or self.blocks[-1:]
        return paced

    def within(self, first: int, last: int) -> Iterator[LeadBlock]:
        """The blocks that have samples in [first, last), in order."""
        return (b for b in self.blocks if b.end > first and b.index < last)

    def cover(self, first: int, last: int) -> dict[int, bool]:
        """Leads with samples in [first, last): True where there is every one of them, in one segment."""
        blocks = list(self.within(first, last))
        together = {b.rows for b in blocks}
        if sum(map(len, together)) == len({row for rows in together for row in rows}):
            # As nearly always: leads that ever come together always do, and are covered together.
            reached = _reach(((b.rows, b) for b in blocks), first)
            return {row: to >= last for rows, to in reached.items() for row in rows}
        by_row = _reach((((row,), b) for b in blocks for row in b.rows), first)
        return {row: to >= last for (row,), to in by_row.items()}

    def samples(self, first: int, last: int, rows: frozenset[int]) -> FloatArray:
        """(12, last - first): the leads ``rows``, which `cover` says are whole; zeros elsewhere.

        Where blocks overlap, the later one counts: it may carry what the earlier one marked as not yet there.
        """
        x = np.zeros((len(LEADS), last - first), np.float32)
        blocks = list(self.within(first, last))
        if not blocks:
            return x
        head, tail = blocks[0], blocks[-1]
        if len(blocks) > 1 and all(b.index == a.end and b.rows == a.rows for a, b in pairwise(blocks)):
            middle = blocks[1:-1]
            for k, row in enumerate(head.rows):
                if row in rows:
                    pieces = [b.values[k] for b in middle]
                    pieces.insert(0, head.values[k][max(0, first - head.index) :])
                    pieces.append(tail.values[k][: last - tail.index])
                    np.concatenate(pieces, out=x[row])
            return x
        for b in blocks:
            low, high = max(first, b.index), min(last, b.end)
            for row, values in zip(b.rows, b.values, strict=True):
                if row in rows:
                    x[row, low - first : high - first] = values[low - b.index : high - b.index]
        return x


def _reach(pieces: Iterable[tuple[tuple[int, ...], LeadBlock]], first: int) -> dict[tuple[int, ...], int]:
    """How far each group of leads reaches from ``first`` on without a hole and in one segment."""
    reach: dict[tuple[int, ...], tuple[int, int]] = {}
    for rows, b in pieces:
        to, segment = reach.get(rows, (first, b.segment))
        if b.segment != segment or b.index > to:
            to = _BROKEN  # and stays so: no index lies before it
        elif b.end > to:
            to = b.end
        reach[rows] = (to, segment)
    return {rows: to for rows, (to, _) in reach.items()}


def _shift(a: LeadBlock, b: LeadBlock) -> int | None:
    """How far to move b so that it equals a where they overlap; None where no small shift makes them equal."""
    for shift in _SHIFTS:
        low, high = max(a.index, b.index + shift), min(a.end, b.end + shift)
        # Without an overlap at this shift, it was a sample or two: the rounding of the stamps.
        if low >= high or _equal(a, b, low - a.index, high - a.index, a.index - b.index - shift):
            return shift
    return None


def _equal(a: LeadBlock, b: LeadBlock, low: int, high: int, offset: int) -> bool:
    """True where the samples [low, high) of a are those of b, ``offset`` further on, in every lead of both.

    NaN is no difference: what one message marks invalid, the other may carry.
    """
    for row, y in zip(b.rows, b.values, strict=True):
        if row in a.rows:
            x = a.values[a.rows.index(row)]
            with np.errstate(invalid="ignore"):
                if np.any(np.abs(x[low:high] - y[low + offset : high + offset]) > SAME_SAMPLE):
                    return False
    return True
