"""What the live page knows: one tile per bed, kept from copies of what flows by.

The line calls the recording methods, which copy a few values and return; everything that costs (which findings lead,
the heart rate, encoding the strips) happens in `tick` and `tiles`, which only a viewer causes. A viewer keeps two
cursors, the last frame and the last revision that it has seen: states are conflated, so a slow viewer sees every alert
as it stands now, and frames are overwritten, so it loses signal and nothing else.
"""

from __future__ import annotations

import struct
from collections import deque

import numpy as np

from agent.core.beats.rate import heart_rate
from agent.core.bundle.manifest import Manifest
from agent.core.census import CensusEvent, Left, Stay
from agent.core.ecg import Alert, Gap, Lead, Prediction, Samples
from agent.station.tile import Tile
from agent.station.view import View

FRAME = struct.Struct("<4sI")
"""Head of a binary message: ``ECG1``, number of records."""
_FRAMES = 32  # ticks that a viewer may be behind before it loses any
_RATE_EVERY = 2.0  # s between two estimates of a bed's heart rate
_RATES_PER_TICK = 8  # so that many beds never make one long tick
_DEVICE_SILENT = 10.0  # s after which another device of the bed may take the strip over
_MOST_BEDS = 2048  # a sender that invents beds fills neither the page nor the memory
_UNKNOWN = Stay()
_PREFERENCE = (
    Lead.II,
    Lead.I,
    Lead.V1,
    Lead.V5,
    Lead.V2,
    Lead.III,
    Lead.AVF,
    Lead.V4,
    Lead.V3,
    Lead.V6,
    Lead.AVL,
    Lead.AVR,
)


class Board:
    """State of all tiles. One thread; ``now`` is monotonic seconds throughout.

    Args:
        manifest: of the first model: names, severities, evidence and thresholds of its labels.
        further: the same of further models.
        lead: shown on the strip where the bed has it.
        seconds: length of the strip's memory.
        findings: how many findings a tile names.
        show_patients: put names into the tiles.
        synthetic: beds that a signal generator feeds.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        further: tuple[Manifest, ...] = (),
        lead: Lead,
        seconds: float,
        findings: int,
        show_patients: bool,
        synthetic: frozenset[str],
    ) -> None:
        self._view = View(manifest, further, findings, show_patients, synthetic)
        self._further = {model.model_id: model for model in further}
        self._preference = (lead, *(other for other in _PREFERENCE if other is not lead))
        self._seconds = seconds
        self._tiles: dict[str, Tile] = {}
        self._numbers = 0
        self._frames: deque[bytes] = deque(maxlen=_FRAMES)
        self.next_frame = 0
        """Number of the frame that the next `tick` with news will make."""
        self.revision = 0
        """Counts every change of any tile."""
        self.roster = 0
        """The revision at which a bed last came or went."""

    # What the line calls: copies, a few microseconds, nothing that waits.

    def samples(self, samples: Samples, transport: str, stay: Stay = _UNKNOWN) -> None:
        """Copy the display lead of a block of the bed's present encounter, and note the time."""
        tile = self._tiles.get(samples.bed)
        if tile is None:
            if len(self._tiles) >= _MOST_BEDS:
                return
            tile = self._new(samples.bed)
        if tile.follow(stay, self._seconds):
            self._changed(tile)
        if samples.device != tile.device:
            if (
                tile.received is not None
                and samples.received - tile.received < _DEVICE_SILENT
                and tile.lead is not None
            ):
                return  # another device of the bed is on the strip
            tile.device, tile.channels = samples.device, None
        if samples.channels is not tile.channels and samples.channels != tile.channels:
            tile.choose(samples, self._preference, self._seconds)
            self._changed(tile)
        if samples.paced is not tile.paced or transport != tile.transport:
            tile.paced, tile.transport = samples.paced, transport
            self._changed(tile)
        tile.received, tile.forgotten = samples.received, False
        if tile.trace is not None and tile.lead is not None:
            tile.trace.append(samples.values[tile.lead], samples.start)

    def gap(self, gap: Gap, now: float) -> None:
        """Note a stretch without a window."""
        tile = self._tiles.get(gap.bed)
        if tile is not None:
            tile.gap, tile.gap_at = gap, now
            self._changed(tile)

    def prediction(self, prediction: Prediction) -> None:
        """Keep the newest prediction of each model, of the bed's present encounter."""
        window = prediction.window
        tile = self._tiles.get(window.bed) or self._new(window.bed)
        tile.leave(window.generation, self._seconds)
        if (model := self._further.get(prediction.model)) is not None:
            tile.further[model.name] = prediction
            if tile.requested.get(model.name, np.inf) < window.received:
                del tile.requested[model.name]
        else:
            tile.prediction = prediction
        self._changed(tile)

    def request(self, name: str, model: str, now: float) -> bool:
        """Somebody wants a further model to look at the bed again; False: there is no such bed or further model."""
        tile = self._tiles.get(name)
        if tile is None or model not in {known.name for known in self._further.values()}:
            return False
        tile.requested[model] = now
        self._changed(tile)
        return True

    def alert(self, alert: Alert) -> None:
        """Open, renew or close an alert."""
        tile = self._tiles.get(alert.bed) or self._new(alert.bed)
        tile.take_alert(alert)
        if tile.forgotten and not tile.alerts:
            self._remove(alert.bed)
        else:
            self._changed(tile)

    def delivered(self, sink: str, message_id: str) -> None:
        """A receiver has acknowledged an alert message."""
        for tile in self._tiles.values():
            for known in tile.alerts.values():
                if message_id in known.messages:
                    known.acknowledged.add(sink)
                    self._changed(tile)
                    return

    def encounter(self, event: CensusEvent) -> None:
        """A patient came or left, or more is known of one: nothing of one patient is shown as another's."""
        tile = self._tiles.get(event.bed)
        if tile is None:
            return
        if isinstance(event, Left):
            tile.leave(event.generation, self._seconds)
        else:
            tile.follow(Stay(event.generation, event.encounter), self._seconds)
        self._changed(tile)

    def forget(self, bed: str) -> None:
        """The bed has been idle too long: its tile goes, unless an alert is still open there."""
        tile = self._tiles.get(bed)
        if tile is None:
            return
        tile.forgotten = True
        if not tile.alerts:
            self._remove(bed)

    # What a viewer causes.

    def tick(self, now: float) -> None:
        """Encode what came since the last tick into one frame, and renew a few heart rates."""
        records = [
            record
            for tile in self._tiles.values()
            if tile.trace is not None and (record := tile.trace.increment(tile.number))
        ]
        if records:
            self._frames.append(FRAME.pack(b"ECG1", len(records)) + b"".join(records))
            self.next_frame += 1
        self.refresh_rates(now, _RATES_PER_TICK)

    def refresh_rates(self, now: float, limit: int) -> None:
        """Estimate the heart rate anew for up to ``limit`` beds whose last estimate is older than two seconds."""
        for tile in self._tiles.values():
            if tile.trace is None or now - tile.rate_at < _RATE_EVERY:
                continue
            limit -= 1
            tile.rate_at = now
            fresh = tile.received is not None and now - tile.received < _DEVICE_SILENT
            rate = heart_rate(tile.trace.recent(), tile.trace.rate) if fresh else None
            rounded = None if rate is None else float(round(rate))
            if rounded != tile.rate:
                tile.rate = rounded
                self._changed(tile)
            if limit == 0:
                return

    def history(self) -> bytes:
        """One frame with the whole strip of every bed, up to the last tick."""
        records = [
            record
            for tile in self._tiles.values()
            if tile.trace is not None and (record := tile.trace.history(tile.number))
        ]
        return FRAME.pack(b"ECG1", len(records)) + b"".join(records)

    def frames(self, cursor: int) -> tuple[list[bytes], int]:
        """The frames from ``cursor`` on, and how many before them are lost."""
        oldest = self.next_frame - len(self._frames)
        start = max(cursor, oldest)
        return [self._frames[i - oldest] for i in range(start, self.next_frame)], start - min(cursor, start)

    def names(self) -> list[str]:
        """All beds."""
        return list(self._tiles)

    def ages(self, now: float) -> dict[str, float]:
        """Seconds since the last block of every bed that has sent one."""
        return {
            name: round(max(0.0, now - tile.received), 1)
            for name, tile in self._tiles.items()
            if tile.received is not None
        }

    def tiles(self, since: int, now: float) -> list[dict[str, object]]:
        """The tiles that changed after revision ``since`` (-1: all), JSON-able."""
        return [self._view.tile(name, tile, now) for name, tile in self._tiles.items() if tile.revision > since]

    # Details.

    def _new(self, name: str) -> Tile:
        self.revision += 1
        self.roster = self.revision
        tile = self._tiles[name] = Tile(number=self._numbers, revision=self.revision)
        self._numbers += 1
        return tile

    def _remove(self, name: str) -> None:
        del self._tiles[name]
        self.revision += 1
        self.roster = self.revision

    def _changed(self, tile: Tile) -> None:
        self.revision += 1
        tile.revision = self.revision
