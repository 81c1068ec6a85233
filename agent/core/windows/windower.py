"""Blocks of samples in, windows of ten seconds or gaps out: per bed and device, whatever the order of the blocks.

A window starts on a whole multiple of the stride since the epoch plus the bed's own phase, whole seconds that follow
from its name, so that a ward's windows do not all end in the same second. It holds the device's own samples at its own
rate, and is cut as soon as every lead that the device sends has reached its end, or when a lead lags by more than the
lateness allowance: then that lead is missing. A lead with a single invalid sample inside a window is missing in that
window; no sample is ever interpolated, extrapolated or repeated. Where nothing is usable there is a `Gap` with its
reason.

Any split, order or repetition of the same blocks gives the same windows, as long as each block comes before any that
starts ``late`` seconds after it.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from zlib import crc32

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.core.ecg import LEADS, Channel, ChannelKind, Encounter, Gap, GapReason, Provenance, Samples, Window
from agent.core.leads import LEAD_INDEX, complete
from agent.core.windows.timeline import Added, Block, Timeline

_LATEST_TIME = 1e11  # seconds; a later stamp is milliseconds or worse
_BLOCKS = 4096  # of one device; ten seconds in blocks of 2.5 ms
_RELAID = 20_000  # blocks laid anew for one window: a fifth of a second of work; 200 blocks in the very worst order
_DEVICES = 16  # of one bed
_NAMELESS = 3  # so many blocks in a row without a patient, from a device that named one, …
_NAMED_FOR = 20.0  # … and so many seconds after it did: it is that patient no longer
_STALE_RUN = 3  # so many old blocks in a row, each following the other, are a clock that was set back


class WindowingSettings(BaseModel):
    """How windows are cut."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seconds: int = Field(default=10, ge=1, le=60)
    """Length of a window; the networks' manifest must ask for the same."""
    stride: int = Field(default=5, ge=1, le=60)
    """Seconds from the start of a window to that of the next."""
    late: float = Field(default=2.0, ge=0.0, le=30.0)
    """Seconds of signal that are waited for a late block or lead before the window is cut without it."""
    max_gap: float = Field(default=10.0, ge=1.0, le=600.0)
    """A longer hole ends the strip: windowing starts anew behind it."""
    tolerance: float = Field(default=0.01, ge=0.0, le=0.2)
    """Seconds by which a block's time stamp may miss the end of the block before and still follow it seamlessly. A lost
    block of no more than this length cannot be told from jitter, so keep it below the devices' shortest block."""
    drift: float = Field(default=0.25, gt=0.0, le=2.0)
    """Seconds that a device's samples and its stamps may drift apart before the strip is broken and anchored anew."""
    min_rate: int = Field(default=100, ge=50)
    """Hz. A lead that is slower is not used, and counted."""
    max_rate: int = Field(default=1000, le=4000)
    """Hz. A lead that is faster is not used, and counted."""
    idle: float = Field(default=600.0, gt=0.0)
    """Seconds without samples after which a bed is forgotten."""
    max_block: float = Field(default=60.0, ge=1.0, le=3600.0)
    """Seconds of the longest message; a longer one is refused as invalid. Bounds a bed's memory."""
    max_beds: int = Field(default=2048, ge=1)
    """Samples of further beds are refused and counted. Bounds the agent's memory."""

    @model_validator(mode="after")
    def _no_signal_is_skipped(self) -> WindowingSettings:
        if self.stride > self.seconds:
            raise ValueError("stride must not be longer than seconds, or the signal between windows is never looked at")
        if self.min_rate > self.max_rate:
            raise ValueError("min_rate must not be above max_rate")
        return self


@dataclass(slots=True)
class _Stream:
    """One device at one bed."""

    timeline: Timeline
    phase: int
    """Seconds by which the bed's windows start after a whole multiple of the stride."""
    layout: _Layout | None = None
    slot: int | None = None
    """Number of the next window: it starts at ``slot * stride + phase``. None until the first is cut."""
    received: float = -math.inf
    sequence: int | None = None
    sequence_start: float = 0.0
    """Time of the block that had this sequence number."""
    segment: int = 0
    paced: bool | None = None
    named: float | None = None
    """Arrival of the last block that said who the patient is; None where none of the present encounter has."""
    nameless: int = 0
    """Blocks since then that name nobody."""
    not_before: float = -math.inf
    """Device time at which the present patient's signal begins."""
    lost: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=16))
    """Stretches that were reported missing: a block that comes for one of them is late, any other old one repeated."""
    stale_end: float = math.nan
    stale_run: int = 0
    ends: dict[tuple[int, ...], float] = field(default_factory=dict)
    """For messages without time: where each set of leads has got to."""


@dataclass(slots=True)
class _Bed:
    generation: int
    encounter: Encounter | None = None
    streams: dict[str, _Stream] = field(default_factory=dict)
    received: float | None = None


class Windower:
    """The windows of every bed. Feed it blocks in the order of their arrival; it keeps about ten seconds of each lead.

    ``wall_offset`` is added to the monotonic arrival time where a message carries no time at all, so that its windows
    have epoch times like all others (the difference of the two clocks when the agent started).
    """

    def __init__(self, settings: WindowingSettings, wall_offset: float = 0.0) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        """What was put right or refused: duplicate, late, drift, clock_jump, rate_mismatch, same_lead, too_long,
        too_many_beds, too_many_devices, too_many_blocks (or in too wild an order), earlier_patient, bad_time,
        encounter_forgotten (of a bed without samples, to make room for one with)."""
        self.wall_offset = wall_offset
        """May be changed when the wall clock was set: messages without time are then anchored anew, behind a gap."""
        self._beds: dict[str, _Bed] = {}
        self._floor = 0

    @property
    def beds(self) -> tuple[str, ...]:
        """The beds that have sent samples and are not forgotten."""
        return tuple(name for name, bed in self._beds.items() if bed.streams)

    def generation(self, bed: str) -> int:
        """Counts the bed's encounters; never falls, not even where a bed was forgotten in between."""
        known = self._beds.get(bed)
        return self._floor if known is None else known.generation

    def encounter(self, bed: str) -> Encounter | None:
        """Who lies in the bed, as far as ADT or the samples have said."""
        known = self._beds.get(bed)
        return None if known is None else known.encounter

    def where(self, encounter: Encounter) -> tuple[str, ...]:
        """The beds that are known to hold this patient."""
        return tuple(
            name
            for name, bed in self._beds.items()
            if bed.encounter is not None
            and bed.encounter.patient_ids
            and encounter.patient_ids
            and bed.encounter.same_patient(encounter)
        )

    def end_encounter(self, bed: str, encounter: Encounter | None) -> None:
        """The patient left, and ``encounter`` came or nobody: nothing of the bed's samples reaches another window."""
        known = self._beds.get(bed) or self._new_bed(bed)
        if known is not None:
            self._clear(known)
            known.encounter = encounter

    def update_encounter(self, bed: str, encounter: Encounter) -> None:
        """More is known of the same patient (ADT A08); another patient's data ends the encounter."""
        known = self._beds.get(bed) or self._new_bed(bed)
        if known is not None:
            if known.encounter is not None and not known.encounter.same_patient(encounter):
                self._clear(known)
            known.encounter = encounter

    def forget(self, now: float) -> tuple[str, ...]:
        """Drop the samples of beds and devices that have been silent for ``idle`` seconds; the beds that went."""
        gone = []
        for name, bed in list(self._beds.items()):
            for device, stream in list(bed.streams.items()):
                if now - stream.received > self.settings.idle:
                    del bed.streams[device]
                    if not bed.streams:
                        gone.append(name)
            # Whom ADT has put into the bed stays known: the monitor may be off for an hour and come back.
            if not bed.streams and bed.encounter is None:
                self._floor = max(self._floor, bed.generation + 1)
                del self._beds[name]
        return tuple(gone)

    def push(self, samples: Samples) -> tuple[Window | Gap, ...]:
        """Take one block; the windows that it completes and the gaps that it shows, in order."""
        if not any(channel.kind is ChannelKind.ECG for channel in samples.channels):
            return ()
        bed = self._beds.get(samples.bed) or self._new_bed(samples.bed)
        if bed is None:
            return ()
        stream = bed.streams.get(samples.device)
        sizes = tuple([v.size for v in samples.values])
        layout = stream.layout if stream is not None else None
        if layout is None or layout.sizes != sizes or layout.channels != samples.channels:
            layout = _layout(samples.channels, sizes, self.settings)
        if layout.refused:
            self.counts.update(layout.refused)
        start = samples.start
        if start is not None and not 0.0 <= start < _LATEST_TIME:
            self.counts["bad_time"] += 1
            start = None
        if stream is not None and start is not None and start < stream.not_before:
            self.counts["earlier_patient"] += 1
            return ()
        out: list[Window | Gap] = []
        if samples.encounter is not None and samples.encounter != bed.encounter:
            out += self._identify(samples.bed, bed, samples.encounter)
        if stream is not None and self._is_withdrawn(stream, samples):
            out += self._clear(bed, samples.bed)
            bed.encounter = samples.encounter
        if not layout.groups:
            at = samples.received + self.wall_offset if start is None else start
            seconds = max((v.size / c.rate for c, v in zip(samples.channels, samples.values, strict=True)), default=0.0)
            return (*out, Gap(samples.bed, samples.device, at, at + seconds, GapReason.NO_LEADS))
        if stream is None:
            if len(bed.streams) >= _DEVICES:
                self.counts["too_many_devices"] += 1
                return tuple(out)
            timeline = self._timeline(layout.groups[0].rate)
            stream = bed.streams[samples.device] = _Stream(timeline, self._phase(samples.bed))
        stream.layout = layout
        if samples.encounter is not None and samples.encounter.patient_ids:
            stream.named, stream.nameless = samples.received, 0
        for group in layout.groups:
            rate, block = group.rate, group.block(samples)
            block.start = self._untimed(stream, block, rate, samples) if start is None else start
            out += self._take(samples, bed, stream, rate, block)
        stream.received = max(stream.received, samples.received)
        return tuple(out)

    # Patients

    def _new_bed(self, name: str) -> _Bed | None:
        if len(self._beds) >= self.settings.max_beds:
            # A hospital's ADT speaks of far more beds than have a monitor: they must not keep one with samples out.
            unused = next((other for other, known in self._beds.items() if not known.streams), None)
            if unused is None:
                self.counts["too_many_beds"] += 1
                return None
            self._floor = max(self._floor, self._beds.pop(unused).generation + 1)
            self.counts["encounter_forgotten"] += 1
        bed = self._beds[name] = _Bed(self._floor)
        return bed

    def _identify(self, name: str, bed: _Bed, encounter: Encounter) -> Iterator[Gap]:
        known = bed.encounter
        if known is not None and not known.same_patient(encounter):
            yield from self._clear(bed, name)
            known = None
        if known is None or encounter.patient_ids or not known.patient_ids:
            bed.encounter = encounter
        elif encounter.location and encounter.location != known.location:
            bed.encounter = replace(known, location=encounter.location)

    @staticmethod
    def _is_withdrawn(stream: _Stream, samples: Samples) -> bool:
        """A monitor that was told to forget its patient goes on without a name: the next one is not the last one."""
        if stream.named is None or (samples.encounter is not None and samples.encounter.patient_ids):
            return False
        stream.nameless += 1
        return stream.nameless >= _NAMELESS and samples.received - stream.named > _NAMED_FOR

    def _clear(self, bed: _Bed, name: str = "") -> list[Gap]:
        gaps = []
        bed.generation += 1
        for device, stream in bed.streams.items():
            line = stream.timeline
            if line.blocks:
                stream.not_before = line.frontier_time - 0.5 * min(b.size for b in line.blocks) / line.rate
                gaps.append(Gap(name, device, self._uncut(stream), line.frontier_time, GapReason.ENCOUNTER))
            self._restart(stream, line.rate)
            stream.paced = None
            stream.named, stream.nameless = None, 0
        return gaps

    # Blocks

    def _phase(self, bed: str) -> int:
        return crc32(bed.encode()) % self.settings.stride

    def _timeline(self, rate: int) -> Timeline:
        return Timeline(rate, self.settings.tolerance, self.settings.drift)

    def _restart(self, stream: _Stream, rate: int) -> None:
        stream.timeline = self._timeline(rate)
        stream.slot = None
        stream.segment = 0
        stream.stale_run = 0
        stream.lost.clear()

    def _uncut(self, stream: _Stream) -> float:
        """Device time from which on no window was cut."""
        line = stream.timeline
        earliest = line.blocks[0].index / line.rate
        if stream.slot is None:
            return earliest
        cut = stream.slot * self.settings.stride + stream.phase + self.settings.seconds - self.settings.stride
        return min(cut, line.frontier_time)

    def _untimed(self, stream: _Stream, block: Block, rate: int, samples: Samples) -> float:
        """Time of a block that has none: end to end with what came before, or from its arrival."""
        length = block.size / rate
        arrival = samples.received + self.wall_offset - length
        ends = stream.ends
        if block.rows in ends:
            start = ends[block.rows]
        elif stream.timeline.blocks and rate == stream.timeline.rate:
            last = stream.timeline.blocks[-1]
            # One message per lead: beside the newest block, unless that has these leads already.
            start = last.start if not set(last.rows) & set(block.rows) else stream.timeline.frontier_time
        else:
            start = arrival
        if samples.sequence is not None and stream.sequence is not None:
            missed = samples.sequence - stream.sequence - 1
            if 0 < missed * length < self.settings.max_gap:
                start += missed * length
        if not -self.settings.max_gap < arrival - start <= max(self.settings.late, 2 * length):
            start = arrival
        ends[block.rows] = start + length
        return start

    def _take(self, samples: Samples, bed: _Bed, stream: _Stream, rate: int, block: Block) -> list[Window | Gap]:
        settings, line = self.settings, stream.timeline
        end = block.start + block.size / rate
        if block.size > settings.max_block * rate:
            self.counts["too_long"] += 1
            return [Gap(samples.bed, samples.device, block.start, end, GapReason.INVALID)]
        out: list[Window | Gap] = []
        reason: GapReason | None = None
        if line.blocks:
            ahead = block.start - line.frontier_time
            if rate != line.rate:
                # The faster of two simultaneous rates is the stream's; a slower one must have the stream for itself.
                if rate < line.rate and ahead < settings.late:
                    self.counts["rate_mismatch"] += 1
                    return []
                reason = GapReason.RATE_CHANGE
            elif ahead > settings.max_gap:
                waited = samples.received - stream.received
                reason = GapReason.CLOCK_JUMP if ahead - waited > settings.max_gap else GapReason.MISSING
                if samples.sequence is not None and stream.sequence is not None and samples.sequence < stream.sequence:
                    reason = GapReason.DEVICE_RESTART
            elif stream.slot is not None and end <= stream.slot * settings.stride + stream.phase:
                reason, late = self._stale(stream, block, end, samples)
                if reason is None:
                    return late
            elif stream.slot is None and end < line.frontier_time - settings.seconds - settings.max_gap:
                reason = GapReason.CLOCK_JUMP
        elif rate != line.rate:
            line = stream.timeline = self._timeline(rate)
        if reason is None:
            added = line.add(block)
            if added is Added.DUPLICATE:
                self.counts["duplicate"] += 1
                return out
            if added is Added.CONTRADICTION:
                older = samples.sequence is not None and stream.sequence is not None
                older = older and (samples.sequence or 0) < (stream.sequence or 0)
                reason = GapReason.DEVICE_RESTART if older else GapReason.CLOCK_JUMP
        if reason is not None:
            out += self._cut(samples, bed, stream, force=True)
            if reason is GapReason.CLOCK_JUMP:
                self.counts["clock_jump"] += 1
            after = block.start if reason is GapReason.MISSING else line.frontier_time
            out.append(Gap(samples.bed, samples.device, self._uncut(stream), after, reason))
            self._restart(stream, rate)
            stream.not_before = -math.inf
            line = stream.timeline
            line.add(block)
        stream.stale_run = 0
        if block.segment > stream.segment:
            stream.segment = block.segment
            self.counts["drift"] += 1
        if samples.sequence is not None:
            stream.sequence, stream.sequence_start = samples.sequence, block.start
        out += self._cut(samples, bed, stream)
        if len(line.blocks) > _BLOCKS or line.relaid > _RELAID:
            self.counts["too_many_blocks"] += 1
            out.append(Gap(samples.bed, samples.device, self._uncut(stream), line.frontier_time, GapReason.INVALID))
            self._restart(stream, rate)
        return out

    def _stale(
        self, stream: _Stream, block: Block, end: float, samples: Samples
    ) -> tuple[GapReason | None, list[Window | Gap]]:
        """A block whose windows have all passed: repeated, late, or from a clock that was set back."""
        if samples.sequence is not None and stream.sequence is not None:
            blocks = samples.sequence - stream.sequence
            told = stream.sequence_start + blocks * (end - block.start)
            if blocks > 0:
                return GapReason.CLOCK_JUMP, []
            follows = abs(told - block.start) > self.settings.max_gap
        else:
            follows = True
        tolerance = max(self.settings.tolerance, 2e-3)
        # Several leads of one stretch, one message each, are one step of the run.
        beside = abs(block.start - (stream.stale_end - (end - block.start))) <= tolerance
        if abs(block.start - stream.stale_end) <= tolerance:
            stream.stale_run += 1
        elif not beside:
            stream.stale_run = 1
        stream.stale_end = end
        if follows and stream.stale_run >= _STALE_RUN:
            restarted = samples.sequence is not None
            return (GapReason.DEVICE_RESTART if restarted else GapReason.CLOCK_JUMP), []
        if any(block.start < b and end > a for a, b in stream.lost):
            self.counts["late"] += 1
            return None, [Gap(samples.bed, samples.device, block.start, end, GapReason.LATE)]
        self.counts["duplicate"] += 1
        return None, []

    # Windows

    def _cut(self, samples: Samples, bed: _Bed, stream: _Stream, *, force: bool = False) -> list[Window | Gap]:
        """The windows that are complete or overdue; with ``force`` also those that wait for a lead."""
        line, settings = stream.timeline, self.settings
        n, step, late = settings.seconds * line.rate, settings.stride * line.rate, round(settings.late * line.rate)
        shift = stream.phase * line.rate
        out: list[Window | Gap] = []
        while line.blocks:
            slot = -(-(line.blocks[0].index - shift) // step) if stream.slot is None else stream.slot
            first, last = slot * step + shift, slot * step + shift + n
            if line.frontier < last:
                break
            cover = line.cover(first, last)
            overdue = force or line.newest >= last + late
            if not overdue and not (cover and all(cover.values()) and self._leads_known(stream)):
                break
            out.append(self._window(samples, bed, stream, slot, cover))
            stream.slot = slot + 1
            paced = line.forget_before(stream.slot * step + shift)
            stream.paced = stream.paced if paced is None else paced
        return out

    @staticmethod
    def _leads_known(stream: _Stream) -> bool:
        """False while all that ever came is one lead in blocks of its own: its companions may be under way."""
        rows = stream.timeline.blocks[0].rows
        return stream.slot is not None or len(rows) > 1 or any(b.rows != rows for b in stream.timeline.blocks)

    def _window(self, samples: Samples, bed: _Bed, stream: _Stream, slot: int, cover: dict[int, bool]) -> Window | Gap:
        settings, line = self.settings, stream.timeline
        start = float(slot * settings.stride + stream.phase)
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
            stream.lost.append((start, start + settings.seconds))
            return Gap(samples.bed, samples.device, start, start + settings.seconds, reason)
        computed = {row for b in blocks for row in b.computed}
        provenance = [Provenance.MISSING] * len(LEADS)
        for row in usable:
            provenance[row] = Provenance.DERIVED if row in computed else Provenance.MEASURED
        for row in whole.difference(usable):
            x[row] = 0.0
        return Window(
            bed=samples.bed,
            device=samples.device,
            generation=bed.generation,
            start=start,
            end=start + settings.seconds,
            rate=float(line.rate),
            samples=x,
            provenance=complete(x, provenance),
            received=max(b.received for b in blocks if whole.intersection(b.rows)),
            paced=next((b.paced for b in reversed(blocks) if b.paced is not None), stream.paced),
            encounter=bed.encounter,
            filter_labels=tuple(sorted({f for b in blocks for f in b.filters})),
        )


@dataclass(frozen=True, slots=True)
class _Group:
    """Channels of a message that have one rate and one length."""

    rate: int
    size: int
    rows: tuple[int, ...]
    places: tuple[int, ...]
    """Where in the message each row is."""
    computed: tuple[int, ...]
    filters: tuple[str, ...]

    def block(self, samples: Samples) -> Block:
        values = samples.values
        return Block(
            start=0.0,
            size=self.size,
            rows=self.rows,
            values=tuple([values[i] for i in self.places]),
            computed=self.computed,
            filters=self.filters,
            received=samples.received,
            paced=samples.paced,
        )


@dataclass(frozen=True, slots=True)
class _Layout:
    """What of a message goes into windows: the same for every message of a device, so worked out once."""

    channels: tuple[Channel, ...]
    sizes: tuple[int, ...]
    groups: tuple[_Group, ...]
    """The fastest first."""
    refused: tuple[str, ...]
    """Why channels were left out, one each."""


def _layout(channels: tuple[Channel, ...], sizes: tuple[int, ...], settings: WindowingSettings) -> _Layout:
    members: dict[tuple[int, int], dict[int, int]] = {}
    seen: set[int] = set()
    refused = []
    for i, (channel, size) in enumerate(zip(channels, sizes, strict=True)):
        if channel.kind is not ChannelKind.ECG or channel.lead is None or size == 0:
            continue
        rate = round(channel.rate)
        row = LEAD_INDEX[channel.lead]
        # Philips gives no rate: it is samples / (OBR-8 − OBR-7), and 249.8 means 250.
        if not settings.min_rate <= rate <= settings.max_rate or abs(channel.rate - rate) > 0.0025 * rate:
            refused.append("rate_mismatch")
        elif row in seen:
            refused.append("same_lead")
        else:
            seen.add(row)
            members.setdefault((rate, size), {})[row] = i
    groups = []
    for (rate, size), place_by_row in sorted(members.items(), key=lambda item: item[0], reverse=True):
        rows = tuple(sorted(place_by_row))
        computed = tuple(row for row in rows if channels[place_by_row[row]].derived)
        labels = {channels[i].filter_label for i in place_by_row.values()} - {""}
        groups.append(
            _Group(rate, size, rows, tuple(place_by_row[row] for row in rows), computed, tuple(sorted(labels)))
        )
    return _Layout(channels, sizes, tuple(groups), tuple(refused))
