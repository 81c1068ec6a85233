"""An HL7 alert receiver for the demo and the tests: answers ORU^R40, de-duplicates, shows each alert once.

It stands for an alert manager, and can be told to misbehave in the ways that receivers in the field do.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Self

from agent.core.hl7.alert import AcknowledgementError, segments_from_message
from agent.core.hl7.mllp import Decoder, FrameTooLongError, encode
from agent.ops.tls import TlsSettings, server_context

_COLOURS = {"PH": "!!!", "PM": "!! ", "PL": "!  ", "PN": "   "}  # IEC 60601-1-8 marks
_REMEMBERED = 100_000


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
            writer.transport.abort()

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
            writer.transport.abort()

    async def _answer(self, message: bytes, writer: asyncio.StreamWriter) -> bool:
        """Take one message and answer it; False where the connection is to be closed."""
        self.messages += 1
        try:
            segments = segments_from_message(message)
            header = segments[0]
            message_id = header[10] if len(header) > 10 else ""
            found = received_from_segments(segments, time.monotonic())
        except AcknowledgementError:
            await _send(writer, encode(_acknowledgement("AR", "", "100")))
            return True
        how = self._misbehaviours.popleft() if self._misbehaviours else Misbehaviour.NONE
        if found is not None and found.label in self.refuse:
            how = Misbehaviour.REJECT
        match how:
            case Misbehaviour.ERROR | Misbehaviour.REJECT:
                code = "AE" if how is Misbehaviour.ERROR else "AR"
                await _send(writer, encode(_acknowledgement(code, message_id, "207")))
                return True
            case Misbehaviour.SILENT:
                return True
            case Misbehaviour.CLOSE:
                return False
        self._take(message_id, found, segments)
        good = encode(_acknowledgement("AA", message_id))
        match how:
            case Misbehaviour.NONE:
                await _send(writer, good)
            case Misbehaviour.COMMIT:
                await _send(writer, encode(_acknowledgement("CA", message_id)))
            case Misbehaviour.DOUBLE:
                await _send(writer, encode(_acknowledgement("CA", message_id)) + good)
            case Misbehaviour.LATE_ERROR:
                late = encode(_acknowledgement("AE", message_id, "207"))
                await _send(writer, encode(_acknowledgement("CA", message_id)) + late)
            case Misbehaviour.LATE:
                await asyncio.sleep(self.late)
                await _send(writer, good)
            case Misbehaviour.CLOSE_MID:
                await _send(writer, good[: len(good) // 2])
                return False
            case Misbehaviour.FOREIGN:
                await _send(writer, encode(_acknowledgement("AA", "somebody-elses")))
            case Misbehaviour.SPLIT:
                for i in range(len(good)):
                    await _send(writer, good[i : i + 1])
                    await asyncio.sleep(0)
            case Misbehaviour.UNFRAMED:
                await _send(writer, _acknowledgement("AA", message_id))
            case Misbehaviour.GARBAGE:
                await _send(writer, b"\0\0\r\n" + encode(b"HELO") + good)
        return True

    def _take(self, message_id: str, found: Received | None, segments: list[list[str]]) -> None:
        if message_id in self._known:
            self.repeated += 1
            return
        self._known[message_id] = None
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        if found is not None:
            self.alerts.append(found)
            self._queue.put_nowait(found)
        else:
            self.watchdogs += [s[5] for s in segments if len(s) > 5 and s[3].startswith("68481^")]


def received_from_segments(segments: list[list[str]], received: float) -> Received | None:
    """What an ORU^R40 says; None for a watchdog message.

    Raises:
        AcknowledgementError: it is no alert.
    """
    header = segments[0]
    first: dict[str, list[str]] = {}
    for segment in segments:
        first.setdefault(segment[0], segment)
    facets = {s[4].rsplit(".", 1)[-1]: [*s, *[""] * (19 - len(s))] for s in segments if s[0] == "OBX" and len(s) > 4}
    order = first.get("OBR", [])
    if len(header) < 11 or not header[9].startswith("ORU^R40") or "1" not in facets or len(order) < 4:
        raise AcknowledgementError("the message is no ORU^R40 with an OBR and a first facet; send alerts to this port")
    event = facets["1"]
    if event[3].startswith("258047^"):
        return None
    technical = event[3].startswith("196616^")
    code, ref_id, *_ = [*(event[5] if technical else event[3]).split("^"), ""]
    text = event[5].split("^")[8] if technical and event[5].count("^") >= 8 else event[5]
    parent = order[29].split("^")[1].split("&")[0] if len(order) > 29 and "^" in order[29] else ""
    device = [*event[18].split("^"), ""]
    model = facets.get("8", [""] * 4)[3].split("^") + [""] * 5
    patient = first.get("PID", [])
    location = first.get("PV1", [])
    return Received(
        bed=_unescape(device[1]),
        label=_unescape(model[4]) or ref_id,
        text=_unescape(text),
        code=int(code) if code.isascii() and code.isdigit() else 0,
        priority=facets["6"][5] if "6" in facets else "",
        phase=facets["3"][5] if "3" in facets else "",
        active="4" in facets and facets["4"][5] == "active",
        kind=facets["7"][5] if "7" in facets else "",
        time=_seconds(event[14]),
        alert_id=parent or order[3].split("^")[0],
        message_id=header[10],
        patient_known=len(patient) > 3 and bool(patient[3]),
        location=location[3] if len(location) > 3 else "",
        received=received,
    )


def _acknowledgement(code: str, message_id: str, error: str = "") -> bytes:
    now = f"{datetime.now(UTC):%Y%m%d%H%M%S}+0000"
    segments = [
        f"MSH|^~\\&|RECEIVER||DEEPECG||{now}||ACK^R40^ACK|{time.monotonic_ns()}|P|2.6",
        f"MSA|{code}|{message_id}",
    ]
    if error:
        segments.append(f"ERR|||{error}^^HL70357|E")
    return ("\r".join(segments) + "\r").encode()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _unescape(text: str) -> str:
    table = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\"}

    def one(match: re.Match[str]) -> str:
        what = match[1]
        return table[what] if what in table else bytes.fromhex(what[1:]).decode("latin-1")

    return re.sub(r"\\([FSTRE]|X(?:[0-9A-F]{2})+)\\", one, text)


def _seconds(text: str) -> float | None:
    """Epoch seconds of a DTM with zone; None where there is none."""
    with suppress(ValueError):
        # The pattern demands a zone: a time without one is no time.
        return datetime.strptime(text, "%Y%m%d%H%M%S.%f%z" if "." in text else "%Y%m%d%H%M%S%z").timestamp()  # noqa: DTZ007
    return None
