"""An HL7 alert receiver for the demo and the tests: answers ORU^R40, de-duplicates, shows each alert once.

It stands for an alert manager, and can be told to misbehave in the ways that receivers in the field do.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Self

from agent.core.errors import DeepECGError
from agent.core.hl7.acknowledgement import Header, acknowledge, header_of
from agent.core.hl7.alarm import EVENT, MDC_EVT_ACTIVE, PHASE, PRIORITY, STATE, TYPE
from agent.core.hl7.message import HL7Error, Message, Segment, epoch, parse
from agent.core.hl7.mllp import Decoder, FrameTooLongError, encode
from agent.core.hl7.segments import MSH, OBR, OBX, PID, PV1
from agent.ops.tls import TlsSettings, abort, server_context

_COLOURS = {"PH": "!!!", "PM": "!! ", "PL": "!  ", "PN": "   "}  # IEC 60601-1-8 marks
_REMEMBERED = 100_000


class NoAlertError(DeepECGError, ValueError):
    """A message is no ORU^R40 with an alert; one sentence with the remedy."""


class Misbehaviour(StrEnum):
    """What to do with one message instead of answering AA."""

    NONE = "none"
    COMMIT = "commit"  # CA, as an enhanced-mode receiver
    DOUBLE = "double"  # CA, then AA
    LATE_ERROR = "late_error"  # CA, then AE
    ERROR = "error"  # AE
    REJECT = "reject"  # AR
    SILENT = "silent"  # the message is lost, nothing is answered
    LATE = "late"  # held, and answered after `Receiver.late` seconds
    CLOSE = "close"  # the message is lost, the connection closed
    CLOSE_MID = "close_mid"  # held, but the connection breaks in the middle of the answer
    FOREIGN = "foreign"  # held, but the answer names another message
    SPLIT = "split"  # AA, one byte at a time
    UNFRAMED = "unframed"  # AA without 0x0B, 0x1C
    GARBAGE = "garbage"  # no HL7, then AA


@dataclass(frozen=True, slots=True)
class Received:
    """An alert message that the receiver took, the first time that it came."""

    bed: str
    """The agent's bed id."""
    label: str
    """The model's label; for a technical alert the event's reference id."""
    text: str
    code: int
    priority: str
    phase: str
    active: bool
    kind: str
    """SP, ST or SA."""
    time: float | None
    """Event time, epoch seconds."""
    alert_id: str
    message_id: str
    patient_known: bool
    location: str
    """PV1-3."""
    received: float
    """Monotonic seconds at which its last byte was read."""

    def __str__(self) -> str:
        """One readable line, without patient data."""
        when = datetime.fromtimestamp(self.time, UTC).strftime("%H:%M:%S") if self.time is not None else "--:--:--"
        state = self.phase if self.active else f"{self.phase} (inactive)"
        return f"{_COLOURS.get(self.priority, '?  ')} {self.priority} {when}Z {self.bed:<16} {state:<14} {self.text}"


class Receiver:
    """``async with Receiver() as receiver:`` listens on ``receiver.port``; ``await receiver.next()`` gives an alert."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: TlsSettings | None = None,
        misbehaviours: Iterable[Misbehaviour] = (),
        refuse: frozenset[str] = frozenset(),
        late: float = 1.0,
    ) -> None:
        """``misbehaviours`` are spent one per message, then it behaves; labels in ``refuse`` always get AR."""
        self.host = host
        self.port = port
        self.refuse = refuse
        self.late = late
        self.alerts: deque[Received] = deque(maxlen=_REMEMBERED)
        """What came, without repetitions."""
        self.watchdogs: list[str] = []
        """Phases of the watchdog messages."""
        self.repeated = 0
        """Messages that came again, and were answered again."""
        self.messages = 0
        """All messages, repeated and refused ones too."""
        self.connections = 0
        self._tls = tls
        self._misbehaviours = deque(misbehaviours)
        self._known: dict[str, None] = {}
        self._queue: asyncio.Queue[Received] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        context = server_context(self._tls) if self._tls is not None else None
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=context)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
            self.drop()
            await self._server.wait_closed()

    async def next(self) -> Received:
        """The next alert message, each once."""
        return await self._queue.get()

    def drop(self) -> None:
        """Break every connection, as a receiver that restarts."""
        for writer in self._writers:
            abort(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        decoder = Decoder()
        try:
            with suppress(OSError, FrameTooLongError):
                while data := await reader.read(65536):
                    for message in decoder.feed(data):
                        if not await self._answer(message, writer):
                            return
        finally:
            self._writers.discard(writer)
            abort(writer)

    async def _answer(self, message: bytes, writer: asyncio.StreamWriter) -> bool:
        """Take one message and answer it; False where the connection is to be closed."""
        self.messages += 1
        header: Header | None = None
        try:
            parsed = parse(message)
            header = header_of(parsed)
            found = received_from_message(parsed, time.monotonic())
        except (HL7Error, NoAlertError) as error:
            await _send(writer, _ack(header, "AR", HL7Error("no_alert", str(error), code=100)))
            return True
        how = self._misbehaviours.popleft() if self._misbehaviours else Misbehaviour.NONE
        if found is not None and found.label in self.refuse:
            how = Misbehaviour.REJECT
        match how:
            case Misbehaviour.ERROR | Misbehaviour.REJECT:
                code = "AE" if how is Misbehaviour.ERROR else "AR"
                await _send(writer, _ack(header, code, _REFUSED))
                return True
            case Misbehaviour.SILENT:
                return True
            case Misbehaviour.CLOSE:
                return False
        self._take(parsed, found)
        good = _ack(header, "AA")
        match how:
            case Misbehaviour.NONE:
                await _send(writer, good)
            case Misbehaviour.COMMIT:
                await _send(writer, _ack(header, "CA"))
            case Misbehaviour.DOUBLE:
                await _send(writer, _ack(header, "CA") + good)
            case Misbehaviour.LATE_ERROR:
                await _send(writer, _ack(header, "CA") + _ack(header, "AE", _REFUSED))
            case Misbehaviour.LATE:
                await asyncio.sleep(self.late)
                await _send(writer, good)
            case Misbehaviour.CLOSE_MID:
                await _send(writer, good[: len(good) // 2])
                return False
            case Misbehaviour.FOREIGN:
                foreign = list(header.fields)
                foreign[MSH.CONTROL_ID] = b"somebody-elses"
                await _send(writer, _ack(replace(header, fields=tuple(foreign)), "AA"))
            case Misbehaviour.SPLIT:
                for i in range(len(good)):
                    await _send(writer, good[i : i + 1])
                    await asyncio.sleep(0)
            case Misbehaviour.UNFRAMED:
                await _send(writer, next(iter(Decoder().feed(good))))
            case Misbehaviour.GARBAGE:
                await _send(writer, b"\0\0\r\n" + encode(b"HELO") + good)
        return True

    def _take(self, message: Message, found: Received | None) -> None:
        message_id = message.text(message.msh.raw(MSH.CONTROL_ID))
        if message_id in self._known:
            self.repeated += 1
            return
        self._known[message_id] = None
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        if found is not None:
            self.alerts.append(found)
            self._queue.put_nowait(found)
        elif phase := _facets(message).get(PHASE.number):
            self.watchdogs.append(message.component(phase, OBX.VALUE))


def received_from_message(message: Message, received: float) -> Received | None:
    """What an ORU^R40 says; None for a watchdog message.

    Raises:
        NoAlertError: it is no alert.
    """
    facets = _facets(message)
    event, order = facets.get(EVENT.number), message.first(b"OBR")
    msh, patient, visit = message.msh, message.first(b"PID"), message.first(b"PV1")
    if (
        (message.component(msh, MSH.TYPE), message.component(msh, MSH.TYPE, 2)) != ("ORU", "R40")
        or not event
        or not order
    ):
        raise NoAlertError("the message is no ORU^R40 with an OBR and a first facet; send alerts to this port")

    def value(number: int) -> str:
        return message.component(facets[number], OBX.VALUE) if number in facets else ""

    code = message.component(event, OBX.OBSERVATION)
    if code == str(MDC_EVT_ACTIVE):
        return None
    ref_id, text = message.component(event, OBX.OBSERVATION, 2), message.component(event, OBX.VALUE)
    if code == str(EVENT.code):  # a technical alert
        code, ref_id, text = (message.component(event, OBX.VALUE, n) for n in (1, 2, 9))
    own_id = message.component(order, OBR.FILLER)
    try:
        when = epoch(event.raw(OBX.TIME), UTC)
    except ValueError:
        when = None
    return Received(
        bed=message.component(event, OBX.EQUIPMENT, 2),
        label=(message.component(facets[8], OBX.OBSERVATION, 5) if 8 in facets else "") or ref_id,
        text=text,
        code=int(code) if code.isascii() and code.isdigit() else 0,
        priority=value(PRIORITY.number),
        phase=value(PHASE.number),
        active=value(STATE.number) == "active",
        kind=value(TYPE.number),
        time=when,
        alert_id=message.component(order, OBR.PARENT, 2) or own_id,
        message_id=message.text(msh.raw(MSH.CONTROL_ID)),
        patient_known=bool(patient and patient.raw(PID.IDENTIFIERS)),
        location=message.component_form(visit.raw(PV1.LOCATION)) if visit else "",
        received=received,
    )


def _facets(message: Message) -> dict[int, Segment]:
    """The OBX rows by the last number of OBX-4, the last of each."""
    found: dict[int, Segment] = {}
    for segment in message.segments:
        number = segment.raw(OBX.SUB_ID).rpartition(b".")[2]
        if segment.name == b"OBX" and number.isdigit():
            found[int(number[:4])] = segment
    return found


_REFUSED = HL7Error("refused", "the receiver was told to refuse", code=207)


def _ack(header: Header | None, code: str, *errors: HL7Error) -> bytes:
    """The framed ACK."""
    control_id = str(time.monotonic_ns())
    return encode(acknowledge(header, code, control_id=control_id, created=time.time(), errors=errors))


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
