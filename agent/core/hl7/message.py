"""An HL7 v2 message in bytes, both ways: delimiters, segments, fields, escapes and times (HL7 v2.6 chapter 2).

The one reader and the one writer. Fields are cut but not decoded until they are asked for, so that a waveform's array
costs one copy and no more. All bytes are UTF-8 here (or a single-byte set), so a delimiter is always one byte and never
part of another character. A value is split first and its escapes resolved then: an escaped delimiter never splits.

    >>> from agent.core.hl7.segments import PV1
    >>> message = parse(write([(MSH, {MSH.TYPE: b"ADT^A01"}), (PV1, {PV1.LOCATION: components("A&B", "2", "1")})]))
    >>> message.segments[1].raw(PV1.LOCATION), message.component(message.segments[1], PV1.LOCATION)
    (b'A\\\\T\\\\B^2^1', 'A&B')
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Final, TypeAlias

from agent.core.errors import DeepECGError
from agent.core.hl7.charset import Text, safe_to_split
from agent.core.hl7.segments import MSH, FieldNumbers

FAULT_REASONS = frozenset(
    {
        # of whole messages
        "acknowledgement", "bed_elsewhere", "bed_unknown", "charset", "control_id", "delimiters", "dialect_unknown",
        "event_unknown", "no_header", "no_order", "too_many_rows", "type_unknown", "version_unknown",
        # of one channel, which is quarantined
        "code_length", "code_mismatch", "facet", "lead_twice", "range", "rate", "resolution", "time", "unit", "values",
        # of one alarm
        "alarm_event", "alarm_phase",
        # of the server
        "connection", "defect", "not_granted", "stray_bytes", "timeout", "too_long", "truncated",
    }
)  # fmt: skip
"""Every `reason` of a fault of HL7 in: the label of a metric, so the list is closed."""

# A message within the size limit must not keep the others waiting: what no honest sender needs is not worked through.
_MOST_SEGMENTS = 20_000
_MOST_FIELDS = 64
_LONGEST_TEXT = 4096

# Escapes that mean nothing in a plain text: highlighting, formatting commands, changes of character set, local ones.
_SILENT = re.compile(r"[HN]|\.[a-z]{2}[+-]?\d*|[CM][0-9A-Fa-f]{4,6}|Z.*")
# A value in standard delimiters that is its own component form.
_PLAIN = re.compile(rb"[0-9A-Za-z^&._:/-]*")
_HEX = re.compile(r"X(?:[0-9A-Fa-f]{2})+")
_TIME = re.compile(
    rb"^(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,9})|(\d{3}))?)?)?)?)?)?"
    rb"(?:([+-])(\d{1,2})(\d\d))?$"
)


class HL7Error(DeepECGError, ValueError):
    """A message or a part of it cannot be used; it becomes an ERR segment, a count and a line in the log."""

    def __init__(self, reason: str, text: str, *, code: int, location: str = "", reject: bool = False) -> None:
        """``reason`` is a metric's label; ``text`` one sentence free of patient data; ``code`` from HL7 table 0357.

        ``location`` is ``SEG^sequence^field`` as in ERR-2; ``reject`` makes it AR (the message is not for us at all)
        and not AE (it is, but it is wrong).
        """
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.code = code
        self.location = location
        self.reject = reject


@dataclass(frozen=True, slots=True)
class Delimiters:
    """MSH-1 and MSH-2; each one byte."""

    field: bytes = b"|"
    component: bytes = b"^"
    repetition: bytes = b"~"
    escape: bytes = b"\\"
    subcomponent: bytes = b"&"
    truncation: bytes = b""
    """v2.7 and later; empty where the sender named none."""
    mark: str = dataclasses.field(init=False, compare=False, repr=False)
    """The escape character as text."""
    escapes: dict[str, str] = dataclasses.field(init=False, compare=False, repr=False)
    """What stands between two escape characters, and what it stands for."""
    translation: dict[int, str] = dataclasses.field(init=False, compare=False, repr=False)
    """For `str.translate`: every character that must be escaped."""

    @property
    def encoding_characters(self) -> bytes:
        """MSH-2 as the sender wrote it."""
        return self.component + self.repetition + self.escape + self.subcomponent + self.truncation

    def __post_init__(self) -> None:
        mark = self.escape.decode("latin-1")
        escapes = {
            "F": self.field.decode("latin-1"),
            "S": self.component.decode("latin-1"),
            "T": self.subcomponent.decode("latin-1"),
            "R": self.repetition.decode("latin-1"),
            "E": mark,
            "P": self.truncation.decode("latin-1"),
            ".br": "\n",
        }
        table = {code: f"{mark}X{code:02X}{mark}" for code in (*range(0x20), 0x7F)}
        table |= {ord(one): f"{mark}{name}{mark}" for name, one in escapes.items() if one > " "}
        object.__setattr__(self, "mark", mark)
        object.__setattr__(self, "escapes", escapes)
        object.__setattr__(self, "translation", table)


STANDARD: Final = Delimiters()

Fields: TypeAlias = dict[int, bytes | None]
"""A segment's fields by number, as they are written."""


class Segment:
    """One segment, split into its fields."""

    __slots__ = ("delimiters", "fields", "index", "name")

    fields: list[bytes]
    """Raw, numbered as in the standard: ``fields[5]`` is OBX-5, and MSH-1 is the separator itself."""

    def __init__(self, raw: bytes, delimiters: Delimiters, index: int) -> None:
        """``index`` counts the segments of the same name from 1, as ERR-2 does."""
        self.fields = raw.split(delimiters.field, _MOST_FIELDS)
        self.delimiters = delimiters
        self.index = index
        self.name = raw[:3]
        if self.name == b"MSH":
            self.fields.insert(1, delimiters.field)

    def raw(self, field: int) -> bytes:
        """The field's bytes; empty where the segment ends before it."""
        try:
            return self.fields[field]
        except IndexError:
            return b""

    def repetitions(self, field: int) -> list[bytes]:
        """The field's repetitions, raw; none where it is empty."""
        value = self.raw(field)[:_LONGEST_TEXT]
        return value.split(self.delimiters.repetition) if value else []

    def component(self, field: int, component: int = 1) -> bytes:
        """One component of the field's first repetition, raw and stripped of blanks."""
        value = self.raw(field)
        if self.delimiters.repetition in value:
            value = value.split(self.delimiters.repetition, 1)[0]
        parts = value.split(self.delimiters.component, component)
        return parts[component - 1].strip() if component <= len(parts) else b""


@dataclass(frozen=True, slots=True)
class Message:
    """A parsed message: its MSH is there, the rest is as it came."""

    delimiters: Delimiters
    segments: tuple[Segment, ...]
    encoding: str
    """Python's name of the character set that the texts are in."""
    charset_fault: str
    """Why the declared character set was not the true one; empty where it was."""

    @property
    def msh(self) -> Segment:
        """The header."""
        return self.segments[0]

    def first(self, name: bytes) -> Segment | None:
        """The first segment of that name; None where there is none."""
        return next((segment for segment in self.segments if segment.name == name), None)

    def text(self, raw: bytes) -> str:
        """A value decoded and its escapes resolved (2.7), without blanks at its ends; the HL7 null ``""`` is empty."""
        raw = raw[:_LONGEST_TEXT].strip()
        if not raw or raw == b'""':
            return ""
        text = raw.decode(self.encoding, "replace")
        return unescape(text, self.delimiters) if self.delimiters.escape in raw else text

    def component(self, segment: Segment, field: int, component: int = 1, sub: int = 1) -> str:
        """One subcomponent of the field's first repetition as text."""
        parts = segment.component(field, component).split(self.delimiters.subcomponent)
        return self.text(parts[sub - 1]) if sub <= len(parts) else ""

    def component_form(self, raw: bytes) -> str:
        """A value of several components as ``a^b&c``: standard delimiters, each part escaped anew, no empty ends."""
        raw, marks = raw[:_LONGEST_TEXT], self.delimiters
        if marks.encoding_characters[:4] == b"^~\\&" and _PLAIN.fullmatch(raw):
            return raw.decode("ascii").rstrip("^&")
        parts = (part.split(marks.subcomponent) for part in raw.split(marks.component))
        return "^".join("&".join(escape(self.text(sub)).decode() for sub in part) for part in parts).rstrip("^&")


def parse(data: bytes, *, any_charset: bool = False) -> Message:
    """Split a message into segments.

    CR ends a segment (2.5.2); where a message has no CR at all, LF does, and LF beside CR is ignored. With
    ``any_charset`` a character set that is not known is read as 8859/1, for whom only ASCII in it matters.

    Raises:
        HL7Error: there is no MSH, its delimiters are not usable, or its character set is unknown.
    """
    data = data.lstrip(b"\x00\r\n \t\xef\xbb\xbf")
    if not data.startswith(b"MSH") or len(data) < 8:
        raise HL7Error("no_header", "the message does not begin with MSH; send one HL7 v2 message per frame", code=100,
                       location="MSH^1", reject=True)  # fmt: skip
    delimiters = _delimiters(data[3:12])
    text = safe_to_split(data, _declared_charset(data, delimiters))
    if text is None:
        if not any_charset:
            raise HL7Error("charset", "MSH-18 names a character set that is not known here; send UNICODE UTF-8",
                           code=103, location="MSH^1^18", reject=True)  # fmt: skip
        text = Text(data, "latin-1", "MSH-18 names a character set that is not known here; read as 8859/1")
    end = b"\r" if b"\r" in text.data else b"\n"
    lines = text.data.split(end, _MOST_SEGMENTS + 1)
    if len(lines) > _MOST_SEGMENTS + 1:
        says = f"the message has more than {_MOST_SEGMENTS} segments; send shorter ones"
        raise HL7Error("too_many_rows", says, code=207, reject=True)
    counts: dict[bytes, int] = {}
    segments: list[Segment] = []
    for line in lines:
        raw = line.strip(b"\n\x00")
        if len(raw) >= 3:
            name = raw[:3]
            counts[name] = counts.get(name, 0) + 1
            segments.append(Segment(raw, delimiters, counts[name]))
    return Message(delimiters, tuple(segments), text.encoding, text.fault)


def write(rows: Iterable[tuple[type[FieldNumbers], Fields]], marks: Delimiters = STANDARD) -> bytes:
    """A message of these segments, CR after each: the fields by number, those that are None left out.

    A segment ends with the last field that is there. MSH-1 and MSH-2 are written by themselves, from ``marks``, in
    which the fields' own delimiters must stand too (`components`, `from_component_form`).
    """
    lines: list[bytes] = []
    for kind, given in rows:
        last = max((number for number, value in given.items() if value is not None), default=0)
        values = [given.get(number) or b"" for number in range(1, last + 1)]
        if kind is MSH:
            values[:2] = [marks.encoding_characters]
        lines.append(marks.field.join((kind.__name__.encode(), *values)) + b"\r")
    return b"".join(lines)


def components(*parts: str, marks: Delimiters = STANDARD) -> bytes:
    """A value of several components from their texts, each escaped; empty ones at the end are left out."""
    return marks.component.join(escape(part, marks) for part in parts).rstrip(marks.component)


def from_component_form(form: str, marks: Delimiters = STANDARD) -> bytes:
    """A value from its component form (`Message.component_form`) in any delimiters."""
    return marks.component.join(
        marks.subcomponent.join(escape(unescape(sub), marks) for sub in part.split("&")) for part in form.split("^")
    )


def first_parts(form: str) -> tuple[str, ...]:
    """The components of a component form as texts, of each its first subcomponent."""
    parts = [part.split("&", 1)[0] for part in form.split("^")]
    return tuple(map(unescape, parts) if STANDARD.mark in form else parts)


def unescape(text: str, marks: Delimiters = STANDARD) -> str:
    r"""Resolve ``\F\ \S\ \T\ \R\ \E\ \P\ \Xdd..\ \.br\`` and drop what only formats (2.7).

    An escape character that begins none of these stands for itself, so that nothing of a text that nobody has escaped
    is lost.
    """
    mark, names = marks.mark, marks.escapes
    parts = text.split(mark)
    out = [parts[0]]
    index = 1
    while index < len(parts):
        token = parts[index]
        closed = index + 1 < len(parts)
        if closed and token in names:
            out += (names[token], parts[index + 1])
        elif closed and _HEX.fullmatch(token):
            out += (bytes.fromhex(token[1:]).decode("latin-1"), parts[index + 1])
        elif closed and _SILENT.fullmatch(token):
            out.append(parts[index + 1])
        else:
            out += (mark, token)
            index -= 1
        index += 2
    return "".join(out)


def escape(text: str, marks: Delimiters = STANDARD) -> bytes:
    """A text made safe for any field, as UTF-8: delimiters, control characters, and blanks at its ends."""
    if text.isalnum():
        return text.encode()
    escaped = text.translate(marks.translation)
    if escaped[:1] == " " or escaped[-1:] == " ":  # whoever reads would take them for padding
        blank = f"{marks.mark}X20{marks.mark}"
        inner = escaped.strip(" ")
        before = len(escaped) - len(escaped.lstrip(" "))
        escaped = blank * before + inner + blank * (len(escaped) - before - len(inner))
    return escaped.encode("utf-8", "replace")


def epoch(raw: bytes, zone: tzinfo) -> float | None:
    """A DTM as epoch seconds; None where it is empty.

    ``zone`` holds where the value names none. Seen and understood beside the standard: milliseconds without their
    point (``20260124131539000+0800``) and zones without their first zero (``-400``).

    Raises:
        ValueError: it is no time.
    """
    raw = raw.strip()
    if not raw or raw == b'""':
        return None
    match = _TIME.match(raw)
    if match is None:
        raise ValueError("not an HL7 time")
    year, month, day, hour, minute, second = (
        int(g) if g else d for g, d in zip(match.groups()[:6], (0, 1, 1, 0, 0, 0), strict=True)
    )
    fraction = match[7] or match[8] or b"0"
    if match[9]:
        offset = timedelta(hours=int(match[10]), minutes=int(match[11]))
        zone = timezone(-offset if match[9] == b"-" else offset)
    moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=zone)
    try:
        whole = moment.timestamp()
    except OverflowError:
        raise ValueError("not an HL7 time") from None
    return whole + (1 if second == 60 else 0) + int(fraction) / 10.0 ** len(fraction)


def dtm(seconds: float) -> bytes:
    """Epoch seconds as a DTM in UTC with milliseconds; empty where a device's clock makes no date."""
    try:
        m = datetime.fromtimestamp(round(seconds, 3), UTC)
    except (ValueError, OverflowError, OSError):
        return b""
    # Not strftime: it takes twice as long, and whether %Y has four digits is the system's affair.
    return b"%04d%02d%02d%02d%02d%02d.%03d+0000" % (
        m.year, m.month, m.day, m.hour, m.minute, m.second, m.microsecond // 1000
    )  # fmt: skip


@lru_cache(maxsize=64)
def _delimiters(start: bytes) -> Delimiters:
    """From MSH-1 on; the same object for the same start."""
    field = start[:1]
    characters = re.split(rb"[\r\n]", start[1:].split(field, 1)[0], maxsplit=1)[0]
    padded = characters + b"^~\\&"[len(characters) :]
    marks = [field, *(padded[i : i + 1] for i in range(min(len(padded), 5)))]
    if len(set(marks)) != len(marks) or any(m.isalnum() or not 0x20 < m[0] < 0x7F or m in b'"-+.' for m in marks):
        raise HL7Error("delimiters", "MSH-1 and MSH-2 do not name distinct delimiters; the usual ones are |^~\\&",
                       code=102, location="MSH^1^2", reject=True)  # fmt: skip
    return Delimiters(marks[0], marks[1], marks[2], marks[3], marks[4], marks[5] if len(marks) > 5 else b"")


def _declared_charset(data: bytes, delimiters: Delimiters) -> str:
    """MSH-18, its first repetition."""
    fields = re.split(rb"[\r\n]", data, maxsplit=1)[0].split(delimiters.field, 18)
    field = fields[17][:_LONGEST_TEXT] if len(fields) > 17 else b""
    return field.split(delimiters.repetition, 1)[0].strip().decode("latin-1")
