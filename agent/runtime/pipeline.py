"""The line: what happens to each event, in order. Rooms 3 to 8 of the map, joined; built by the daemon.

Events come off one bounded queue, so that an ADT message and the samples around it keep their order. Nothing here
waits but for that queue, the engine's results, and the outbox: an alert is shown and counted after it is committed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from agent.core.alerting.models import ModelsAlerting
from agent.core.census import Census, CensusEvent, Left, Stay
from agent.core.ecg import Alert, EncounterChange, Event, Gap, Phase, Samples, SourceAlarm, Window
from agent.core.windows.windower import Windower, has_ecg
from agent.engines.serving.batcher import Batcher
from agent.ops.metrics import Metrics
from agent.sinks.database import OutboxError
from agent.sinks.outbox import Outbox

if TYPE_CHECKING:
    from agent.station.server import Station

log = structlog.get_logger()

_CLOCK_SET = 1.0
"""Seconds by which the wall clock must have left the monotonic one for messages without time to follow it."""


@dataclass(frozen=True, slots=True)
class Line:
    """Samples to alerts. ``station`` is None where nobody looks (replay)."""

    census: Census
    windower: Windower
    alerting: ModelsAlerting
    batcher: Batcher
    outbox: Outbox
    metrics: Metrics
    station: Station | None

    async def restore(self) -> None:
        """Before the first event: the alerts that were open when the agent stopped, and whose they are."""
        ended: tuple[Alert, ...] = ()
        for alert in sorted(self.alerting.open_alerts(), key=lambda alert: alert.created):
            if self.station is not None:
                self.station.alert(alert)
            ended += self._told(self.census.restore(alert.bed, alert.encounter))
        await self._commit(ended)

    async def feed(self, queue: asyncio.Queue[Event]) -> None:
        """Take events off the queue for ever."""
        while True:
            await self.take(await queue.get())
            queue.task_done()

    async def take(self, event: Event) -> None:
        """One event: who lies where, windows to the engine, the monitors' own alarms to the alerting."""
        match event:
            case Samples():
                alerts = self._samples(event)
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
                stay = self._stay(prediction.window.bed)
                if stay.generation == prediction.window.generation and self.station is not None:
                    self.station.prediction(prediction)
                alerts += self.alerting.on_prediction(prediction, wall, stay)
            await self._commit(alerts)

    async def tick(self) -> None:
        """Once a second: what silence means, and counters that nobody else writes."""
        now, wall = time.monotonic(), time.time()
        if abs(step := wall - now - self.windower.wall_offset) > _CLOCK_SET:
            log.warning("wall_clock_set", seconds=round(step, 3))
            self.windower.wall_offset += step
        alerts = self.alerting.on_tick(now, wall)
        self.census.forget(now)
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
        for counts in (self.windower.counts, self.census.counts):
            for kind, count in counts.items():
                self.metrics.windowing.labels(kind=kind).inc(count)
            counts.clear()
        for reason, count in self.alerting.take_suppressed().items():
            self.metrics.alerts_suppressed.labels(reason=reason).inc(count)
        await self._commit(alerts)

    async def close(self) -> None:
        """A planned stop: nobody watches any more, so nothing may stay active."""
        await self._commit(self.alerting.on_shutdown(time.time()))

    def _samples(self, block: Samples) -> tuple[Alert, ...]:
        """Whose they are, then what they show."""
        if self.windower.refuses(block):
            return ()
        alerts: tuple[Alert, ...] = ()
        if has_ecg(block):
            alerts += self._told(self.census.identify(block.bed, block.device, block.encounter, block.received))
            if self.census.stay(block.bed) is None:
                return alerts  # no room for the bed, which the census counts: nobody would notice a change of patient
        stay = self._stay(block.bed)
        if self.station is not None:
            self.station.samples(block, block.transport, stay)
        for item in self.windower.push(block, stay):
            if isinstance(item, Window):
                self.metrics.windows.inc()
                self.batcher.submit(item)
            else:
                self._gap(item)
        return alerts

    def _gap(self, gap: Gap) -> None:
        self.metrics.gaps.labels(reason=gap.reason.value).inc()
        self.alerting.on_gap(gap)
        if self.station is not None:
            self.station.gap(gap)

    def _encounter(self, change: EncounterChange) -> tuple[Alert, ...]:
        self.metrics.encounter_events.labels(event=change.event.value).inc()
        log.info("encounter_event", encounter_event=change.event.value, bed=change.bed)
        return self._told(self.census.apply(change))

    def _told(self, events: Sequence[CensusEvent]) -> tuple[Alert, ...]:
        """End what belongs to the patient who left before anything of the next one is taken up."""
        alerts: tuple[Alert, ...] = ()
        for event in events:
            alerts += self.alerting.on_census(event, time.time())
            if self.station is not None:
                self.station.encounter(event)
            if isinstance(event, Left):
                for gap in self.windower.leave(event):
                    self._gap(gap)
        return alerts

    def _stay(self, bed: str) -> Stay:
        return self.census.stay(bed) or Stay(self.census.generation(bed))

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
