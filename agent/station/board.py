"""What the live page knows: one tile per bed, kept from copies of what flows by.

The line calls the recording methods, which copy a few values and return; everything that costs (which findings lead,
the heart rate, encoding the strips) happens in `tick` and `tiles`, which only a viewer causes. A viewer keeps two
cursors, the last frame and the last revision that it has seen: states are conflated, so a slow viewer sees every alert
as it stands now, and frames are overwritten, so it loses signal and nothing else.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from agent.core.beats.rate import heart_rate
from agent.core.bundle.manifest import Manifest
from agent.core.ecg import (
    LEADS,
    Alert,
    Channel,
    ChannelKind,
    Encounter,
    EncounterChange,
    EncounterEvent,
    Gap,
    GapReason,
    Lead,
    Phase,
    Prediction,
    Priority,
    Samples,
)
from agent.core.labels import label as label_info
from agent.station.trace import Trace

FRAME = struct.Struct("<4sI")
"""Head of a binary message: ``ECG1``, number of records."""
_FRAMES = 32  # ticks that a viewer may be behind before it loses any
_RATE_EVERY = 2.0  # s between two estimates of a bed's heart rate
_RATES_PER_TICK = 8  # so that many beds never make one long tick
_DEVICE_SILENT = 10.0  # s after which another device of the bed may take the strip over
_MOST_BEDS = 2048  # a sender that invents beds fills neither the page nor the memory
_STRIP_RATES = (50.0, 2000.0)  # samples per second that a strip is drawn of
_RANK = {Priority.HIGH: 0, Priority.MEDIUM: 1, Priority.LOW: 2, Priority.NONE: 3}


@dataclass(slots=True)
class _OpenAlert:
    alert: Alert
    messages: set[str]
    acknowledged: set[str] = field(default_factory=set)  # sinks whose receiver has answered any of its messages


@dataclass(slots=True)
class _Bed:
    number: int
    revision: int
    device: str = ""
    transport: str = ""
    received: float | None = None
    channels: tuple[Channel, ...] | None = None
    lead: int | None = None  # index of the channel on the strip
    trace: Trace | None = None
    epoch: int = 0
    paced: bool | None = None
    prediction: Prediction | None = None
    further: dict[str, Prediction] = field(default_factory=dict)
    """By name of a further model: its newest."""
    requested: dict[str, float] = field(default_factory=dict)
    """By name of a further model: when somebody asked for another look, until its answer comes."""
    rate: float | None = None
    rate_at: float = 0.0
    gap: Gap | None = None
    gap_at: float = 0.0
    encounter: Encounter | None = None
    alerts: dict[str, _OpenAlert] = field(default_factory=dict)
    forgotten: bool = False
    """The line knows it no longer: it goes with its last alert."""


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
        self._model = manifest
        self._further = {model.model_id: model for model in further}
        self._preference = (lead, *(other for other in _PREFERENCE if other is not lead))
        self._seconds = seconds
        self._findings = findings
        self._show_patients = show_patients
        self._synthetic = synthetic
        self._beds: dict[str, _Bed] = {}
        self._numbers = 0
        self._frames: deque[bytes] = deque(maxlen=_FRAMES)
        self.next_frame = 0
        """Number of the frame that the next `tick` with news will make."""
        self.revision = 0
        """Counts every change of any tile."""
        self.roster = 0
        """The revision at which a bed last came or went."""

    # What the line calls: copies, a few microseconds, nothing that waits.

    def samples(self, samples: Samples, transport: str) -> None:
        """Copy the display lead of a block and note the time."""
        bed = self._beds.get(samples.bed)
        if bed is None:
            if len(self._beds) >= _MOST_BEDS:
                return
            bed = self._new(samples.bed)
        if samples.device != bed.device:
            if bed.received is not None and samples.received - bed.received < _DEVICE_SILENT and bed.lead is not None:
                return  # another device of the bed is on the strip
            bed.device, bed.channels = samples.device, None
        if samples.channels is not bed.channels and samples.channels != bed.channels:
            self._choose(bed, samples)
        if samples.paced is not bed.paced or transport != bed.transport:
            bed.paced, bed.transport = samples.paced, transport
            self._changed(bed)
        if samples.encounter is not None:
            self._meet(bed, samples.encounter)
        bed.received, bed.forgotten = samples.received, False
        if bed.trace is not None and bed.lead is not None:
            bed.trace.append(samples.values[bed.lead], samples.start)

    def gap(self, gap: Gap, now: float) -> None:
        """Note a stretch without a window."""
        bed = self._beds.get(gap.bed)
        if bed is not None:
            if gap.reason is GapReason.ENCOUNTER:  # whichever of the bed's devices said it
                self._wipe(bed)
            bed.gap, bed.gap_at = gap, now
            self._changed(bed)

    def prediction(self, prediction: Prediction) -> None:
        """Keep the newest prediction of each model."""
        bed = self._beds.get(prediction.window.bed) or self._new(prediction.window.bed)
        if (model := self._further.get(prediction.model)) is not None:
            bed.further[model.name] = prediction
            if bed.requested.get(model.name, np.inf) < prediction.window.received:
                del bed.requested[model.name]
        else:
            bed.prediction = prediction
        self._changed(bed)

    def request(self, name: str, model: str, now: float) -> bool:
        """Somebody wants a further model to look at the bed again; False: there is no such bed or further model."""
        bed = self._beds.get(name)
        if bed is None or model not in {known.name for known in self._further.values()}:
            return False
        bed.requested[model] = now
        self._changed(bed)
        return True

    def alert(self, alert: Alert) -> None:
        """Open, renew or close an alert."""
        bed = self._beds.get(alert.bed) or self._new(alert.bed)
        if not alert.active or alert.phase in {Phase.END, Phase.RESET}:
            bed.alerts.pop(alert.alert_id, None)
            if bed.forgotten:
                self.forget(alert.bed)
                return
        elif (known := bed.alerts.get(alert.alert_id)) is not None:
            known.alert = alert
            known.messages.add(alert.message_id)
        else:
            bed.alerts[alert.alert_id] = _OpenAlert(alert, {alert.message_id})
        self._changed(bed)

    def delivered(self, sink: str, message_id: str) -> None:
        """A receiver has acknowledged an alert message."""
        for bed in self._beds.values():
            for known in bed.alerts.values():
                if message_id in known.messages:
                    known.acknowledged.add(sink)
                    self._changed(bed)
                    return

    def encounter(self, change: EncounterChange) -> None:
        """A patient came, went or moved: nothing of one patient is shown as another's."""
        if change.event is EncounterEvent.UPDATE:
            if (bed := self._beds.get(change.bed)) is not None:
                self._meet(bed, change.encounter)
            return
        arrives = change.event is not EncounterEvent.DISCHARGE
        for name in (change.bed, change.prior_bed):
            if name is None or (bed := self._beds.get(name)) is None:
                continue
            if arrives and name == change.bed:
                self._wipe(bed)
                bed.encounter = change.encounter
            elif bed.encounter is None or bed.encounter.same_patient(change.encounter):  # else the next one is there
                self._wipe(bed)

    def forget(self, bed: str) -> None:
        """The bed has been idle too long: its tile goes, unless an alert is still open there."""
        known = self._beds.get(bed)
        if known is None:
            return
        known.forgotten = True
        if not known.alerts:
            del self._beds[bed]
            self.revision += 1
            self.roster = self.revision

    # What a viewer causes.

    def tick(self, now: float) -> None:
        """Encode what came since the last tick into one frame, and renew a few heart rates."""
        records = [
            record
            for bed in self._beds.values()
            if bed.trace is not None and (record := bed.trace.increment(bed.number))
        ]
        if records:
            self._frames.append(FRAME.pack(b"ECG1", len(records)) + b"".join(records))
            self.next_frame += 1
        self.refresh_rates(now, _RATES_PER_TICK)

    def refresh_rates(self, now: float, limit: int) -> None:
        """Estimate the heart rate anew for up to ``limit`` beds whose last estimate is older than two seconds."""
        for bed in self._beds.values():
            if bed.trace is None or now - bed.rate_at < _RATE_EVERY:
                continue
            limit -= 1
            bed.rate_at = now
            fresh = bed.received is not None and now - bed.received < _DEVICE_SILENT
            rate = heart_rate(bed.trace.recent(), bed.trace.rate) if fresh else None
            rounded = None if rate is None else float(round(rate))
            if rounded != bed.rate:
                bed.rate = rounded
                self._changed(bed)
            if limit == 0:
                return

    def history(self) -> bytes:
        """One frame with the whole strip of every bed, up to the last tick."""
        records = [
            record for bed in self._beds.values() if bed.trace is not None and (record := bed.trace.history(bed.number))
        ]
        return FRAME.pack(b"ECG1", len(records)) + b"".join(records)

    def frames(self, cursor: int) -> tuple[list[bytes], int]:
        """The frames from ``cursor`` on, and how many before them are lost."""
        oldest = self.next_frame - len(self._frames)
        start = max(cursor, oldest)
        return [self._frames[i - oldest] for i in range(start, self.next_frame)], start - min(cursor, start)

    def names(self) -> list[str]:
        """All beds."""
        return list(self._beds)

    def ages(self, now: float) -> dict[str, float]:
        """Seconds since the last block of every bed that has sent one."""
        return {
            name: round(max(0.0, now - bed.received), 1) for name, bed in self._beds.items() if bed.received is not None
        }

    def tiles(self, since: int, now: float) -> list[dict[str, object]]:
        """The tiles that changed after revision ``since`` (-1: all), JSON-able."""
        return [self._tile(name, bed, now) for name, bed in self._beds.items() if bed.revision > since]

    # Details.

    def _new(self, name: str) -> _Bed:
        self.revision += 1
        self.roster = self.revision
        bed = self._beds[name] = _Bed(number=self._numbers, revision=self.revision)
        self._numbers += 1
        return bed

    def _changed(self, bed: _Bed) -> None:
        self.revision += 1
        bed.revision = self.revision

    def _choose(self, bed: _Bed, samples: Samples) -> None:
        """Choose the channel of the strip: the preferred lead, another of the twelve, any ECG, or none."""
        bed.channels = samples.channels
        slowest, fastest = _STRIP_RATES
        by_lead = {
            channel.lead: i
            for i, channel in enumerate(samples.channels)
            if channel.kind is ChannelKind.ECG and slowest <= channel.rate <= fastest
        }
        found = next((by_lead[lead] for lead in self._preference if lead in by_lead), None)
        bed.lead = found if found is not None else next(iter(by_lead.values()), None)
        self._restart(bed)
        self._changed(bed)

    def _restart(self, bed: _Bed) -> None:
        bed.epoch += 1
        bed.rate, bed.rate_at = None, 0.0
        if bed.lead is None or bed.channels is None:
            bed.trace = None
        else:
            channel = bed.channels[bed.lead]
            bed.trace = Trace(str(channel.lead or channel.label), channel.rate, self._seconds, bed.epoch)

    def _meet(self, bed: _Bed, encounter: Encounter) -> None:
        if encounter is bed.encounter or encounter == bed.encounter:
            return
        if bed.encounter is not None and not bed.encounter.same_patient(encounter):
            self._wipe(bed)
        bed.encounter = encounter
        self._changed(bed)

    def _wipe(self, bed: _Bed) -> None:
        """Forget the patient. Open alerts stay until the alert line closes them, which it does for the same event."""
        bed.prediction = bed.gap = bed.encounter = None
        bed.further.clear()
        bed.requested.clear()
        self._restart(bed)
        self._changed(bed)

    def _tile(self, name: str, bed: _Bed, now: float) -> dict[str, object]:
        window = bed.prediction.window if bed.prediction is not None else None
        return {
            "bed": name,
            "number": bed.number,
            "synthetic": name in self._synthetic,
            "transport": bed.transport,
            "lead": None if bed.trace is None else bed.trace.lead,
            "age": None if bed.received is None else round(max(0.0, now - bed.received), 1),
            "rate": bed.rate,
            "paced": bed.paced,
            "provenance": None
            if window is None
            else {lead.value: p.value for lead, p in zip(LEADS, window.provenance, strict=True)},
            "findings": self._top(self._model, bed.prediction),
            "findings_age": None if window is None else round(max(0.0, now - window.received), 1),
            "models": [self._opinion(model, bed, now) for model in self._further.values()],
            "gap": None
            if bed.gap is None
            else {"reason": bed.gap.reason.value, "age": round(max(0.0, now - bed.gap_at), 1)},
            "alerts": [_alert(known) for known in sorted(bed.alerts.values(), key=_urgency)],
            "patient": self._patient(bed.encounter),
        }

    def _patient(self, encounter: Encounter | None) -> str | None:
        if not self._show_patients or encounter is None:
            return None
        return ", ".join(part for part in (encounter.family_name, encounter.given_name) if part) or None

    def _opinion(self, model: Manifest, bed: _Bed, now: float) -> dict[str, object]:
        """What a further model has said, how long ago, and whether it is asked to look again."""
        prediction = bed.further.get(model.name)
        return {
            "model": model.name,
            "findings": self._top(model, prediction),
            "time": None if prediction is None else prediction.window.end,
            "age": None if prediction is None else round(max(0.0, now - prediction.window.received), 1),
            "requested": model.name in bed.requested,
        }

    def _top(self, model: Manifest, prediction: Prediction | None) -> list[dict[str, object]]:
        """The most probable labels among those that have evidence."""
        if prediction is None or prediction.probabilities.shape != (len(model.labels),):
            return []  # of another model than the manifest's: between two bundles
        p = prediction.probabilities
        order = [int(i) for i in np.argsort(-p) if model.labels[i].evidence is not None][: self._findings]
        return [
            {
                "label": entry.name,
                "text": label_text(entry.name),
                "probability": round(float(p[i]), 4),
                "threshold": None if entry.rule is None else entry.rule.threshold,
                "severity": entry.severity,
            }
            for i in order
            for entry in (model.labels[i],)
        ]


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


def label_text(name: str) -> str:
    """Plain words for a label; a model with labels of its own shows its own names."""
    try:
        return label_info(name).text
    except KeyError:
        return name


def _urgency(known: _OpenAlert) -> tuple[int, float]:
    return _RANK[known.alert.priority], -known.alert.opened


def _alert(known: _OpenAlert) -> dict[str, object]:
    alert = known.alert
    return {
        "id": alert.alert_id,
        "label": alert.label,
        "title": label_text(alert.label),
        "text": alert.text,
        "priority": alert.priority.value,
        "opened": alert.opened,
        "probability": None if alert.probability is None else round(alert.probability, 4),
        "acknowledged": sorted(known.acknowledged),
    }
