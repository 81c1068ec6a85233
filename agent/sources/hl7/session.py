"""One sender's connection without its socket: bytes in; events, notes and answers out. No clock, no I/O.

The rules of a session:

1. Every message gives one `Exchange`, in order: hold its events, then send its answer. Nothing is answered before.
2. An acknowledgement is never answered, lest two systems answer each other for ever.
3. A message is taken or refused as a whole by the sender's rights: it may speak for every bed that it is about, or for
   none of them.
4. Whatever is wrong with a message costs that message, even a defect of our own decoder, and never the connection; only
   a frame beyond the limit ends it, since nobody knows where the next one would begin.
5. What is left out, refused or repeated is a `Note`: counted each time, and logged the first time on a connection.

A server feeds it and asks until there is nothing more:

    session.feed(data, received)
    while (exchange := session.next_exchange()) is not None:
        ...  # hold exchange.events, then send exchange.answer(control_ids, now)
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from enum import Enum
from typing import Final, Self
from zoneinfo import ZoneInfo

from agent.core.ecg import EncounterChange, Event
from agent.core.hl7.acknowledgement import Header, acknowledge, answers, header_of
from agent.core.hl7.decode import Decoded, decode, refuse
from agent.core.hl7.dialect import Dialect
from agent.core.hl7.message import HL7Error, parse
from agent.core.hl7.mllp import Decoder, FrameTooLongError, encode
from agent.sources.hl7.settings import HL7SourceSettings, Peer

_REMEMBERED: Final = 64
"""Control ids kept per connection to count messages that come again."""
_MOST_NOTES: Final = 256
"""Distinct things logged per connection; the counters go on."""

# What a defect of our own decoder may raise on a message nobody has thought of. It costs that message (AE 207), not the
# bed's connection, and never another bed's.
_DEFECTS: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class State(Enum):
    """Where a connection stands."""

    OPEN = "open"
    CLOSING = "closing"  # one more answer goes out, and nothing more is read
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every session of a server."""

    settings: HL7SourceSettings
    dialects: tuple[Dialect, ...]
    zone: tzinfo
    unverified: frozenset[str]
    """Dialects whose scale has to be checked on site."""

    @classmethod
    def of(cls, settings: HL7SourceSettings) -> Self:
        """With this site's dialects and time zone."""
        dialects = settings.dialects()
        unverified = frozenset(dialect.name for dialect in dialects if not dialect.dimensionless_verified)
        return cls(settings, dialects, ZoneInfo(settings.default_zone), unverified)


class NoteKind(Enum):
    """Which counter a note belongs to."""

    FAULT = "fault"  # a sender did something wrong
    REFUSED = "refused"  # a sender had no right to it
    DUPLICATE = "duplicate"  # a message came again
    REMARK = "remark"  # not counted: the site has to check something


@dataclass(frozen=True, slots=True)
class Note:
    """Something to count, and to log where it is ``new``."""

    kind: NoteKind
    reason: str
    """Of a fault one of `FAULT_REASONS`."""
    new: bool
    """The first of its kind on this connection."""
    amount: int = 1
    context: Mapping[str, object] = field(default_factory=dict)
    """For the line in the log; free of patient data."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One message: what is to be held, then what is to be answered."""

    events: tuple[Event, ...]
    notes: tuple[Note, ...]
    header: Header | None
    """Of the message; None where it had none that could be read."""
    codes: tuple[str, ...]
    """MSA-1 of each acknowledgement that is due, in order."""
    errors: tuple[HL7Error, ...] = ()
    last: bool = False
    """No message but the end of them: close once the answer is out."""

    def answer(self, control_ids: Iterator[str], created: float) -> bytes:
        """The framed acknowledgements; ``created`` is epoch seconds."""
        return b"".join(
            encode(acknowledge(self.header, code, control_id=next(control_ids), created=created, errors=self.errors))
            for code in self.codes
        )


class Session:
    """One connection, from its first byte to its end."""

    def __init__(self, rules: Rules, peer: Peer) -> None:
        self._rules = rules
        self._peer = peer
        self.stranger = not rules.settings.may_connect(peer)
        """No grant can cover its address: it is answered, so that it learns why, and soon closed."""
        self.state = State.OPEN
        self._frames = Decoder(rules.settings.message_limit)
        self._messages: deque[tuple[bytes, float]] = deque()
        self._too_long: FrameTooLongError | None = None
        self._frame_ends: float | None = None
        self._stray = self._truncated = 0
        self._seen: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._noted: set[tuple[str, str]] = set()

    # Time

    def patience(self, now: float) -> float:
        """Seconds to wait for the next bytes; a frame that has begun must end in its own time from the first wait."""
        settings = self._rules.settings
        allowed = settings.message_seconds if self.stranger else settings.idle_seconds
        if not self._frames.partial:
            return allowed
        if self._frame_ends is None:
            self._frame_ends = now + settings.message_seconds
        return min(allowed, max(self._frame_ends - now, 0.0))

    @property
    def lacks(self) -> str:
        """What did not happen, if the wait was in vain."""
        return "a message did not end" if self._frames.partial else "nothing came"

    # Bytes in

    def feed(self, data: bytes, received: float) -> tuple[Note, ...]:
        """Take the next bytes, read at monotonic ``received``; the notes are about what stood between frames.

        Once the session is no longer open, bytes are passed over.
        """
        if self.state is not State.OPEN:
            return ()
        was_partial = self._frames.partial
        try:
            messages = self._frames.feed(data)
        except FrameTooLongError as error:
            self._too_long, self.state = error, State.CLOSING
            return ()
        self._messages.extend((message, received) for message in messages)
        if messages or not was_partial:
            self._frame_ends = None
        return tuple(self._between_frames())

    def end(self) -> tuple[Note, ...]:
        """The sender has closed."""
        self.state = State.CLOSED
        return (self._note("truncated"),) if self._frames.partial else ()

    def _between_frames(self) -> Iterator[Note]:
        if self._frames.stray > self._stray:
            yield self._note("stray_bytes")
        if self._frames.truncated > self._truncated:
            yield self._note("truncated", amount=self._frames.truncated - self._truncated)
        self._stray, self._truncated = self._frames.stray, self._frames.truncated

    # Messages out

    def next_exchange(self) -> Exchange | None:
        """The next message's; None where more bytes are needed."""
        if self._messages:
            return self._exchange(*self._messages.popleft())
        if self._too_long is not None:
            refusal = HL7Error("too_long", str(self._too_long), code=207, reject=True)
            self._too_long = None
            note = self._note("too_long", context={"fault": refusal.text})
            return Exchange((), (note,), None, ("AR",), (refusal,), last=True)
        return None

    def _exchange(self, message: bytes, received: float) -> Exchange:
        """Decode, and check the sender's rights."""
        try:
            decoded = self._decoded(message, received)
        except HL7Error as error:
            context = {"fault": error.text}
            if error.__cause__ is not None:
                context["defect"] = type(error.__cause__).__name__
            note = self._note(error.reason, context=context)
            return Exchange((), (note,), None, ("AR" if error.reject else "AE",), (error,))
        decoded, notes = self._authorized(decoded)
        dialect = decoded.dialect
        notes += [
            self._note(fault.reason, dialect, context={"fault": fault.text, "dialect": dialect})
            for fault in decoded.faults
        ]
        if decoded.is_acknowledgement:
            return Exchange((), tuple(notes), decoded.header, ())
        if dialect in self._rules.unverified:
            remedy = f"compare a calibration pulse with the monitor and set ecg_scale.{dialect}"
            context = {"dialect": dialect, "remedy": remedy}
            notes.append(self._note("scale_unverified", dialect, kind=NoteKind.REMARK, context=context))
        if self._repeated(decoded):
            notes.append(self._note("duplicate", kind=NoteKind.DUPLICATE))
        codes = answers(decoded.header, decoded.verdict)
        return Exchange(decoded.events, tuple(notes), decoded.header, codes, decoded.errors)

    def _decoded(self, message: bytes, received: float) -> Decoded:
        settings = self._rules.settings
        try:
            name = settings.dialect_of(self._peer, header_of(parse(message))) if settings.senders else None
            return decode(
                message, self._rules.dialects, received, beds=settings.beds, zone=self._rules.zone, dialect=name
            )
        except HL7Error:
            raise
        except _DEFECTS as defect:
            # The exception's own text may hold what the patient is called: only its kind goes on.
            text = "the receiver's decoder failed on this message; please report it"
            raise HL7Error("defect", text, code=207) from defect

    def _authorized(self, decoded: Decoded) -> tuple[Decoded, list[Note]]:
        """The message as it is, or refused as a whole if its sender may not speak for every bed that it is about."""
        settings, header = self._rules.settings, decoded.header
        beds = {event.bed for event in decoded.events}
        beds |= {e.prior_bed for e in decoded.events if isinstance(e, EncounterChange) and e.prior_bed is not None}
        for bed in sorted(beds):
            if not settings.may_speak(self._peer, header, bed):
                context: dict[str, object] = {
                    "bed": bed,
                    "application": header.application,
                    "certificate": self._peer.certificate_names,
                }
                note = self._note("not_granted", bed, kind=NoteKind.REFUSED, context=context)
                error = HL7Error("not_granted", "this sender may not speak for this bed; add it to `grants`", code=207,
                                 location="MSH^1^3", reject=True)  # fmt: skip
                return refuse(decoded, error), [note]
        # What a transfer without PV1-6 may empty is found by the patient, later: no further than the sender's own beds.
        reach = settings.beds_of(self._peer, header)
        events = tuple(
            replace(event, sender_beds=reach) if isinstance(event, EncounterChange) else event
            for event in decoded.events
        )
        return replace(decoded, events=events), []

    def _repeated(self, decoded: Decoded) -> bool:
        """Whether the message came before; windowing merges its samples, so it is taken like any other."""
        if not decoded.events:
            return False
        key = (decoded.events[0].bed, decoded.header.control_id)
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return False

    def _note(
        self,
        reason: str,
        detail: str = "",
        *,
        kind: NoteKind = NoteKind.FAULT,
        amount: int = 1,
        context: Mapping[str, object] | None = None,
    ) -> Note:
        """``detail`` tells one from another of the same reason: each is new once."""
        key = (reason, detail)
        new = key not in self._noted and len(self._noted) < _MOST_NOTES
        if new:
            self._noted.add(key)
        return Note(kind, reason, new, amount, context or {})
