"""An unbroken stretch of one device's signal, and the windows that are cut from it.

A strip ends where the clock was set, the rate or the patient changed, or a hole is too long; another begins behind.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from agent.core.census import Stay
from agent.core.ecg import LEADS, Gap, GapReason, Provenance, Window
from agent.core.leads import complete
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.timeline import Added, LeadBlock, Timeline

_BLOCKS = 4096  # of one device; ten seconds in blocks of 2.5 ms
_RELAID = 20_000  # blocks laid anew for one window: a fifth of a second of work; 200 blocks in the very worst order
_LOST = 16  # stretches reported missing that are remembered


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose signal a strip is: a device at a bed."""

    bed: str
    device: str

    def gap(self, start: float, end: float, reason: GapReason) -> Gap:
        """A stretch of its signal without a window."""
        return Gap(self.bed, self.device, start, end, reason)


class Strip:
    """One device's blocks since the last break. ``paced`` is the pacemaker status that was known before it began."""

    def __init__(self, origin: Origin, rate: int, settings: WindowingSettings, paced: bool | None = None) -> None:
        self.timeline = Timeline(rate, settings.tolerance, settings.drift)
        self.paced = paced
        """The last status among the blocks that are no longer kept."""
        self._origin = origin
        self._settings = settings
        # From the bed's own name, so that a ward's windows do not all end in the same second.
        self._phase = crc32(origin.bed.encode()) % settings.stride
        self._slot: int | None = None
        """Number of the next window: it starts at ``slot * stride + phase``. None until the first is cut."""
        self._segment = 0
        self._lost: deque[tuple[float, float]] = deque(maxlen=_LOST)

    @property
    def rate(self) -> int:
        """Samples per second."""
        return self.timeline.rate

    @property
    def is_empty(self) -> bool:
        """Nothing came yet."""
        return not self.timeline.blocks

    @property
    def has_cut(self) -> bool:
        """A window was cut, or a gap reported in its place."""
        return self._slot is not None

    @property
    def end(self) -> float:
        """Device time just after the newest sample. Not of an empty strip."""
        return self.timeline.frontier_time

    @property
    def uncut(self) -> float:
        """Device time from which on no window was cut. Not of an empty strip."""
        line, settings = self.timeline, self._settings
        if self._slot is None:
            return line.blocks[0].index / line.rate
        cut = self._slot * settings.stride + self._phase + settings.seconds - settings.stride
        return min(cut, line.frontier_time)

    @property
    def is_overfull(self) -> bool:
        """It has too many blocks, or they come in too wild an order."""
        return len(self.timeline.blocks) > _BLOCKS or self.timeline.relaid > _RELAID

    def has_passed(self, end: float) -> bool:
        """Every window that signal up to ``end`` could be in has been cut."""
        return self._slot is not None and end <= self._slot * self._settings.stride + self._phase

    def was_missed(self, start: float, end: float) -> bool:
        """Some of [start, end) was reported missing: a block for it is late, any other old one repeated."""
        return any(start < b and end > a for a, b in self._lost)

    def add(self, block: LeadBlock) -> Added:
        """Lay a block on the time axis."""
        return self.timeline.add(block)

    def has_drifted(self, block: LeadBlock) -> bool:
        """This block broke the axis, since samples and stamps had drifted apart; told once."""
        if block.segment <= self._segment:
            return False
        self._segment = block.segment
        return True

    def cut(self, stay: Stay, *, force: bool = False) -> list[Window | Gap]:
        """The windows that are complete or overdue; with ``force`` also those that wait for a lead."""
        line, settings = self.timeline, self._settings
        n, step, late = settings.seconds * line.rate, settings.stride * line.rate, round(settings.late * line.rate)
        shift = self._phase * line.rate
        out: list[Window | Gap] = []
        while line.blocks:
            slot = -(-(line.blocks[0].index - shift) // step) if self._slot is None else self._slot
            first, last = slot * step + shift, slot * step + shift + n
            if line.frontier < last:
                break
            cover = line.cover(first, last)
            overdue = force or line.newest >= last + late
            if not overdue and not (cover and all(cover.values()) and self._knows_its_leads()):
                break
            out.append(self._window(slot, cover, stay))
            self._slot = slot + 1
            paced = line.forget_before(self._slot * step + shift)
            self.paced = self.paced if paced is None else paced
        return out

    def _knows_its_leads(self) -> bool:
        """False while all that ever came is one lead in blocks of its own: its companions may be under way."""
        blocks = self.timeline.blocks
        rows = blocks[0].rows
        return self._slot is not None or len(rows) > 1 or any(b.rows != rows for b in blocks)

    def _window(self, slot: int, cover: dict[int, bool], stay: Stay) -> Window | Gap:
        settings, line = self._settings, self.timeline
        start = float(slot * settings.stride + self._phase)
        first = round(start) * line.rate
        last = first + settings.seconds * line.rate
        whole = frozenset(row for row, complete in cover.items() if complete)
        blocks = list(line.within(first, last))
        x = line.samples(first, last, whole)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(x.sum(axis=1))  # a NaN or an infinity anywhere in a lead survives the sum
        usable = [row for row in sorted(whole) if finite[row]]
        if not usable:
            reason = GapReason.INVALID if whole else GapReason.MISSING
            if not whole and len({b.segment for b in blocks}) > 1:
                reason = GapReason.CLOCK_JUMP
            self._lost.append((start, start + settings.seconds))
            return self._origin.gap(start, start + settings.seconds, reason)
        computed = {row for b in blocks for row in b.computed}
        provenance = [Provenance.MISSING] * len(LEADS)
        for row in usable:
            provenance[row] = Provenance.DERIVED if row in computed else Provenance.MEASURED
        for row in whole.difference(usable):
            x[row] = 0.0
        return Window(
            bed=self._origin.bed,
            device=self._origin.device,
            generation=stay.generation,
            start=start,
            end=start + settings.seconds,
            rate=float(line.rate),
            samples=x,
            provenance=complete(x, provenance),
            received=max(b.received for b in blocks if whole.intersection(b.rows)),
            paced=next((b.paced for b in reversed(blocks) if b.paced is not None), self.paced),
            encounter=stay.encounter,
            filter_labels=tuple(sorted({f for b in blocks for f in b.filters})),
        )
