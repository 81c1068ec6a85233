"""One device at one bed: where in time each of its blocks belongs, and where its strip breaks.

Clocks are set, devices restart, messages come late, twice or without a time. Each block either follows on the strip, is
counted as old, or breaks the strip with a `Gap` that says why.
"""

from __future__ import annotations

import math
from collections import Counter

from agent.core.census import Stay
from agent.core.ecg import Gap, GapReason, Samples, Window
from agent.core.windows.layout import LeadGroup, MessageLayout
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.strip import Origin, Strip
from agent.core.windows.timeline import Added, LeadBlock

_LATEST_TIME = 1e11  # seconds; a later stamp is milliseconds or worse
_STALE_RUN = 3  # so many old blocks in a row, each following the other, are a clock that was set back
_LATE_FOR = 60.0  # seconds of arrival that blocks of the patient before may still come
_ROUNDING = 2e-3  # seconds that stamps may be rounded by


def device_time(samples: Samples) -> float | None:
    """The block's start where its stamp can be one; None where there is none or it cannot."""
    return samples.start if samples.start is not None and 0.0 <= samples.start < _LATEST_TIME else None


class DeviceStream:
    """The strip of one device, and what is known of its clock. ``rate`` is that of its first block."""

    def __init__(self, origin: Origin, rate: int, settings: WindowingSettings, counts: Counter[str]) -> None:
        self.layout: MessageLayout | None = None
        """Of its last message."""
        self.received = -math.inf
        """Arrival of its last block."""
        self._origin = origin
        self._settings = settings
        self._counts = counts
        self._strip = Strip(origin, rate, settings)
        self._not_before = -math.inf
        """Device time at which the present patient's signal begins."""
        self._refuse_until: float | None = None
        """Arrival until which older signal is refused; None before the first block after a change of patient."""
        self._sequence: int | None = None
        self._sequence_start = 0.0
        """Time of the block that had this sequence number."""
        self._stale_end = math.nan
        self._stale_run = 0
        self._ends: dict[tuple[int, ...], float] = {}
        """For messages without time: where each set of leads has got to."""

    def precedes_patient(self, start: float, received: float) -> bool:
        """Signal from device time ``start`` that arrives now is that of the patient before.

        Only for a minute after the change: what is still older then comes from a clock that was set back.
        """
        if start >= self._not_before:
            return False
        if self._refuse_until is None:
            self._refuse_until = received + _LATE_FOR
        return received <= self._refuse_until

    def end_encounter(self) -> Gap | None:
        """Nothing that came before reaches another window. Returns the stretch that is lost by it."""
        strip, gap = self._strip, None
        self._refuse_until = None
        if not strip.is_empty:
            self._not_before = strip.end - 0.5 * min(b.size for b in strip.timeline.blocks) / strip.rate
            gap = self._origin.gap(strip.uncut, strip.end, GapReason.ENCOUNTER)
        self._begin_strip(strip.rate, paced=None)
        return gap

    def take(self, samples: Samples, group: LeadGroup, stay: Stay, wall_offset: float) -> list[Window | Gap]:
        """Lay the group's part of a message on the strip; the windows that it completes and the gaps that it shows."""
        start = device_time(samples)
        block = group.block(samples, self._untimed(samples, group, wall_offset) if start is None else start)
        end = block.start + group.size / group.rate
        if group.size > self._settings.max_block * group.rate:
            self._counts["too_long"] += 1
            return [self._origin.gap(block.start, end, GapReason.INVALID)]
        self._note_first_block(samples, group, block.start)
        if self._strip.is_empty and group.rate != self._strip.rate:
            self._begin_strip(group.rate, self._strip.paced)
        if self._is_slower_companion(block, group.rate):
            self._counts["rate_mismatch"] += 1
            return []
        reason = self._reason_to_break(samples, block, end, group.rate)
        if reason is None:
            if self._strip.has_passed(end):
                return self._old(block, end)
            added = self._strip.add(block)
            if added is Added.DUPLICATE:
                self._counts["duplicate"] += 1
                return []
            if added is Added.CONTRADICTION:
                reason = GapReason.DEVICE_RESTART if self._is_numbered_anew(samples) else GapReason.CLOCK_JUMP
        out: list[Window | Gap] = []
        if reason is not None:
            out += self._break(reason, block, group.rate, stay)
        self._stale_run = 0
        if self._strip.has_drifted(block):
            self._counts["drift"] += 1
        if samples.sequence is not None:
            self._sequence, self._sequence_start = samples.sequence, block.start
        out += self._strip.cut(stay)
        if self._strip.is_overfull:
            self._counts["too_many_blocks"] += 1
            out.append(self._origin.gap(self._strip.uncut, self._strip.end, GapReason.INVALID))
            self._begin_strip(group.rate, self._strip.paced)
        return out

    # Where a block belongs

    def _note_first_block(self, samples: Samples, group: LeadGroup, start: float) -> None:
        """Whatever begins before the present patient's first block, and comes after it, is of the patient before."""
        if self._refuse_until is None and self._not_before > -math.inf:
            self._refuse_until = samples.received + _LATE_FOR
            self._not_before = max(self._not_before, start - 0.5 * group.size / group.rate)

    def _untimed(self, samples: Samples, group: LeadGroup, wall_offset: float) -> float:
        """Time of a block that has none: end to end with what came before, or from its arrival."""
        length = group.size / group.rate
        arrival = samples.received + wall_offset - length
        ends, line = self._ends, self._strip.timeline
        if group.rows in ends:
            start = ends[group.rows]
        elif line.blocks and group.rate == line.rate:
            last = line.blocks[-1]
            # One message per lead: beside the newest block, unless that has these leads already.
            start = last.start if not set(last.rows) & set(group.rows) else line.frontier_time
        else:
            start = arrival
        if samples.sequence is not None and self._sequence is not None:
            missed = samples.sequence - self._sequence - 1
            if 0 < missed * length < self._settings.max_gap:
                start += missed * length
        if not -self._settings.max_gap < arrival - start <= max(self._settings.late, 2 * length):
            start = arrival
        ends[group.rows] = start + length
        return start

    def _is_slower_companion(self, block: LeadBlock, rate: int) -> bool:
        """The faster of two simultaneous rates is the stream's; a slower one must have the stream for itself."""
        strip = self._strip
        return not strip.is_empty and rate < strip.rate and block.start - strip.end < self._settings.late

    def _reason_to_break(self, samples: Samples, block: LeadBlock, end: float, rate: int) -> GapReason | None:
        """Why the block cannot follow on the strip; None where nothing speaks against it."""
        strip, settings = self._strip, self._settings
        if strip.is_empty:
            return None
        if rate != strip.rate:
            return GapReason.RATE_CHANGE
        ahead = block.start - strip.end
        if ahead > settings.max_gap:
            if self._is_numbered_anew(samples):
                return GapReason.DEVICE_RESTART
            waited = samples.received - self.received
            return GapReason.CLOCK_JUMP if ahead - waited > settings.max_gap else GapReason.MISSING
        if strip.has_passed(end):
            return self._set_back(samples, block, end)
        if not strip.has_cut and end < strip.end - settings.seconds - settings.max_gap:
            return GapReason.CLOCK_JUMP
        return None

    def _is_numbered_anew(self, samples: Samples) -> bool:
        return samples.sequence is not None and self._sequence is not None and samples.sequence < self._sequence

    def _set_back(self, samples: Samples, block: LeadBlock, end: float) -> GapReason | None:
        """Whether an old block comes from a clock that was set back; None where it is late or repeated."""
        follows = True
        if samples.sequence is not None and self._sequence is not None:
            blocks = samples.sequence - self._sequence
            if blocks > 0:
                return GapReason.CLOCK_JUMP
            told = self._sequence_start + blocks * (end - block.start)
            follows = abs(told - block.start) > self._settings.max_gap
        tolerance = max(self._settings.tolerance, _ROUNDING)
        # Several leads of one stretch, one message each, are one step of the run.
        beside = abs(block.start - (self._stale_end - (end - block.start))) <= tolerance
        if abs(block.start - self._stale_end) <= tolerance:
            self._stale_run += 1
        elif not beside:
            self._stale_run = 1
        self._stale_end = end
        if follows and self._stale_run >= _STALE_RUN:
            return GapReason.CLOCK_JUMP if samples.sequence is None else GapReason.DEVICE_RESTART
        return None

    def _old(self, block: LeadBlock, end: float) -> list[Window | Gap]:
        """A block whose windows have all passed: late where it was missed, repeated where it was not."""
        if self._strip.was_missed(block.start, end):
            self._counts["late"] += 1
            return [self._origin.gap(block.start, end, GapReason.LATE)]
        self._counts["duplicate"] += 1
        return []

    # Where the strip breaks

    def _break(self, reason: GapReason, block: LeadBlock, rate: int, stay: Stay) -> list[Window | Gap]:
        """End the strip before the block, and begin another with it."""
        out = self._strip.cut(stay, force=True)
        if reason is GapReason.CLOCK_JUMP:
            self._counts["clock_jump"] += 1
        after = block.start if reason is GapReason.MISSING else self._strip.end
        out.append(self._origin.gap(self._strip.uncut, after, reason))
        self._begin_strip(rate, self._strip.paced)
        self._not_before = -math.inf  # it was of the old clock
        self._strip.add(block)
        return out

    def _begin_strip(self, rate: int, paced: bool | None) -> None:
        self._strip = Strip(self._origin, rate, self._settings, paced)
        self._stale_run = 0
