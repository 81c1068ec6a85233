"""The line: what happens to each event, in order. Rooms 3 to 8 of the map, joined; built by the daemon.

Events come off one bounded queue, so that an ADT message and the samples around it keep their order. Nothing here
waits but for that queue, the engine's results, and the outbox: an alert is shown and counted after it is committed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from agent.core.alerting.models import ModelsAlerting
from agent.core.ecg import Alert, EncounterChange, EncounterEvent, Event, Gap, Phase, Samples, SourceAlarm, Window
from agent.core.windows.windower import Windower
from agent.engines.serving.batcher import Batcher
from agent.ops.metrics import Metrics
from agent.sinks.database import OutboxError
from agent.sinks.outbox import Outbox
from agent.station.server import Station

log = structlog.get_logger()

_CLOCK_SET = 1.0
"""Seconds by which the wall clock must have left the monotonic one for messages without time to follow it."""


@dataclass(frozen=True, slots=True)
class Line:
    """Samples to alerts. ``station`` is None where nobody looks (replay)."""

    windower: Windower
    alerting: ModelsAlerting
    batcher: Batcher
    outbox: Outbox
    metrics: Metrics
    station: Station | None

    async def feed(self, queue: asyncio.Queue[Event]) -> None:
        """Take events off the queue for ever."""
        while True:
            await self.take(await queue.get())
            queue.task_done()

    async def take(self, event: Event) -> None:
        """One event: its windows to the engine, encounters and source alarms to the alerting."""
        match event:
            case Samples():
                if self.station is not None:
                    self.station.samples(event, event.transport)
                alerts = self._windows(self.windower.push(event))
            case EncounterChange():
                alerts = self._encounter(event)
            case SourceAlarm():
                self.metrics.source_alarms.inc()
                alerts = self.alerting.on_source_alarm(event)
        await self._commit(alerts)

    async def decide(self) -> None:
        """Take predictions from the engine for ever, and commit the alerts that they open and close.

        Raises:
            EngineError: the engine is lost; the process has to start anew.
        """
        async for predictions in self.batcher:
            wall = time.time()
            alerts: list[Alert] = []
            for prediction in predictions:
                generation = self.windower.generation(prediction.window.bed)
                if generation == prediction.window.generation and self.station is not None:
                    self.station.prediction(prediction)
                alerts += self.alerting.on_prediction(prediction, wall, generation)
            await self._commit(alerts)

    async def tick(self) -> None:
        """Once a second: what silence means, and counters that nobody else writes."""
        now, wall = time.monotonic(), time.time()
        if abs(step := wall - now - self.windower.wall_offset) > _CLOCK_SET:
            log.warning("wall_clock_set", seconds=round(step, 3))
            self.windower.wall_offset += step
        alerts = self.alerting.on_tick(now, wall)
        for bed in self.windower.forget(now):
            log.info("bed_forgotten", bed=bed)
            self.batcher.forget(bed)
            if self.station is not None:
                self.station.forget(bed)
        for bed, model in self.station.take_requests() if self.station is not None else ():
            log.info("model_requested", bed=bed, model=model)
            self.batcher.request(bed, model)
        for sink, message_id in self.outbox.take_delivered():
            if self.station is not None:
                self.station.delivered(sink, message_id)
        self.metrics.beds.set(len(self.windower.beds))
        for kind, count in self.windower.counts.items():
            self.metrics.windowing.labels(kind=kind).inc(count)
        self.windower.counts.clear()
        for reason, count in self.alerting.take_suppressed().items():
            self.metrics.alerts_suppressed.labels(reason=reason).inc(count)
        await self._commit(alerts)

    async def close(self) -> None:
        """A planned stop: nobody watches any more, so nothing may stay active."""
        await self._commit(self.alerting.on_shutdown(time.time()))

    def _windows(self, found: Sequence[Window | Gap]) -> tuple[Alert, ...]:
        alerts: tuple[Alert, ...] = ()
        for item in found:
            if isinstance(item, Window):
                self.metrics.windows.inc()
                self.batcher.submit(item)
            else:
                self.metrics.gaps.labels(reason=item.reason.value).inc()
                if self.station is not None:
                    self.station.gap(item)
                alerts += self.alerting.on_gap(item, time.time())
        return alerts

    def _encounter(self, change: EncounterChange) -> tuple[Alert, ...]:
        """End what belongs to the patient who left before anything of the next one is taken up."""
        self.metrics.encounter_events.labels(event=change.event.value).inc()
        log.info("encounter_event", encounter_event=change.event.value, bed=change.bed)
        alerts = self.alerting.on_encounter_change(change, time.time())
        match change.event:
            case EncounterEvent.UPDATE:
                self.windower.update_encounter(change.bed, change.encounter)
            case EncounterEvent.ADMIT:
                self.windower.end_encounter(change.bed, change.encounter)
            case EncounterEvent.DISCHARGE:
                self._empty(change.bed, change)
            case EncounterEvent.TRANSFER:
                # A02 without PV1-6: the bed left behind is where the patient is known to be.
                known = self.windower.where(change.encounter)
                left = (change.prior_bed,) if change.prior_bed is not None else tuple(filter(change.may_empty, known))
                for bed in left:
                    if bed != change.bed:
                        self._empty(bed, change)
                if change.bed not in (left if change.prior_bed is not None else known):
                    self.windower.end_encounter(change.bed, change.encounter)
                if self.station is not None and change.prior_bed is None:
                    for bed in left:
                        self.station.encounter(replace(change, event=EncounterEvent.DISCHARGE, bed=bed))
        if self.station is not None:
            self.station.encounter(change)
        return alerts

    def _empty(self, bed: str, change: EncounterChange) -> None:
        """The patient left the bed; a late message about one who is there no longer leaves the next one alone."""
        known = self.windower.encounter(bed)
        if known is None or known.same_patient(change.encounter):
            self.windower.end_encounter(bed, None)

    async def _commit(self, alerts: Sequence[Alert]) -> None:
        if not alerts:
            return
        try:
            await self.outbox.commit(alerts)
        except OutboxError:
            # The outbox keeps them in memory, in order, and goes on trying; it says loudly why (`Outbox.problem`).
            log.error("alerts_not_committed", count=len(alerts), problem=self.outbox.problem)  # noqa: TRY400
        now = time.monotonic()
        for alert in alerts:
            if alert.phase is Phase.START and alert.probability is not None:
                self.metrics.alert_latency.observe(now - alert.received)
            self.metrics.alerts.labels(label=alert.label, phase=alert.phase.value).inc()
            log.info("alert", bed=alert.bed, label=alert.label, phase=alert.phase.value, alert_id=alert.alert_id)
            if self.station is not None:
                self.station.alert(alert)
