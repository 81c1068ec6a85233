"""Alerts out over HL7: one ORU^R40 at a time over MLLP, until the receiver has acknowledged it.

What counts as delivered: AA or CA whose MSA-2 is our MSH-10. A CA that a second, application-level answer follows is
enough, for it says that the receiver holds the message; the second answer is read and, where it is an error, counted.

What happens otherwise, so that nothing is lost and nothing blocks the rest:

- No answer in time: the connection is closed, never used again (a late answer must not meet the next message), and the
  message goes out anew on the next one. Its alert waits longer each time, up to a minute, so that a message on which
  the receiver chokes does not keep other beds' alerts back.
- AE, AR, CE, CR: the connection stays; the alert waits from ``retry_rejected`` up to an hour, doubling, and is sent
  again for as long as it takes: what a receiver refuses today it may take once somebody has mended its set-up.
- Later messages of an alert wait for the earlier ones (`Outbox.pending`).
- No connection: again with full jitter, up to ``reconnect_longest``. The connection is made when there is something to
  send, and kept.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import deque
from contextlib import suppress
from uuid import uuid4

import structlog

from agent.core.ecg import Alert, Phase
from agent.core.errors import DeepECGError
from agent.core.hl7.alert import (
    Acknowledgement,
    AcknowledgementError,
    message_from_alert,
    parse_acknowledgement,
    watchdog_message,
)
from agent.core.hl7.mllp import Decoder, FrameTooLongError, encode
from agent.ops.metrics import Metrics
from agent.ops.tls import RotatingContext, abort, client_context
from agent.sinks.database import OutboxError
from agent.sinks.outbox import Outbox
from agent.sinks.settings import Hl7SinkSettings

log = structlog.get_logger()

_SINK = "hl7"
_BATCH = 32
_ANSWER_LIMIT = 1 << 20


class _LostError(DeepECGError):
    """The connection is of no more use."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Hl7Sink:
    """``await Hl7Sink(settings, outbox, metrics).run()`` delivers for ever, what waits from before a restart first."""

    def __init__(self, settings: Hl7SinkSettings, outbox: Outbox, metrics: Metrics) -> None:
        """Make a sink; nothing is opened yet.

        Raises:
            TlsError: the files of ``settings.tls`` make no context.
        """
        self._settings = settings
        self._outbox = outbox
        self._metrics = metrics
        self._tls = RotatingContext(settings.tls, client_context) if settings.tls is not None else None
        self._connection: _Connection | None = None
        self._failures = 0
        self._rejections: dict[str, int] = {}
        self._losses: dict[str, int] = {}
        self._watchdog_id = ""
        self._watchdog_due = 0.0
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the last attempt reached nobody, for /healthz; None while messages arrive (or there were none yet)."""
        return self._problem

    async def run(self) -> None:
        """Forever: send what waits in the outbox, oldest first. Cancelled, it says good-bye if there is a watchdog."""
        try:
            while True:
                try:
                    await self._round()
                except OutboxError as error:
                    log.error("hl7_sink_outbox_failed", problem=str(error))  # noqa: TRY400  (the sentence says it all)
                    await asyncio.sleep(1.0)
        finally:
            await self._say_goodbye()
            self._close()

    async def _round(self) -> None:
        """Send one batch; wait where there is nothing to send."""
        alerts = await self._outbox.pending(_SINK, _BATCH)
        self._metrics.undelivered.labels(_SINK).set(await self._outbox.undelivered(_SINK))
        try:
            for alert in alerts:
                await self._watch()
                await self._deliver(alert)
            await self._watch()
        except _LostError as lost:
            self._close()
            self._failures += 1
            self._metrics.delivery_failures.labels(_SINK, lost.reason).inc()
            if self._problem != lost.reason:
                log.warning("hl7_receiver_lost", reason=lost.reason)
            self._problem = lost.reason
            await asyncio.sleep(_full_jitter(self._failures, 0.5, self._settings.reconnect_longest))
            return
        if not alerts:
            await self._outbox.wait(_SINK, 1.0)

    async def _deliver(self, alert: Alert) -> None:
        connection = await self._connect()
        message = message_from_alert(alert, self._settings.message)
        try:
            answer = await connection.exchange(message, alert.message_id, self._settings.acknowledge_within)
        except _LostError as lost:
            losses = self._losses[alert.message_id] = self._losses.get(alert.message_id, 0) + 1
            hold = random.uniform(0.5, 1.0) * min(60.0, 0.5 * 2.0 ** min(losses, 10))  # noqa: S311
            await self._outbox.failed(_SINK, alert.message_id, lost.reason, hold)
            raise
        finally:
            self._count_strangers(connection)
        self._reached()
        if answer.accepted:
            await self._outbox.delivered(_SINK, alert.message_id)
            self._rejections.pop(alert.message_id, None)
            self._losses.pop(alert.message_id, None)
            self._metrics.delivered.labels(_SINK).inc()
            return
        rejections = self._rejections[alert.message_id] = self._rejections.get(alert.message_id, 0) + 1
        hold = min(3600.0, self._settings.retry_rejected * 2.0 ** min(rejections - 1, 10))
        reason = f"rejected_{answer.code.lower()}"
        self._metrics.delivery_failures.labels(_SINK, reason).inc()
        attempts = await self._outbox.failed(_SINK, alert.message_id, reason, hold * random.uniform(0.5, 1.0))  # noqa: S311
        log.error(
            "alert_rejected",
            bed=alert.bed,
            message_id=alert.message_id,
            code=answer.code,
            error=answer.error,
            attempts=attempts,
        )

    def _reached(self) -> None:
        self._failures = 0
        if self._problem is not None:
            log.info("hl7_receiver_back")
            self._problem = None

    # Watchdog

    async def _watch(self) -> None:
        """Send the watchdog message where one is due. The receiver's silence counts as a lost connection."""
        if not self._settings.watchdog_every or time.monotonic() < self._watchdog_due:
            return
        phase = Phase.CONTINUE if self._watchdog_id else Phase.START
        connection = await self._connect()
        message_id = str(uuid4())
        message = self._watchdog(message_id, self._watchdog_id or message_id, phase)
        try:
            answer = await connection.exchange(message, message_id, self._settings.acknowledge_within)
        finally:
            self._count_strangers(connection)
        self._watchdog_due = time.monotonic() + self._settings.watchdog_every
        self._reached()
        if answer.accepted:
            self._watchdog_id = self._watchdog_id or message_id
        else:
            self._metrics.delivery_failures.labels(_SINK, f"watchdog_{answer.code.lower()}").inc()
            log.error("watchdog_rejected", code=answer.code, error=answer.error)

    async def _say_goodbye(self) -> None:
        """A planned stop: the last watchdog message is inactive. Best effort, a second at most."""
        if self._connection is None or not self._watchdog_id:
            return
        message_id = str(uuid4())
        with suppress(_LostError):
            message = self._watchdog(message_id, self._watchdog_id, Phase.END)
            await self._connection.exchange(message, message_id, min(1.0, self._settings.acknowledge_within))

    def _watchdog(self, message_id: str, watchdog_id: str, phase: Phase) -> bytes:
        s = self._settings
        return watchdog_message(message_id, watchdog_id, phase, time.time(), s.acknowledge_within, s.message)

    # Connection

    async def _connect(self) -> _Connection:
        if self._connection is not None and not self._connection.ended:
            return self._connection
        self._close()
        s = self._settings
        try:
            async with asyncio.timeout(s.connect_within):
                reader, writer = await asyncio.open_connection(
                    s.host, s.port, ssl=self._tls.context() if self._tls is not None else None
                )
        except TimeoutError:
            raise _LostError("connect_timeout") from None
        except ssl.SSLError:
            raise _LostError("tls") from None
        except OSError:
            raise _LostError("connect") from None
        self._metrics.reconnects.labels("hl7_sink").inc()
        self._connection = _Connection(reader, writer)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _count_strangers(self, connection: _Connection) -> None:
        """Answers that met no message of ours: another id, or no acknowledgement at all."""
        for reason, count in connection.take_strangers().items():
            self._metrics.delivery_failures.labels(_SINK, reason).inc(count)
            log.warning("hl7_stray_answer", reason=reason, count=count)


class _Connection:
    """One MLLP connection: a message, and the answer that names it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder(_ANSWER_LIMIT)
        self._loose = bytearray()
        self._answered: deque[str] = deque(maxlen=64)
        self._strangers: dict[str, int] = {}

    @property
    def ended(self) -> bool:
        """The receiver has closed: seen before a message is spent on it."""
        return self._reader.at_eof() or self._writer.is_closing()

    def close(self) -> None:
        abort(self._writer)

    def take_strangers(self) -> dict[str, int]:
        taken, self._strangers = self._strangers, {}
        return taken

    async def exchange(self, message: bytes, message_id: str, within: float) -> Acknowledgement:
        """Send, and return the answer to ``message_id``.

        Raises:
            _LostError: no answer within ``within`` seconds, or the connection ended; it must not be used again.
        """
        try:
            async with asyncio.timeout(within):
                self._writer.write(encode(message))
                await self._writer.drain()
                while True:
                    data = await self._reader.read(65536)
                    if not data:
                        raise _LostError("closed")
                    found: Acknowledgement | None = None
                    for answer in self._answers(data):
                        if found is None and answer.message_id == message_id:
                            found = answer
                            self._answered.append(message_id)
                        else:
                            self._stranger(answer)
                    if found is not None:
                        return found
        except TimeoutError:
            raise _LostError("timeout") from None
        except FrameTooLongError:
            raise _LostError("too_long") from None
        except OSError:
            raise _LostError("closed") from None

    def _stranger(self, answer: Acknowledgement) -> None:
        """An answer to something else. Enhanced mode answers twice: the second time may be now."""
        if answer.message_id not in self._answered:
            self._strange("foreign_acknowledgement")
        elif not answer.accepted:
            self._strange(f"late_{answer.code.lower()}")

    def _strange(self, reason: str) -> None:
        self._strangers[reason] = self._strangers.get(reason, 0) + 1

    def _answers(self, data: bytes) -> list[Acknowledgement]:
        """The acknowledgements that ``data`` completes, those that came without an MLLP frame among them."""
        messages = list(self._decoder.feed(data))
        if messages or self._decoder.partial:
            self._loose.clear()
        else:
            self._loose += data
            del self._loose[:-4096]
            if b"MSA" in self._loose and self._loose.endswith((b"\r", b"\n")):
                messages.append(bytes(self._loose))
                self._loose.clear()
        answers = []
        for message in messages:
            try:
                answers.append(parse_acknowledgement(message))
            except AcknowledgementError:
                self._strange("not_an_acknowledgement")
        return answers


def _full_jitter(failures: int, first: float, longest: float) -> float:
    """Seconds to wait after so many failures in a row: uniform below a bound that doubles."""
    return random.uniform(0.0, min(longest, first * 2.0 ** min(failures, 30)))  # noqa: S311
