"""Alerting: predictions, encounters and silence in, alert messages out.

`agent.core.alerting.life_cycle` shows the life of one alert, `agent.core.alerting.rules` when it opens and closes. The
rules of the house:

- One open alert per bed and label, whichever of the bed's devices sees it; each device has its own persistence.
- An alert is never left active while nothing is measured: it ends with reason ``feed_lost``, and a technical alert
  takes its place until there is signal again. Nothing latches: this system is advisory, the receiver has the history.
- What was seen of one patient never counts for the next. Who that is, `agent.core.census` says: whoever has left, or
  a window of another generation, ends the bed's alerts, and everything about the bed is forgotten. An alert that
  opened for an unknown patient stays one of an unknown patient.
- A message is sent at start, as continue, and at end; a changed probability travels with the next continue. What an A08
  adds changes no alert: later messages carry the new data.

Times: ``now`` is the agent's monotonic clock, ``wall`` epoch seconds of its wall clock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from agent.core.alerting import life_cycle
from agent.core.alerting.rules import LabelRule, RunLengths, label_rules
from agent.core.alerting.settings import AlertingSettings
from agent.core.alerting.technical import TECHNICAL, condition, event_time, start_technical
from agent.core.bundle.manifest import Manifest
from agent.core.census import Arrived, CensusEvent, Departure, Left, Stay, Updated
from agent.core.ecg import Alert, Encounter, Gap, GapReason, Phase, Prediction, SourceAlarm

_MOST_BEDS = 4096  # alarms of further beds are not kept
_ALARMS_PER_BED = 64
_LONGEST_TEXT = 200  # of a monitor's alarm, characters


@dataclass(slots=True)
class _BedAlerts:
    """All that is remembered of one bed."""

    generation: int | None = None
    """Of the encounter that all of it is about; None where only its monitors' own alarms are known."""
    encounter: Encounter | None = None
    devices: dict[str, RunLengths] = field(default_factory=dict)
    open: dict[str, Alert] = field(default_factory=dict)
    """By label: the last message of the alert that is open."""
    seen: float | None = None
    """Monotonic time of the last analysed window; None until the first tick after a restart."""
    invalid: bool = False
    """The signal since the last window was marked invalid, or had none of the leads."""
    alarms: dict[tuple[str, int, str], SourceAlarm] = field(default_factory=dict)

    def forget_patient(self, generation: int) -> None:
        """Begin the encounter of this generation."""
        self.generation, self.encounter = generation, None
        self.devices.clear()
        self.alarms.clear()
        self.invalid = False


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
        self._rules = label_rules(manifest, self.settings)
        self._beds: dict[str, _BedAlerts] = {}
        self._suppressed: dict[str, int] = {}
        self._orphans: list[Alert] = []
        self._restore(open_alerts)

    def _restore(self, open_alerts: Iterable[Alert]) -> None:
        alertable = {label.name for label in self._rules if not label.never}
        for alert in open_alerts:
            if not alert.active:
                continue
            bed = self._beds.setdefault(alert.bed, _BedAlerts(generation=0))  # as the census counts, anew
            if alert.label in TECHNICAL:
                alertable_here = not any(label in TECHNICAL for label in bed.open)
            else:
                alertable_here = alert.label in alertable and alert.label not in bed.open
            if alertable_here:
                bed.open[alert.label] = alert
                if alert.label not in TECHNICAL:
                    bed.devices.setdefault(alert.device, RunLengths())
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
        self, p: Prediction, wall: float, stay: Stay | None = None, elsewhere: Collection[str] = ()
    ) -> tuple[Alert, ...]:
        """Count one window, open and close.

        ``stay`` is the bed's present one (``Census.stay``); a prediction of another generation was made of an earlier
        encounter and is discarded. None: the window's own. ``elsewhere`` are the labels of the bed's alerts that other
        models have opened: none of them opens here as long as it is open there.
        """
        window = p.window
        stay = stay or Stay(window.generation, window.encounter)
        if p.model != self.model:
            return self._suppress("model")
        bed = self._beds.get(window.bed)
        before = None if bed is None else bed.generation
        if window.generation != stay.generation or (before is not None and window.generation < before):
            return self._suppress("generation")
        if not self._required <= set(window.leads):
            return self._suppress("leads")
        if bed is None:
            bed = self._beds[window.bed] = _BedAlerts()
        out: list[Alert] = []
        if before is None:
            bed.generation = window.generation
        elif window.generation != before:  # the census had forgotten the bed, so nobody was said to have left
            out += self._end_technical(bed, wall)
            out += self._end_encounter(bed, window.generation, Departure.PATIENT_CHANGED, wall)
        bed.encounter = stay.encounter
        device = bed.devices.setdefault(window.device, RunLengths())
        if not device.follow(window):
            self._suppress("repeated")
            return tuple(out)
        bed.seen = window.received if bed.seen is None else max(bed.seen, window.received)
        bed.invalid = False
        out += self._end_technical(bed, wall)
        for label in self._rules:
            out += self._judge(bed, device, p, label, elsewhere, wall)
        return tuple(out)

    def on_gap(self, gap: Gap) -> None:
        """A stretch without a window: what silence is called, should it last."""
        if (bed := self._beds.get(gap.bed)) is not None:
            bed.invalid = gap.reason in {GapReason.INVALID, GapReason.NO_LEADS}

    def on_census(self, event: CensusEvent, wall: float) -> tuple[Alert, ...]:
        """Who lies in the bed. Beds without a feed are not remembered: their windows will say it."""
        if (bed := self._beds.get(event.bed)) is None:
            return ()
        match event:
            case Left():
                return tuple(self._end_encounter(bed, event.generation, event.reason, wall))
            case Arrived() | Updated():
                bed.encounter = event.encounter
                return ()

    def on_source_alarm(self, alarm: SourceAlarm) -> tuple[Alert, ...]:
        """Keep what the monitor itself says; nothing is judged of it yet, so there is no message."""
        bed = self._beds.get(alarm.bed)
        if bed is None:
            if len(self._beds) >= _MOST_BEDS:
                return self._suppress("too_many_beds")
            bed = self._beds[alarm.bed] = _BedAlerts(seen=alarm.received)
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
        out = self._end_orphans("model_changed", wall)
        for name, bed in list(self._beds.items()):
            if bed.seen is None:
                bed.seen = now
                if self._is_bygone(bed, wall):
                    out += self._end_bed(bed, "feed_lost", wall)
                    del self._beds[name]
                    continue
            out += self._lose(bed, name, self._stale(bed, now), wall)
            if now - bed.seen > self.settings.forget_after:
                out += self._end_bed(bed, "feed_lost", wall)
                del self._beds[name]
                continue
            out += self._continue(bed, wall)
        return tuple(out)

    def on_shutdown(self, wall: float) -> tuple[Alert, ...]:
        """A planned stop: nobody will watch, so nothing may stay active."""
        out = self._end_orphans("shutdown", wall)
        for bed in self._beds.values():
            out += self._end_bed(bed, "shutdown", wall)
        self._beds.clear()
        return tuple(out)

    # Findings

    def _judge(
        self,
        bed: _BedAlerts,
        device: RunLengths,
        p: Prediction,
        label: LabelRule,
        elsewhere: Collection[str],
        wall: float,
    ) -> Iterator[Alert]:
        """One label of one window."""
        name, suppressed = label.name, label.suppressed(p.window)
        above, below = device.count(label, float(p.probabilities[label.index]), suppressed)
        alert = bed.open.get(name)
        if alert is not None and alert.device == p.window.device:
            bed.open[name] = life_cycle.renew(alert, p, label)
            if below >= label.rule.close_after:
                yield self._end(bed, name, "recovered", wall)
        elif above == label.rule.open_after and (suppressed or alert is not None or name in elsewhere):
            self._suppress(suppressed or ("other_device" if alert is not None else "other_model"))
        elif above >= label.rule.open_after and alert is None and name not in elsewhere and not suppressed:
            bed.open[name] = life_cycle.start(p, label, bed.encounter, wall)
            yield bed.open[name]

    # Silence

    def _stale(self, bed: _BedAlerts, now: float) -> list[str]:
        """The bed's devices that nothing was analysed of for too long."""
        stale = []
        for key, device in bed.devices.items():
            if device.received is None:
                device.received = now
            if now - device.received > self.settings.stale_after:
                stale.append(key)
        return stale

    def _lose(self, bed: _BedAlerts, name: str, devices: Sequence[str], wall: float) -> Iterator[Alert]:
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
        label = condition(self.settings, invalid=bed.invalid)
        bed.open[label] = start_technical(
            label,
            name,
            devices[-1],
            self.settings,
            model=self.model,
            received=received,
            encounter=bed.encounter,
            wall=wall,
        )
        yield bed.open[label]

    def _end_technical(self, bed: _BedAlerts, wall: float) -> list[Alert]:
        """There is signal again."""
        return [self._end(bed, label, "recovered", wall) for label in list(bed.open) if label in TECHNICAL]

    def _is_bygone(self, bed: _BedAlerts, wall: float) -> bool:
        """What was open before a stop of more than an hour says nothing of whoever lies there now."""
        s = self.settings
        last = max((alert.created for alert in bed.open.values()), default=wall)
        return s.continue_every > 0 and wall - last > s.continue_every + s.forget_after

    # Messages

    def _continue(self, bed: _BedAlerts, wall: float) -> Iterator[Alert]:
        every = self.settings.continue_every
        for label, alert in bed.open.items():
            if 0 < every <= wall - alert.created:
                time = event_time(alert, wall)
                bed.open[label] = life_cycle.follow_up(alert, Phase.CONTINUE, wall, time=time, encounter=bed.encounter)
                yield bed.open[label]
            elif alert.created > wall + every:  # the wall clock was set back: count from now
                bed.open[label] = dataclasses.replace(alert, created=wall)

    def _end_encounter(self, bed: _BedAlerts, generation: int, reason: Departure, wall: float) -> list[Alert]:
        out = self._end_bed(bed, reason.value, wall)
        bed.forget_patient(generation)
        return out

    def _end_bed(self, bed: _BedAlerts, reason: str, wall: float) -> list[Alert]:
        return [self._end(bed, label, reason, wall) for label in list(bed.open)]

    def _end(self, bed: _BedAlerts, label: str, reason: str, wall: float) -> Alert:
        alert = bed.open.pop(label)
        time = event_time(alert, wall)
        return life_cycle.follow_up(alert, Phase.END, wall, time=time, reason=reason, encounter=bed.encounter)

    def _end_orphans(self, reason: str, wall: float) -> list[Alert]:
        """Alerts of before a restart that no label of this model goes on with."""
        orphans, self._orphans = self._orphans, []
        return [life_cycle.follow_up(alert, Phase.END, wall, time=alert.time, reason=reason) for alert in orphans]

    def _suppress(self, reason: str) -> tuple[Alert, ...]:
        self._suppressed[reason] = self._suppressed.get(reason, 0) + 1
        return ()
