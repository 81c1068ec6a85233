"""HL7 v2 over MLLP in: a server whose connections cannot hurt one another.

Each connection is one task that reads, decodes, waits until the queue has taken the events, and only then answers. A
full queue therefore stops the reading, and TCP slows the sender. Whatever a sender does ends at most its own task.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from types import TracebackType
from typing import Final, Self
from zoneinfo import ZoneInfo

import structlog

from agent.core.ecg import EncounterChange, Event
from agent.core.hl7.decode import Decoded, Header, acknowledge, answers, decode, header_of, refuse
from agent.core.hl7.message import HL7Error, parse
from agent.core.hl7.mllp import Decoder, FrameTooLongError, encode
from agent.ops.metrics import Metrics
from agent.ops.tls import RotatingContext, peer_names, server_context
from agent.sources.hl7_settings import Grant, HL7SourceSettings, Peer, Sender

__all__ = ["Grant", "HL7Source", "HL7SourceSettings", "Sender"]

log = structlog.get_logger()

_READ: Final = 64 * 1024
_STRANGERS: Final = 8
"""Connections at once from addresses that no grant can cover."""
_WRITE_BUFFER: Final = 16 * 1024
_REMEMBERED: Final = 64
"""Control ids kept per connection to count messages that come again."""
_MOST_NOTES: Final = 256
"""Distinct things logged per connection; the counters go on."""

# What a defect of our own decoder may raise on a message nobody has thought of. It costs that message (AE 207), not the
# bed's connection, and never another bed's.
_DEFECTS: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(slots=True)
class _Connection:
    """One sender."""

    peer: Peer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    stranger: bool = False
    """No grant can cover its address: it is answered, and soon closed."""
    seen: OrderedDict[tuple[str, bytes], None] = field(default_factory=OrderedDict)
    noted: set[tuple[str, str]] = field(default_factory=set)

    def first(self, reason: str, detail: str = "") -> bool:
        """Whether this is new on this connection and so worth a line in the log."""
        key = (reason, detail)
        if key in self.noted or len(self.noted) >= _MOST_NOTES:
            return False
        self.noted.add(key)
        return True


class HL7Source:
    """Listens from ``__aenter__`` on; senders wait in the backlog until `run`."""

    def __init__(self, settings: HL7SourceSettings, metrics: Metrics) -> None:
        """Nothing is opened yet.

        Raises:
            TlsError: the certificates that ``settings`` names cannot be used.
        """
        self._settings = settings
        self._metrics = metrics
        self._dialects = settings.dialects()
        self._unverified = {d.name for d in self._dialects if not d.dimensionless_verified}
        self._zone = ZoneInfo(settings.default_zone)
        self._tls = RotatingContext(settings.tls, server_context) if settings.tls else None
        self._listener: socket.socket | None = None
        self._open = 0
        self._strangers = 0
        self._control_ids = count(1)
        self._messages = metrics.messages.labels("hl7")
        self._duplicates = metrics.duplicates.labels("hl7")
        self._connections = metrics.connections.labels("hl7")

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            OSError: the address is taken or not this machine's.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._settings.host, self._settings.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        self._listener = socket.create_server(
            address, family=family, backlog=256, dualstack_ipv6=family == socket.AF_INET6 and address[0] == "::"
        )
        self._listener.setblocking(False)
        log.info("hl7_listening", host=self._settings.host, port=self.port, tls=self._tls is not None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    @property
    def port(self) -> int:
        """The port that is listened on; useful where the configuration says 0."""
        return int(self._listening().getsockname()[1])

    async def run(self, queue: asyncio.Queue[Event]) -> None:
        """Accept senders and put what they say into ``queue``, until cancelled."""
        loop = asyncio.get_running_loop()
        listener = self._listening()
        async with asyncio.TaskGroup() as connections:
            while True:
                try:
                    accepted, address = await loop.sock_accept(listener)
                except OSError as error:  # out of descriptors, or the sender gave up between SYN and accept
                    log.warning("hl7_accept_failed", error=error.strerror)
                    await asyncio.sleep(0.1)
                    continue
                if self._crowded(stranger := not self._settings.may_connect(Peer.from_socket_name(address))):
                    self._refused("too_many_connections")
                    log.warning("hl7_too_many_connections", limit=self._settings.max_connections)
                    accepted.close()
                    continue
                self._open += 1
                self._strangers += stranger
                self._connections.set(self._open)
                connections.create_task(self._serve(accepted, address, queue, stranger=stranger))

    def _crowded(self, stranger: bool) -> bool:
        """Whether one more is too many. Whom no grant covers is heard, to be told so, but takes nobody else's place."""
        if stranger:
            return self._strangers >= _STRANGERS
        return self._open - self._strangers >= self._settings.max_connections

    async def _serve(
        self, accepted: socket.socket, address: object, queue: asyncio.Queue[Event], *, stranger: bool
    ) -> None:
        """One connection from its handshake to its end; raises nothing but cancellation."""
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await self._opened(accepted)
            certificate = writer.get_extra_info("peercert")
            peer = Peer.from_socket_name(address, peer_names(certificate))
            await self._talk(_Connection(peer, reader, writer, stranger), queue)
        except FrameTooLongError as error:
            self._fault("too_long")
            log.warning("hl7_message_too_long", peer=str(address), error=str(error))
        except TimeoutError as error:
            self._fault("timeout")
            log.warning("hl7_peer_timed_out", peer=str(address), error=str(error))
        except OSError as error:  # reset, broken pipe, a TLS handshake that failed (ssl.SSLError is an OSError)
            self._fault("connection")
            log.warning("hl7_connection_lost", peer=str(address), error=type(error).__name__)
        finally:
            self._open -= 1
            self._strangers -= stranger
            self._connections.set(self._open)
            if writer is None:
                accepted.close()
            else:
                await _closed(writer)

    async def _opened(self, accepted: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Streams over an accepted socket, after the TLS handshake with the newest certificates."""
        loop = asyncio.get_running_loop()
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = asyncio.StreamReader(limit=_READ, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        if self._tls is None:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted)
        else:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=self._tls.context(),
                ssl_handshake_timeout=self._settings.message_seconds,
            )
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _talk(self, connection: _Connection, queue: asyncio.Queue[Event]) -> None:
        settings = self._settings
        frames = Decoder(settings.message_limit)
        stray = truncated = 0
        frame_ends = 0.0
        while True:
            allowed = settings.message_seconds if connection.stranger else settings.idle_seconds
            if frames.partial:
                allowed = min(allowed, max(frame_ends - time.monotonic(), 0.0))
            try:
                async with asyncio.timeout(allowed):
                    data = await connection.reader.read(_READ)
            except TimeoutError:
                what = "a message did not end" if frames.partial else "nothing came"
                raise TimeoutError(f"{what} within {allowed:.0f} s") from None
            received = time.monotonic()
            if not data:
                break
            was_partial = frames.partial
            try:
                messages = frames.feed(data)
            except FrameTooLongError as error:
                refusal = HL7Error("too_long", str(error), code=207, reject=True)
                await self._send(connection, [self._acknowledgement(None, "AR", (refusal,))])
                raise
            for message in messages:
                await self._handle(connection, message, received, queue)
            if frames.partial and (messages or not was_partial):
                frame_ends = time.monotonic() + settings.message_seconds
            if frames.stray > stray and connection.first("stray_bytes"):
                log.warning("hl7_bytes_outside_frames", peer=str(connection.peer.address))
            self._fault("stray_bytes", int(frames.stray > stray))
            self._fault("truncated", frames.truncated - truncated)
            stray, truncated = frames.stray, frames.truncated
        if frames.partial:
            self._fault("truncated")
            log.warning("hl7_connection_ended_inside_message", peer=str(connection.peer.address))

    async def _handle(
        self, connection: _Connection, message: bytes, received: float, queue: asyncio.Queue[Event]
    ) -> None:
        """Decode, check the sender's rights, hold the events, answer: in this order."""
        self._messages.inc()
        try:
            decoded = self._decoded(connection.peer, message, received)
        except HL7Error as error:
            self._note(connection, error.reason, error.text)
            await self._send(connection, [self._acknowledgement(None, "AR" if error.reject else "AE", (error,))])
            return
        decoded = self._authorized(connection, decoded)
        for fault in decoded.faults:
            self._note(connection, fault.reason, fault.text, decoded.dialect)
        if decoded.is_acknowledgement:
            return
        if decoded.dialect in self._unverified and connection.first("scale_unverified", decoded.dialect):
            log.warning(
                "hl7_scale_unverified",
                dialect=decoded.dialect,
                remedy=f"compare a calibration pulse with the monitor and set ecg_scale.{decoded.dialect}",
            )
        self._count_duplicate(connection, decoded)
        for event in decoded.events:
            await queue.put(event)
        codes = answers(decoded.header, decoded.verdict)
        await self._send(connection, [self._acknowledgement(decoded.header, code, decoded.errors) for code in codes])

    def _decoded(self, peer: Peer, message: bytes, received: float) -> Decoded:
        dialect = None
        try:
            if self._settings.senders:
                dialect = self._settings.dialect_of(peer, header_of(parse(message)))
            return decode(message, self._dialects, received, beds=self._settings.beds, zone=self._zone, dialect=dialect)
        except HL7Error:
            raise
        except _DEFECTS as defect:
            # The exception's text may hold what the patient is called: only its kind is logged.
            log.error("hl7_decoder_defect", kind=type(defect).__name__)  # noqa: TRY400
            raise HL7Error(
                "defect", "the receiver's decoder failed on this message; please report it", code=207
            ) from None

    def _authorized(self, connection: _Connection, decoded: Decoded) -> Decoded:
        """The message as it is, or refused as a whole if its sender may not speak for every bed that it is about."""
        beds = {event.bed for event in decoded.events}
        beds |= {e.prior_bed for e in decoded.events if isinstance(e, EncounterChange) and e.prior_bed is not None}
        for bed in sorted(beds):
            if not self._settings.may_speak(connection.peer, decoded.header, bed):
                self._refused("not_granted")
                if connection.first("not_granted", bed):
                    log.warning(
                        "hl7_sender_not_granted",
                        peer=str(connection.peer.address),
                        certificate=connection.peer.certificate_names,
                        application=decoded.header.application,
                        bed=bed,
                    )
                error = HL7Error("not_granted", "this sender may not speak for this bed; add it to `grants`", code=207,
                                 location="MSH^1^3", reject=True)  # fmt: skip
                return refuse(decoded, error)
        # What a transfer without PV1-6 may empty is found by the patient, later: no further than the sender's own beds.
        reach = self._settings.beds_of(connection.peer, decoded.header)
        events = tuple(
            replace(event, sender_beds=reach) if isinstance(event, EncounterChange) else event
            for event in decoded.events
        )
        return replace(decoded, events=events)

    def _count_duplicate(self, connection: _Connection, decoded: Decoded) -> None:
        """Count messages that come again; windowing merges their samples, so they are taken like any other."""
        if not decoded.events:
            return
        key = (decoded.events[0].bed, decoded.header.control_id)
        if key in connection.seen:
            self._duplicates.inc()
            return
        connection.seen[key] = None
        if len(connection.seen) > _REMEMBERED:
            connection.seen.popitem(last=False)

    def _acknowledgement(self, header: Header | None, code: str, errors: tuple[HL7Error, ...]) -> bytes:
        control_id = f"DEB{time.time_ns() // 1_000_000:x}{next(self._control_ids):x}"
        return encode(acknowledge(header, code, control_id=control_id, created=time.time(), errors=errors))

    async def _send(self, connection: _Connection, frames: list[bytes]) -> None:
        if not frames:
            return
        connection.writer.write(b"".join(frames))
        transport = connection.writer.transport
        if not transport.is_closing() and not transport.get_write_buffer_size():
            return  # the socket took it all, as it nearly always does: there is nothing to set a timer for
        try:
            async with asyncio.timeout(self._settings.write_seconds):
                await connection.writer.drain()
        except TimeoutError:
            transport.abort()
            seconds = self._settings.write_seconds
            raise TimeoutError(f"the peer read no acknowledgement within {seconds:.0f} s") from None

    def _note(self, connection: _Connection, reason: str, text: str, dialect: str = "") -> None:
        self._fault(reason)
        if connection.first(reason, dialect):
            log.warning("hl7_fault", reason=reason, fault=text, dialect=dialect, peer=str(connection.peer.address))

    def _fault(self, reason: str, amount: int = 1) -> None:
        if amount:
            self._metrics.faults.labels("hl7", reason).inc(amount)

    def _refused(self, reason: str) -> None:
        self._metrics.refused.labels("hl7", reason).inc()

    def _listening(self) -> socket.socket:
        if self._listener is None:
            raise RuntimeError("the source does not listen; enter it first")
        return self._listener


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Close politely, and at once where the peer does not let us."""
    writer.close()
    with suppress(OSError):
        try:
            async with asyncio.timeout(1.0):
                await writer.wait_closed()
        finally:
            writer.transport.abort()
