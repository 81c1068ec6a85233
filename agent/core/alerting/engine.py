"""Alerting: predictions, encounters and silence in, alert messages out. Every state transition of an alert is here.

The life of an alert (IHE PCD-04 event phases)::

                 open_after consecutive windows ≥ threshold
      nothing ────────────────────────────────────────────▶ start, active
                                                             │   ▲ continue, every `continue_every` seconds: the
                                                             └───┘ receiver's state is brought back in step
      end, inactive ◀──── recovered        close_after consecutive windows < release
                    ◀──── discharge, transfer, patient_changed
                    ◀──── feed_lost        nothing was analysed for `stale_after` seconds
                    ◀──── model_changed    after a restart, where the label alerts no longer
                    ◀──── shutdown         planned stop

Rules of the house:

- One open alert per bed and label, whichever of the bed's devices sees it; each device has its own persistence.
- Windows are consecutive in *device* time when no signal between them went unseen: the next one starts after the last
  one's start and not after its end. Anything else (gap, dropped windows, a clock set) starts the counting anew, towards
  opening and towards closing alike. A window that comes twice is passed over.
- An alert is never left active while nothing is measured: it ends with reason ``feed_lost``, and a technical alert
  takes its place until there is signal again. Nothing latches: this system is advisory, the receiver has the history.
- What was seen of one patient never counts for the next: a change of patient ends the bed's alerts and forgets
  everything about it. An admission to a bed whose patient is unknown is such a change; an alert that opened for an
  unknown patient stays one of an unknown patient.
- A message is sent at start, as continue, and at end; a changed probability travels with the next continue. A08 changes
  no alert: later messages carry the new data.
- Ids are names of the events themselves (UUID 5): the same inputs give the same ids, so what is computed twice is
  committed once. A message's id is derived from that of the message before it, across restarts.

Times: ``now`` is the agent's monotonic clock, ``wall`` epoch seconds of its wall clock.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TypeGuard
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field

from agent.core.bundle.manifest import AlertRule, Manifest
from agent.core.ecg import (
    Alert,
    Encounter,
    EncounterChange,
    EncounterEvent,
    Gap,
    GapReason,
    Phase,
    Prediction,
    Priority,
    SourceAlarm,
    Window,
)
from agent.core.labels import LabelInfo
from agent.core.labels import label as label_info
from agent.core.nomenclature import ECG_ELEC_POTL

ECG_MISSING = "ECG missing"
LEADS_OFF = "Leads off"

TECHNICAL: dict[str, tuple[int, str, str]] = {
    ECG_MISSING: (197378, "MDC_EVT_DATA_MISSING", "No ECG to analyse: advisories paused"),
    LEADS_OFF: (196882, "MDC_EVT_LEADS_OFF", "Leads off, no ECG to analyse: advisories paused"),
}
"""Technical conditions by the ``label`` of their alerts: event code, reference id, text."""

_NAMESPACE = UUID("6f0e8f52-2c2b-5d0a-9a0e-3b6a6d1f7c55")
_MOST_BEDS = 4096  # alarms of further beds are not kept
_ALARMS_PER_BED = 64
_LONGEST_TEXT = 200  # of a monitor's alarm, characters
_BEFORE = -1  # the generation of a device known only from alerts of before a restart


class AlertingSettings(BaseModel):
    """When findings become alerts, beyond the thresholds and persistence of the bundle's manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    suppress: tuple[str, ...] = ()
    """Labels, or patterns as `ST elevation*`, that never alert here, whatever the manifest says."""
    suppress_when_paced: tuple[str, ...] = (
        "Left bundle branch block",
        "Right bundle branch block",
        "Nonspecific intraventricular conduction delay",
        "Left ventricular hypertrophy",
        "Right ventricular hypertrophy",
        "Prolonged QT",
        "Delta wave",
        "Wolff-Parkinson-White*",
        "Ventricular Rhythm",
        "ST *",
        "T wave *",
        "Q wave *",
        "Acute MI",
    )
    """The same while the monitor says that the patient is paced: pacing itself makes the ECG look like these."""
    continue_every: float = Field(default=300.0, ge=0)
    """Seconds between `continue` messages of an open alert, by which a receiver gets back in step; 0 sends none."""
    stale_after: float = Field(default=30.0, gt=0)
    """Seconds without an analysed window after which a bed's alerts end as `feed_lost`."""
    forget_after: float = Field(default=3600.0, gt=0)
    """Seconds without one after which the technical alert ends too and the bed is forgotten (monitor put away)."""
    feed_lost_alert: bool = True
    """Raise a technical alert when a bed that was analysed no longer is."""
    feed_lost_priority: Priority = Priority.LOW
    """Its priority: PH, PM, PL or PN."""
    leads_off: bool = False
    """Call it `leads off` (196882) rather than `data missing` (197378) where the monitor marks the signal invalid."""


@dataclass(slots=True)
class _Device:
    """What one device of a bed has shown, of one patient."""

    generation: int = _BEFORE
    start: float = -math.inf
    end: float = -math.inf
    received: float | None = None
    """Monotonic time of its last window; None between a restart and the first tick."""
    above: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By label: consecutive windows at or above the threshold, and why they are suppressed (empty: they are not)."""
    below: dict[str, int] = field(default_factory=dict)
    """By label: consecutive windows below the release."""


@dataclass(slots=True)
class _Bed:
    """All that is remembered of one bed."""

    devices: dict[str, _Device] = field(default_factory=dict)
    open: dict[str, Alert] = field(default_factory=dict)
    """By label: the last message of the alert that is open."""
    encounter: Encounter | None = None
    offered: Encounter | None = None
    """The encounter that the last window brought: when that changes it replaces ``encounter``."""
    seen: float | None = None
    """Monotonic time of the last analysed window; None until the first tick after a restart."""
    invalid: bool = False
    """The signal since the last window was marked invalid, or had none of the leads."""
    alarms: dict[tuple[str, int, str], SourceAlarm] = field(default_factory=dict)


class Alerting:
    """The alerts of all beds. Not thread-safe; every method returns the messages to commit, in order."""

    def __init__(
        self, manifest: Manifest, settings: AlertingSettings | None = None, open_alerts: Iterable[Alert] = ()
    ) -> None:
        """Start from the alerts that the outbox calls open (``Outbox.open_alerts``).

        They go on where the same patient still shows them, and end by the rules above where not.

        Raises:
            ValueError: ``suppress`` names no label of this manifest.
        """
        self.settings = settings or AlertingSettings()
        self.model = manifest.model_id
        self._required = frozenset(manifest.input.required_leads)
        names = [label.name for label in manifest.labels]
        for pattern in self.settings.suppress:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"alerting.suppress: {pattern!r} is no label of {self.model}; take a name from its manifest"
                )
        self._rules: list[tuple[int, str, AlertRule, bool, bool]] = [
            (
                index,
                label.name,
                label.rule,
                any(fnmatchcase(label.name, pattern) for pattern in self.settings.suppress),
                any(fnmatchcase(label.name, pattern) for pattern in self.settings.suppress_when_paced),
            )
            for index, label in enumerate(manifest.labels)
            if label.rule is not None
        ]
        self._beds: dict[str, _Bed] = {}
        self._suppressed: dict[str, int] = {}
        self._orphans: list[Alert] = []
        self._restore(open_alerts)

    def _restore(self, open_alerts: Iterable[Alert]) -> None:
        alertable = {name for _, name, _, never, _ in self._rules if not never}
        for alert in open_alerts:
            if not alert.active:
                continue
            bed = self._beds.setdefault(alert.bed, _Bed())
            if alert.encounter is not None and (alert.encounter.patient_ids or bed.encounter is None):
                bed.encounter = alert.encounter  # the newest, for they come in order; the unknown erases nobody
            if alert.label in TECHNICAL:
                alertable_here = not any(label in TECHNICAL for label in bed.open)
            else:
                alertable_here = alert.label in alertable and alert.label not in bed.open
            if alertable_here:
                bed.open[alert.label] = alert
                if alert.label not in TECHNICAL:
                    bed.devices.setdefault(alert.device, _Device())
            else:
                self._orphans.append(alert)

    def open_alerts(self, bed: str | None = None) -> tuple[Alert, ...]:
        """The last message of every open alert, of one bed or of all."""
        beds = self._beds.values() if bed is None else filter(None, [self._beds.get(bed)])
        return tuple(alert for b in beds for alert in b.open.values())

    def source_alarms(self, bed: str) -> tuple[SourceAlarm, ...]:
        """The alarms that the bed's monitors themselves hold active (at most 64, the latest)."""
        found = self._beds.get(bed)
        return tuple(found.alarms.values()) if found else ()

    def take_suppressed(self) -> dict[str, int]:
        """Findings not alerted since the last call, by reason: for the metrics.

        ``label`` and ``paced`` (settings; once per finding), ``other_device`` and ``other_model`` (the bed has that
        alert already; once),
        ``generation`` (prediction of an earlier encounter), ``model`` (of another bundle), ``leads`` (a required lead
        missing), ``repeated`` (the same window again), ``too_many_beds`` (a monitor's own alarm that was not kept).
        """
        taken, self._suppressed = self._suppressed, {}
        return taken

    # What comes in

    def on_prediction(
        self, p: Prediction, wall: float, generation: int | None = None, elsewhere: Collection[str] = ()
    ) -> tuple[Alert, ...]:
        """Count one window, open and close.

        ``generation`` is the bed's present one (``Windower.generation``); a prediction of another one was made of an
        earlier encounter and is discarded. None: the caller has made sure. ``elsewhere`` are the labels of the bed's
        alerts that other models have opened: none of them opens here as long as it is open there.
        """
        window = p.window
        if p.model != self.model:
            return self._suppress("model")
        if generation is not None and window.generation != generation:
            return self._suppress("generation")
        if not self._required <= set(window.leads):
            return self._suppress("leads")
        bed = self._beds.setdefault(window.bed, _Bed())
        if generation is None and any(device.generation > window.generation for device in bed.devices.values()):
            return self._suppress("generation")
        out: list[Alert] = []
        if _is_someone_else(bed, window):
            out += self._end_bed(bed, "patient_changed", wall)
            self._forget_patient(bed)
        if window.encounter is not None and window.encounter != bed.offered:
            bed.offered = window.encounter
            if window.encounter.patient_ids or bed.encounter is None or not bed.encounter.patient_ids:
                bed.encounter = window.encounter  # the unknown erases nobody: his alerts may still be open
        device = bed.devices.get(window.device)
        if device is None or device.generation != window.generation:
            device = bed.devices[window.device] = _Device(window.generation)
        elif window.start == device.start:
            return self._suppress("repeated")
        elif not device.start < window.start <= device.end:
            device.above.clear()
            device.below.clear()
        device.start, device.end, device.received = window.start, window.end, window.received
        bed.seen = window.received if bed.seen is None else max(bed.seen, window.received)
        bed.invalid = False
        for technical in [label for label in bed.open if label in TECHNICAL]:
            out.append(self._end(bed, technical, "recovered", wall))
        for index, name, rule, never, not_paced in self._rules:
            reason = "label" if never else "paced" if not_paced and window.paced else ""
            out += self._judge(bed, device, p, name, float(p.probabilities[index]), rule, reason, elsewhere, wall)
        return tuple(out)

    def on_gap(self, gap: Gap, wall: float) -> tuple[Alert, ...]:
        """A stretch without a window. A change of patient seen by the windower ends the bed's alerts at once."""
        if (bed := self._beds.get(gap.bed)) is None:
            return ()
        if gap.reason is GapReason.ENCOUNTER:
            out = self._end_bed(bed, "patient_changed", wall)
            self._forget_patient(bed)
            return tuple(out)
        bed.invalid = gap.reason in {GapReason.INVALID, GapReason.NO_LEADS}
        return ()

    def on_encounter_change(self, change: EncounterChange, wall: float) -> tuple[Alert, ...]:
        """Apply an ADT event. A bed that is known to hold another patient than the one who leaves it is left alone."""
        match change.event:
            case EncounterEvent.UPDATE | EncounterEvent.ADMIT:
                return self._arrive(change.bed, change.encounter, wall, update=change.event is EncounterEvent.UPDATE)
            case EncounterEvent.DISCHARGE:
                return self._leave(change.bed, change.encounter, "discharge", wall)
            case EncounterEvent.TRANSFER if change.prior_bed == change.bed:
                return self._arrive(change.bed, change.encounter, wall, update=True)
            case EncounterEvent.TRANSFER:
                # A02 without PV1-6: the bed left behind is where that patient is known to be.
                priors = (
                    [change.prior_bed]
                    if change.prior_bed is not None
                    else [
                        name
                        for name, bed in self._beds.items()
                        if change.may_empty(name) and _known_same(bed.encounter, change.encounter)
                    ]
                )
                out: list[Alert] = []
                for prior in priors:
                    out += self._leave(prior, change.encounter, "transfer", wall)
                return (*out, *self._arrive(change.bed, change.encounter, wall, update=False))

    def on_feed_lost(self, bed: str, wall: float, device: str | None = None) -> tuple[Alert, ...]:
        """The bed's feed (or one device of it) is known to be gone, as by an MQTT last will: no need to wait."""
        if (found := self._beds.get(bed)) is None:
            return ()
        devices = list(found.devices) if device is None else [device] if device in found.devices else []
        return tuple(self._lose(found, bed, devices, wall))

    def on_source_alarm(self, alarm: SourceAlarm) -> tuple[Alert, ...]:
        """Keep what the monitor itself says; nothing is judged of it yet, so there is no message."""
        bed = self._beds.get(alarm.bed)
        if bed is None:
            if len(self._beds) >= _MOST_BEDS:
                return self._suppress("too_many_beds")
            bed = self._beds[alarm.bed] = _Bed(seen=alarm.received)
        if len(alarm.text) > _LONGEST_TEXT:
            alarm = dataclasses.replace(alarm, text=alarm.text[:_LONGEST_TEXT])
        key = (alarm.device, alarm.code, alarm.text)
        bed.alarms.pop(key, None)
        bed.seen = max(bed.seen or 0.0, alarm.received)
        if alarm.active and alarm.phase not in {Phase.END, Phase.RESET}:
            bed.alarms[key] = alarm
            while len(bed.alarms) > _ALARMS_PER_BED:
                del bed.alarms[next(iter(bed.alarms))]
        return ()

    def on_tick(self, now: float, wall: float) -> tuple[Alert, ...]:
        """About once a second: what silence means, and the periodic ``continue`` messages."""
        out = [self._message(None, alert, Phase.END, "model_changed", alert.time, wall) for alert in self._orphans]
        self._orphans.clear()
        for name, bed in list(self._beds.items()):
            if bed.seen is None:
                bed.seen = now
                if self._is_bygone(bed, wall):
                    out += self._end_bed(bed, "feed_lost", wall)
                    del self._beds[name]
                    continue
            stale = []
            for key, device in bed.devices.items():
                if device.received is None:
                    device.received = now
                if now - device.received > self.settings.stale_after:
                    stale.append(key)
            if stale:
                out += self._lose(bed, name, stale, wall)
            if now - bed.seen > self.settings.forget_after:
                out += self._end_bed(bed, "feed_lost", wall)
                del self._beds[name]
                continue
            for label, alert in bed.open.items():
                if 0 < self.settings.continue_every <= wall - alert.created:
                    time = wall if label in TECHNICAL else alert.time
                    bed.open[label] = self._message(bed, alert, Phase.CONTINUE, "", time, wall)
                    out.append(bed.open[label])
                elif alert.created > wall + self.settings.continue_every:  # the wall clock was set back: count from now
                    bed.open[label] = dataclasses.replace(alert, created=wall)
        return tuple(out)

    def _is_bygone(self, bed: _Bed, wall: float) -> bool:
        """What was open before a stop of more than an hour says nothing of whoever lies there now."""
        s = self.settings
        last = max((alert.created for alert in bed.open.values()), default=wall)
        return s.continue_every > 0 and wall - last > s.continue_every + s.forget_after

    def on_shutdown(self, wall: float) -> tuple[Alert, ...]:
        """A planned stop: nobody will watch, so nothing may stay active."""
        out = [self._message(None, alert, Phase.END, "shutdown", alert.time, wall) for alert in self._orphans]
        for bed in self._beds.values():
            out += self._end_bed(bed, "shutdown", wall)
        self._beds.clear()
        self._orphans.clear()
        return tuple(out)

    # Transitions

    def _judge(
        self,
        bed: _Bed,
        device: _Device,
        p: Prediction,
        name: str,
        probability: float,
        rule: AlertRule,
        reason: str,
        elsewhere: Collection[str],
        wall: float,
    ) -> Iterator[Alert]:
        """One label of one window. NaN is neither above nor below; a suppressed label counts as recovered."""
        count, why = device.above.get(name, (0, reason))
        above = 0 if not probability >= rule.threshold else count + 1 if why == reason else 1
        device.above[name] = (above, reason)
        below = device.below.get(name, 0) + 1 if probability < rule.release or reason else 0
        device.below[name] = below
        alert = bed.open.get(name)
        if alert is not None and alert.device == p.window.device:
            bed.open[name] = dataclasses.replace(
                alert,
                time=p.window.end,
                probability=probability,
                threshold=rule.threshold,
                model=p.model,
                received=p.window.received,
            )
            if below >= rule.close_after:
                yield self._end(bed, name, "recovered", wall)
        elif above == rule.open_after and (reason or alert is not None or name in elsewhere):
            self._suppress(reason or ("other_device" if alert is not None else "other_model"))
        elif above >= rule.open_after and alert is None and name not in elsewhere and not reason:
            yield self._start(bed, p, name, probability, rule, wall)

    def _start(self, bed: _Bed, p: Prediction, name: str, probability: float, rule: AlertRule, wall: float) -> Alert:
        window = p.window
        info = _diagnosis(name)
        alert_id = _name_uuid(window.bed, window.device, name, repr(window.end), repr(wall))
        alert = Alert(
            alert_id=alert_id,
            message_id=_name_uuid(alert_id, Phase.START),
            bed=window.bed,
            device=window.device,
            label=name,
            code=info.code if info else 0,
            ref_id=info.ref_id if info else "",
            text=f"{info.text if info else name} (advisory)",
            priority=rule.priority,
            phase=Phase.START,
            active=True,
            opened=window.end,
            time=window.end,
            created=wall,
            probability=probability,
            threshold=rule.threshold,
            model=p.model,
            received=window.received,
            source_code=info.source_code if info else ECG_ELEC_POTL,
            encounter=bed.encounter,
        )
        bed.open[name] = alert
        return alert

    def _lose(self, bed: _Bed, name: str, devices: Sequence[str], wall: float) -> Iterator[Alert]:
        """Nothing is measured by these devices any more."""
        if not devices:
            return
        received = max(bed.devices[key].received or 0.0 for key in devices)
        for key in devices:
            del bed.devices[key]
        for label in [label for label, alert in bed.open.items() if alert.device in devices]:
            yield self._end(bed, label, "feed_lost", wall)
        if bed.devices or not self.settings.feed_lost_alert or any(label in TECHNICAL for label in bed.open):
            return
        label = LEADS_OFF if self.settings.leads_off and bed.invalid else ECG_MISSING
        code, ref_id, text = TECHNICAL[label]
        alert_id = _name_uuid(name, devices[-1], label, repr(wall))
        alert = bed.open[label] = Alert(
            alert_id=alert_id,
            message_id=_name_uuid(alert_id, Phase.START),
            bed=name,
            device=devices[-1],
            label=label,
            code=code,
            ref_id=ref_id,
            text=f"{text} (advisory)",
            priority=self.settings.feed_lost_priority,
            phase=Phase.START,
            active=True,
            opened=wall,
            time=wall,
            created=wall,
            probability=None,
            threshold=None,
            model=self.model,
            received=received,
            source_code=ECG_ELEC_POTL,
            encounter=bed.encounter,
        )
        yield alert

    def _arrive(self, name: str, encounter: Encounter, wall: float, *, update: bool) -> tuple[Alert, ...]:
        """The hospital says who lies in the bed. Beds without a feed are not remembered: their windows will say it."""
        if (bed := self._beds.get(name)) is None:
            return ()
        if _known_same(bed.encounter, encounter):
            bed.encounter = _merged(bed.encounter, encounter)
            return ()
        if update and not _contradicts(bed, encounter):
            bed.encounter = encounter if encounter.patient_ids else bed.encounter
            return ()
        out = self._end_bed(bed, "patient_changed", wall)
        self._forget_patient(bed)
        bed.encounter = encounter
        return tuple(out)

    def _leave(self, name: str, encounter: Encounter, reason: str, wall: float) -> tuple[Alert, ...]:
        if (bed := self._beds.get(name)) is None:
            return ()
        if bed.encounter is not None and not bed.encounter.same_patient(encounter):
            return ()  # the next patient is there already; the message is late
        out = self._end_bed(bed, reason, wall)
        self._forget_patient(bed)
        return tuple(out)

    def _end_bed(self, bed: _Bed, reason: str, wall: float) -> list[Alert]:
        return [self._end(bed, label, reason, wall) for label in list(bed.open)]

    def _end(self, bed: _Bed, label: str, reason: str, wall: float) -> Alert:
        alert = bed.open.pop(label)
        return self._message(bed, alert, Phase.END, reason, wall if label in TECHNICAL else alert.time, wall)

    @staticmethod
    def _message(bed: _Bed | None, alert: Alert, phase: Phase, reason: str, time: float, wall: float) -> Alert:
        """The next message of an alert; it carries new data of the same, known patient."""
        encounter = alert.encounter
        if bed is not None and _known_same(encounter, bed.encounter):
            encounter = bed.encounter
        return dataclasses.replace(
            alert,
            message_id=_name_uuid(alert.message_id, phase, repr(time)),
            phase=phase,
            active=phase is not Phase.END,
            reason=reason,
            time=time,
            created=wall,
            encounter=encounter,
        )

    @staticmethod
    def _forget_patient(bed: _Bed) -> None:
        bed.devices.clear()
        bed.alarms.clear()
        bed.encounter = bed.offered = None
        bed.invalid = False

    def _suppress(self, reason: str) -> tuple[Alert, ...]:
        self._suppressed[reason] = self._suppressed.get(reason, 0) + 1
        return ()


def _is_someone_else(bed: _Bed, window: Window) -> bool:
    """A contradicting identity; or a new generation, unless both name the same patient."""
    if _contradicts(bed, window.encounter):
        return True
    moved = any(device.generation not in {_BEFORE, window.generation} for device in bed.devices.values())
    return moved and not _known_same(bed.encounter, window.encounter)


def _contradicts(bed: _Bed, encounter: Encounter | None) -> bool:
    """Somebody else is known to lie in the bed, or to have an alert open there."""
    known = (bed.encounter, *(alert.encounter for alert in bed.open.values()))
    return encounter is not None and not all(who is None or who.same_patient(encounter) for who in known)


def _known_same(one: Encounter | None, other: Encounter | None) -> TypeGuard[Encounter]:
    """Both are known, and share an identifier (unlike `Encounter.same_patient`, which lets the unknown pass)."""
    if one is None or other is None or not one.patient_ids or not other.patient_ids:
        return False
    return one.same_patient(other)


def _merged(old: Encounter, new: Encounter) -> Encounter:
    """The new data of the same patient; what the message leaves empty stays."""
    return Encounter(**{f.name: getattr(new, f.name) or getattr(old, f.name) for f in dataclasses.fields(Encounter)})


def _diagnosis(name: str) -> LabelInfo | None:
    """What is known of the label; None for one that is none of the 77 (another model's)."""
    try:
        return label_info(name)
    except KeyError:
        return None


def _name_uuid(*parts: str) -> str:
    return str(uuid5(_NAMESPACE, json.dumps(parts)))
