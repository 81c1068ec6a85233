"""Alerts out over MQTT: one JSON message per alert message, at QoS 1, until the broker has acknowledged it.

The outbox holds what is not acknowledged, so a message may come twice (the receiver de-duplicates by ``message_id``)
and is never lost. It never carries a message expiry: a waveform may grow stale, an alert may not.
"""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import structlog

from agent.core.ecg import Alert
from agent.core.mqtt.document import JSON_TYPE
from agent.core.mqtt.topic import TemplateError, TopicTemplate
from agent.mqtt.errors import MqttError, PublishRefusedError
from agent.mqtt.link import MqttLink
from agent.ops.metrics import Metrics
from agent.sinks.database import OutboxError
from agent.sinks.outbox import Outbox
from agent.sinks.settings import MqttSinkSettings

log = structlog.get_logger()

ADVISORY = "Advisory only: not a medical device, not the primary alarm. Look at the patient and the bedside monitor."
SCHEMA = "deepecg-alert/1"
_SINK = "mqtt"
_BATCH = 32


class MqttSink:
    """``async with MqttSink(settings, outbox, metrics) as sink: await sink.run()``."""

    def __init__(self, settings: MqttSinkSettings, outbox: Outbox, metrics: Metrics) -> None:
        self._settings = settings
        self._outbox = outbox
        self._metrics = metrics
        self._template = TopicTemplate(settings.topic, site="-", unit="-")
        self._link = MqttLink(settings, metrics, "mqtt_sink")
        self._stack = AsyncExitStack()

    @property
    def connected(self) -> asyncio.Event:
        """Set while the broker is there."""
        return self._link.connected

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._link)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def run(self) -> None:
        """Forever: send what waits in the outbox, oldest first."""
        while True:
            await self._link.connected.wait()
            try:
                alerts = await self._outbox.pending(_SINK, _BATCH)
                self._metrics.undelivered.labels(_SINK).set(await self._outbox.undelivered(_SINK))
                for alert in alerts:
                    if not await self._send(alert):
                        break
                else:
                    if not alerts:
                        await self._outbox.wait(_SINK, 1.0)
            except OutboxError as error:
                log.warning("mqtt_sink_outbox_failed", problem=str(error))
                await asyncio.sleep(1.0)

    async def _send(self, alert: Alert) -> bool:
        """Publish one message; False where the connection is gone, so that the rest waits for the next one."""
        try:
            heard = await self._link.publish(
                self._template.topic(alert.bed, alert.device),
                message_from_alert(alert, patient=self._settings.patient),
                content_type=JSON_TYPE,
                within=self._settings.acknowledge_within,
            )
        except (PublishRefusedError, TemplateError) as error:
            reason = error.reason if isinstance(error, MqttError) else "topic"
            self._metrics.delivery_failures.labels(_SINK, reason).inc()
            hold = self._settings.retry_refused * random.uniform(0.5, 1.0)  # noqa: S311
            attempts = await self._outbox.failed(_SINK, alert.message_id, reason, hold)
            log.warning("alert_refused", bed=alert.bed, message_id=alert.message_id, why=str(error), attempts=attempts)
            return True
        except MqttError as error:
            self._metrics.delivery_failures.labels(_SINK, error.reason).inc()
            await self._outbox.failed(_SINK, alert.message_id, error.reason)
            await asyncio.sleep(random.uniform(0.0, 1.0))  # noqa: S311
            return False
        await self._outbox.delivered(_SINK, alert.message_id)
        self._metrics.delivered.labels(_SINK).inc()
        if not heard:
            # Section 3.4.2.1, 0x10: the broker has it, but nobody listens. Delivered as far as it goes, and said aloud.
            self._metrics.delivery_failures.labels(_SINK, "no_subscriber").inc()
            log.warning("alert_without_subscriber", bed=alert.bed, message_id=alert.message_id)
        return True


def message_from_alert(alert: Alert, *, patient: bool = True) -> bytes:
    """The message of an alert; the README documents its fields. Times are ISO 8601 in UTC."""
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "alert_id": alert.alert_id,
        "message_id": alert.message_id,
        "bed": alert.bed,
        "device": alert.device,
        "label": alert.label,
        "code": alert.code,
        "ref_id": alert.ref_id,
        "text": alert.text,
        "priority": alert.priority.value,
        "phase": alert.phase.value,
        "state": "active" if alert.active else "inactive",
        "reason": alert.reason,
        "opened": _iso(alert.opened),
        "time": _iso(alert.time),
        "created": _iso(alert.created),
        "probability": None if alert.probability is None else round(alert.probability, 4),
        "threshold": None if alert.threshold is None else round(alert.threshold, 4),
        "model": alert.model,
        "source_code": alert.source_code,
        "patient": None,
        "advisory": ADVISORY,
    }
    encounter = alert.encounter
    if patient and encounter is not None:
        body["patient"] = {
            "ids": list(encounter.patient_ids),
            "family_name": encounter.family_name,
            "given_name": encounter.given_name,
            "visit": encounter.visit,
            "location": encounter.location,
        }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
