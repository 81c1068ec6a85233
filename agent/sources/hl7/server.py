"""HL7 v2 over MLLP in: a server whose connections cannot hurt one another.

Each connection is one task that reads, lets its session decode, waits until the queue has taken the events, and only
then answers. A full queue therefore stops the reading, and TCP slows the sender. Whatever a sender does ends at most
its own task.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count
from types import TracebackType
from typing import Final, Self

import structlog

from agent.core.ecg import Event
from agent.ops.metrics import Metrics
from agent.ops.tls import RotatingContext, abort, peer_names, server_context
from agent.sources.hl7.session import Note, NoteKind, Rules, Session, State
from agent.sources.hl7.settings import HL7SourceSettings, Peer

log = structlog.get_logger()

_READ: Final = 64 * 1024
_STRANGERS: Final = 8
"""Connections at once from addresses that no grant can cover."""
_WRITE_BUFFER: Final = 16 * 1024

_LOGGED_AS: Final = {
    "defect": "hl7_decoder_defect",
    "not_granted": "hl7_sender_not_granted",
    "scale_unverified": "hl7_scale_unverified",
    "stray_bytes": "hl7_bytes_outside_frames",
    "too_long": "hl7_message_too_long",
    "truncated": "hl7_message_truncated",
}
"""Notes that have a line of their own in the log; all other faults share ``hl7_fault``."""


class HL7Source:
    """Listens from ``__aenter__`` on; senders wait in the backlog until `run`."""

    def __init__(self, settings: HL7SourceSettings, metrics: Metrics) -> None:
        """Nothing is opened yet.

        Raises:
            TlsError: the certificates that ``settings`` names cannot be used.
        """
        self._settings = settings
        self._metrics = metrics
        self._rules = Rules.of(settings)
        self._tls = RotatingContext(settings.tls, server_context) if settings.tls else None
        self._listener: socket.socket | None = None
        self._open = 0
        self._strangers = 0
        self._control_ids = _control_ids()
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
            await self._talk(Session(self._rules, peer), peer, reader, writer, queue)
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

    async def _talk(
        self,
        session: Session,
        peer: Peer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        queue: asyncio.Queue[Event],
    ) -> None:
        """Bytes in, events held, answers out: in this order, until either side has had enough."""
        while session.state is State.OPEN:
            patience = session.patience(time.monotonic())
            try:
                async with asyncio.timeout(patience):
                    data = await reader.read(_READ)
            except TimeoutError:
                raise TimeoutError(f"{session.lacks} within {patience:.0f} s") from None
            self._take(session.feed(data, time.monotonic()) if data else session.end(), peer)
            while (exchange := session.next_exchange()) is not None:
                if not exchange.last:
                    self._messages.inc()
                self._take(exchange.notes, peer)
                for event in exchange.events:
                    await queue.put(event)
                await self._send(writer, exchange.answer(self._control_ids, time.time()))

    async def _send(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        if not answer:
            return
        writer.write(answer)
        transport = writer.transport
        if not transport.is_closing() and not transport.get_write_buffer_size():
            return  # the socket took it all, as it nearly always does: there is nothing to set a timer for
        try:
            async with asyncio.timeout(self._settings.write_seconds):
                await writer.drain()
        except TimeoutError:
            abort(writer)
            seconds = self._settings.write_seconds
            raise TimeoutError(f"the peer read no acknowledgement within {seconds:.0f} s") from None

    def _take(self, notes: Iterable[Note], peer: Peer) -> None:
        """Count them; log what is new on its connection."""
        for note in notes:
            match note.kind:
                case NoteKind.FAULT:
                    self._fault(note.reason, note.amount)
                case NoteKind.REFUSED:
                    self._refused(note.reason)
                case NoteKind.DUPLICATE:
                    self._duplicates.inc(note.amount)
            if note.new and note.kind is not NoteKind.DUPLICATE:
                event = _LOGGED_AS.get(note.reason, "hl7_fault")
                say = log.error if note.reason == "defect" else log.warning
                say(event, reason=note.reason, peer=str(peer.address), **note.context)

    def _fault(self, reason: str, amount: int = 1) -> None:
        self._metrics.faults.labels("hl7", reason).inc(amount)

    def _refused(self, reason: str) -> None:
        self._metrics.refused.labels("hl7", reason).inc()

    def _listening(self) -> socket.socket:
        if self._listener is None:
            raise RuntimeError("the source does not listen; enter it first")
        return self._listener


def _control_ids() -> Iterator[str]:
    """MSH-10 of our acknowledgements: never the same twice, also across restarts."""
    for number in count(1):
        yield f"DEB{time.time_ns() // 1_000_000:x}{number:x}"


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Close politely, and at once where the peer does not let us."""
    writer.close()
    with suppress(OSError):
        try:
            async with asyncio.timeout(1.0):
                await writer.wait_closed()
        finally:
            abort(writer)
