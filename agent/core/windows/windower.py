"""Blocks of samples in, windows of ten seconds or gaps out: per bed and device, whatever the order of the blocks.

A window starts on a whole multiple of the stride since the epoch plus the bed's own phase, whole seconds that follow
from its name, so that a ward's windows do not all end in the same second. It holds the device's own samples at its own
rate, and is cut as soon as every lead that the device sends has reached its end, or when a lead lags by more than the
lateness allowance: then that lead is missing. A lead with a single invalid sample inside a window is missing in that
window; no sample is ever interpolated, extrapolated or repeated. Where nothing is usable there is a `Gap` with its
reason.

Any split, order or repetition of the same blocks gives the same windows, as long as each block comes before any that
starts ``late`` seconds after it.

Whose signal it is, `agent.core.census` says: each block comes with the bed's present `Stay`, and no window holds
samples of two generations.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from agent.core.census import Left, Stay
from agent.core.ecg import ChannelKind, Gap, GapReason, Samples, Window
from agent.core.windows.layout import layout_of
from agent.core.windows.settings import WindowingSettings
from agent.core.windows.stream import DeviceStream, device_time
from agent.core.windows.strip import Origin

_DEVICES = 16  # of one bed
_UNKNOWN = Stay()


@dataclass(slots=True)
class _BedSignal:
    """The streams of one bed's devices, all of one encounter."""

    generation: int
    streams: dict[str, DeviceStream] = field(default_factory=dict)

    def follow(self, generation: int) -> list[Gap]:
        """Let go of what came before the encounter of this generation."""
        if generation == self.generation:
            return []
        self.generation = generation
        return [gap for stream in self.streams.values() if (gap := stream.end_encounter()) is not None]


class Windower:
    """The windows of every bed. Feed it blocks in the order of their arrival; it keeps about ten seconds of each lead.

    ``wall_offset`` is added to the monotonic arrival time where a message carries no time at all, so that its windows
    have epoch times like all others (the difference of the two clocks when the agent started).
    """

    def __init__(self, settings: WindowingSettings, wall_offset: float = 0.0) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        """What was put right or refused: duplicate, late, drift, clock_jump, rate_mismatch, same_lead, too_long,
        too_many_beds, too_many_devices, too_many_blocks (or in too wild an order), earlier_patient, bad_time."""
        self.wall_offset = wall_offset
        """May be changed when the wall clock was set: messages without time are then anchored anew, behind a gap."""
        self._beds: dict[str, _BedSignal] = {}

    @property
    def beds(self) -> tuple[str, ...]:
        """The beds that have sent samples and are not forgotten."""
        return tuple(name for name, bed in self._beds.items() if bed.streams)

    def refuses(self, samples: Samples) -> bool:
        """The block is the signal of the patient before, come late: counted, and for nobody's eyes.

        Ask before the census takes the block's identity, or he would be taken for the one who lies there now.
        """
        bed, start = self._beds.get(samples.bed), device_time(samples)
        stream = None if bed is None else bed.streams.get(samples.device)
        if stream is None or start is None or not stream.precedes_patient(start, samples.received):
            return False
        self.counts["earlier_patient"] += 1
        return True

    def leave(self, event: Left) -> tuple[Gap, ...]:
        """The patient left the bed: nothing of the bed's samples reaches another window."""
        bed = self._beds.get(event.bed)
        return () if bed is None else tuple(bed.follow(event.generation))

    def forget(self, now: float) -> tuple[str, ...]:
        """Drop the samples of beds and devices that have been silent for ``idle`` seconds; the beds that went."""
        gone = []
        for name, bed in list(self._beds.items()):
            for device, stream in list(bed.streams.items()):
                if now - stream.received > self.settings.idle:
                    del bed.streams[device]
                    if not bed.streams:
                        gone.append(name)
            if not bed.streams:
                del self._beds[name]
        return tuple(gone)

    def push(self, samples: Samples, stay: Stay = _UNKNOWN) -> tuple[Window | Gap, ...]:
        """Take one block of the bed's present encounter; the windows that it completes and the gaps that it shows."""
        if not has_ecg(samples):
            return ()
        bed = self._beds.get(samples.bed)
        if bed is None:
            if len(self._beds) >= self.settings.max_beds:
                self.counts["too_many_beds"] += 1
                return ()
            bed = self._beds[samples.bed] = _BedSignal(stay.generation)
        out: list[Window | Gap] = [*bed.follow(stay.generation)]
        if self.refuses(samples):
            return tuple(out)
        stream = bed.streams.get(samples.device)
        sizes = tuple([v.size for v in samples.values])
        layout = stream.layout if stream is not None else None
        if layout is None or layout.sizes != sizes or layout.channels != samples.channels:
            layout = layout_of(samples.channels, sizes, self.settings)
        self.counts.update(layout.refused)
        start = device_time(samples)
        if start is None and samples.start is not None:
            self.counts["bad_time"] += 1
        if not layout.groups:
            at = samples.received + self.wall_offset if start is None else start
            seconds = max((v.size / c.rate for c, v in zip(samples.channels, samples.values, strict=True)), default=0.0)
            return (*out, Gap(samples.bed, samples.device, at, at + seconds, GapReason.NO_LEADS))
        if stream is None:
            if len(bed.streams) >= _DEVICES:
                self.counts["too_many_devices"] += 1
                return tuple(out)
            origin = Origin(samples.bed, samples.device)
            stream = DeviceStream(origin, layout.groups[0].rate, self.settings, self.counts)
            bed.streams[samples.device] = stream
        stream.layout = layout
        for group in layout.groups:
            out += stream.take(samples, group, stay, self.wall_offset)
        stream.received = max(stream.received, samples.received)
        return tuple(out)


def has_ecg(samples: Samples) -> bool:
    """Whether any channel of the block is ECG: the others are not windowed, and identify nobody."""
    return any(channel.kind is ChannelKind.ECG for channel in samples.channels)
