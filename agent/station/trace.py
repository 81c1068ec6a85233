"""One bed's display lead: the last seconds of it in a ring, and their encoding for the page.

A record is what the page needs to go on drawing, little-endian: bed number u32, epoch u32, count u32, rate f32,
position of the first sample f64, then ``count`` int16 of 2 µV (-32768 = invalid). Positions count samples since the
epoch began, so a viewer that lost records sees by how much; a new epoch (another lead, rate, patient) wipes the strip.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from agent.core.ecg import FloatArray

RECORD = struct.Struct("<IIIfd")
MICROVOLTS = 2.0  # per count: ±65 mV, more than an electrode's offset leaves after any monitor's input filter
INVALID = -32768
_DISPLAY_RATE = (
    250.0  # enough for the eye; a higher rate keeps the extremes of each pair of samples, so no R wave is cut
)
_JITTER = 2  # samples by which a device's clock may disagree with its own rate


class Trace:
    """A ring of ``seconds`` of one lead. Memory is bounded; `append` costs microseconds and allocates nothing big."""

    __slots__ = ("_expected", "_ring", "_sent", "_step", "_total", "epoch", "lead", "rate")

    def __init__(self, lead: str, rate: float, seconds: float, epoch: int) -> None:
        self.lead = lead
        self.rate = rate
        self.epoch = epoch
        self._step = max(1, int(rate // _DISPLAY_RATE))
        self._ring = np.full(max(1, round(rate * seconds)), np.nan, dtype=np.float32)
        self._total = 0  # samples ever written: the position of the next one
        self._sent = 0  # of those, how many `increment` has given out
        self._expected: float | None = None

    def append(self, values: FloatArray, start: float | None) -> None:
        """Write a block (n,) in mV whose first sample is of device time ``start``.

        What overlaps the block before is cut off, what is missing becomes invalid samples. A jump of the clock by more
        than the ring joins the blocks as they came: the strip is for the eye, the windows have their own rules.
        """
        n = values.size
        if start is None or not math.isfinite(start):
            self._expected = None
        else:
            lag = 0.0 if self._expected is None else (start - self._expected) * self.rate
            self._expected = start + n / self.rate
            if -self._ring.size < lag <= -_JITTER - 0.5:
                overlap = round(-lag)
                self._expected = max(self._expected, start + overlap / self.rate)
                if overlap >= n:
                    return  # a repetition, or too late for the strip
                values = values[overlap:]
            elif _JITTER + 0.5 <= lag < self._ring.size:
                self._write(np.full(round(lag), np.nan, dtype=np.float32))
        self._write(values)

    def _write(self, values: FloatArray) -> None:
        size = self._ring.size
        n = values.size
        if n > size:
            self._total += n - size
            values = values[n - size :]
            n = size
        at = self._total % size
        first = min(n, size - at)
        self._ring[at : at + first] = values[:first]
        self._ring[: n - first] = values[first:]
        self._total += n

    def recent(self) -> FloatArray:
        """The ring's content, oldest first: (m,) with m up to the ring's size."""
        return self._read(max(0, self._total - self._ring.size), self._total)

    def increment(self, bed: int) -> bytes:
        """The record of what came since the last call; empty where nothing did."""
        oldest = max(0, self._total - self._ring.size)
        record, self._sent = self._record(bed, max(self._sent, oldest), self._total)
        return record

    def history(self, bed: int) -> bytes:
        """The record of everything in the ring up to what `increment` has given out: what a new viewer starts with."""
        record, _ = self._record(bed, max(0, self._total - self._ring.size), self._sent)
        return record

    def _read(self, first: int, last: int) -> FloatArray:
        size = self._ring.size
        a, b = first % size, last % size
        if first == last:
            return self._ring[:0].copy()
        return self._ring[a:b].copy() if a < b else np.concatenate((self._ring[a:], self._ring[:b]))

    def _record(self, bed: int, first: int, last: int) -> tuple[bytes, int]:
        """The record of positions [first, last), cut to whole groups; and where it ends."""
        group = 2 * self._step if self._step > 1 else 1
        first = -(-first // group) * group
        last = last // group * group
        if first >= last:
            return b"", max(first, self._sent)
        values = self._read(first, last)
        if self._step > 1:
            pairs = values.reshape(-1, group)
            low, high = pairs.argmin(axis=1), pairs.argmax(axis=1)
            order = np.stack((np.minimum(low, high), np.maximum(low, high)), axis=1)
            values = np.take_along_axis(pairs, order, axis=1).ravel()
        with np.errstate(invalid="ignore"):
            counts = np.clip(np.rint(values * (1000.0 / MICROVOLTS)), INVALID + 1, -INVALID - 1)
        counts[np.isnan(counts)] = INVALID
        head = RECORD.pack(bed, self.epoch, counts.size, self.rate / self._step, first / self._step)
        return head + counts.astype("<i2").tobytes(), last
