"""An HL7 v2 message as bytes: delimiters, segments, fields, escapes and character sets (HL7 v2.6 chapter 2).

Fields are cut but not decoded until they are asked for, so that a waveform's array costs one copy and no more. All
bytes are UTF-8 here (or a single-byte set), so a delimiter is always one byte and never part of another character.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from agent.core.errors import DeepECGError

SEVERITIES = ("E", "W", "I")

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

_HEX = re.compile(r"^[0-9A-Fa-f]+$")
_TIME = re.compile(
    rb"^(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,9})|(\d{3}))?)?)?)?)?)?"
    rb"(?:([+-])(\d{1,2})(\d\d))?$"
)

# MSH-18, HL7 table 0211. The sets whose second byte may look like a delimiter are turned into UTF-8 before any split.
_SINGLE_BYTE = {
    "ASCII": "ascii",
    "ISO IR6": "ascii",
    "8859/1": "latin-1",
    "8859/2": "iso8859-2",
    "8859/3": "iso8859-3",
    "8859/4": "iso8859-4",
    "8859/5": "iso8859-5",
    "8859/6": "iso8859-6",
    "8859/7": "iso8859-7",
    "8859/8": "iso8859-8",
    "8859/9": "iso8859-9",
    "8859/15": "iso8859-15",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    "UNICODE": "utf-8",
}
_MULTI_BYTE = {
    "GB 18030-2000": "gb18030",
    "BIG-5": "big5",
    "KS X 1001": "euc-kr",
    "ISO IR149": "euc-kr",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_2",
}


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

    @property
    def encoding_characters(self) -> bytes:
        """MSH-2 as the sender wrote it."""
        return self.component + self.repetition + self.escape + self.subcomponent + self.truncation


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

    def text(self, raw: bytes) -> str:
        """A value decoded and its escapes resolved (2.7); the HL7 null ``""`` becomes empty."""
        if not raw or raw == b'""':
            return ""
        text = raw[:_LONGEST_TEXT].decode(self.encoding, "replace").strip()
        return unescape(text, self.delimiters) if self.delimiters.escape in raw else text

    def component(self, segment: Segment, field: int, component: int = 1, sub: int = 1) -> str:
        """One subcomponent of the field's first repetition as text."""
        parts = segment.component(field, component).split(self.delimiters.subcomponent)
        return self.text(parts[sub - 1]) if sub <= len(parts) else ""


def parse(data: bytes) -> Message:
    """Split a message into segments.

    CR ends a segment (2.5.2); where a message has no CR at all, LF does, and LF beside CR is ignored.

    Raises:
        HL7Error: there is no MSH, its delimiters are not usable, or its character set is unknown.
    """
    data = data.lstrip(b"\x00\r\n \t\xef\xbb\xbf")
    if not data.startswith(b"MSH") or len(data) < 8:
        raise HL7Error("no_header", "the message does not begin with MSH; send one HL7 v2 message per frame", code=100,
                       location="MSH^1", reject=True)  # fmt: skip
    delimiters = _delimiters(data)
    data, encoding, fault = _decoded(data, delimiters)
    end = b"\r" if b"\r" in data else b"\n"
    lines = data.split(end, _MOST_SEGMENTS + 1)
    if len(lines) > _MOST_SEGMENTS + 1:
        text = f"the message has more than {_MOST_SEGMENTS} segments; send shorter ones"
        raise HL7Error("too_many_rows", text, code=207, reject=True)
    counts: dict[bytes, int] = {}
    segments: list[Segment] = []
    for line in lines:
        raw = line.strip(b"\n\x00")
        if len(raw) >= 3:
            name = raw[:3]
            counts[name] = counts.get(name, 0) + 1
            segments.append(Segment(raw, delimiters, counts[name]))
    return Message(delimiters, tuple(segments), encoding, fault)


def unescape(text: str, delimiters: Delimiters) -> str:
    r"""Resolve ``\F\ \S\ \T\ \R\ \E\ \P\ \Xdd..\ \.br\``; drop highlighting and what is not known (2.7)."""
    escape = delimiters.escape.decode("latin-1")
    plain = {
        "F": delimiters.field.decode("latin-1"),
        "S": delimiters.component.decode("latin-1"),
        "T": delimiters.subcomponent.decode("latin-1"),
        "R": delimiters.repetition.decode("latin-1"),
        "E": escape,
        "P": delimiters.truncation.decode("latin-1"),
        ".br": "\n",
    }
    parts = text.split(escape)
    out = [parts[0]]
    index = 1
    while index < len(parts):
        if index + 1 == len(parts):  # an escape character that nothing closes stands for itself
            out += [escape, parts[index]]
            break
        token = parts[index]
        if token in plain:
            out.append(plain[token])
        elif token[:1] == "X" and len(token) % 2 == 1 and _HEX.match(token[1:]):
            out.append(bytes.fromhex(token[1:]).decode("latin-1"))
        out.append(parts[index + 1])
        index += 2
    return "".join(out)


def escape(text: str, delimiters: Delimiters) -> bytes:
    """A text made safe for any field, as UTF-8; control characters become blanks."""
    mark = delimiters.escape.decode("latin-1")
    names = {
        delimiters.field.decode("latin-1"): "F",
        delimiters.component.decode("latin-1"): "S",
        delimiters.subcomponent.decode("latin-1"): "T",
        delimiters.repetition.decode("latin-1"): "R",
        mark: "E",
    }
    out = [f"{mark}{names[c]}{mark}" if c in names else (c if c >= " " else " ") for c in text]
    return "".join(out).encode()


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
    """Epoch seconds as a DTM in UTC with milliseconds."""
    m = datetime.fromtimestamp(round(seconds, 3), UTC)
    # Not strftime: it takes twice as long, and whether %Y has four digits is the system's affair.
    return b"%04d%02d%02d%02d%02d%02d.%03d+0000" % (
        m.year, m.month, m.day, m.hour, m.minute, m.second, m.microsecond // 1000
    )  # fmt: skip


def _delimiters(data: bytes) -> Delimiters:
    field = data[3:4]
    characters = re.split(rb"[\r\n]", data[4:12].split(field, 1)[0], maxsplit=1)[0]
    padded = characters + b"^~\\&"[len(characters) :]
    marks = [field, *(padded[i : i + 1] for i in range(min(len(padded), 5)))]
    if len(set(marks)) != len(marks) or any(m.isalnum() or not 0x20 < m[0] < 0x7F or m in b'"-+.' for m in marks):
        raise HL7Error("delimiters", "MSH-1 and MSH-2 do not name distinct delimiters; the usual ones are |^~\\&",
                       code=102, location="MSH^1^2", reject=True)  # fmt: skip
    return Delimiters(marks[0], marks[1], marks[2], marks[3], marks[4], marks[5] if len(marks) > 5 else b"")


def _decoded(data: bytes, delimiters: Delimiters) -> tuple[bytes, str, str]:
    """The bytes in a set that is safe to split, the set's name, and what was wrong with the declaration."""
    first_line = re.split(rb"[\r\n]", data, maxsplit=1)[0]
    fields = first_line.split(delimiters.field, 18)
    field = fields[17][:_LONGEST_TEXT] if len(fields) > 17 else b""
    declared = field.split(delimiters.repetition, 1)[0].strip().decode("latin-1")
    name = declared.upper().replace("ISO-8859-", "8859/").replace("ISO8859-", "8859/").replace("ISO 8859-", "8859/")
    if name in _MULTI_BYTE:
        try:
            return data.decode(_MULTI_BYTE[name]).encode(), "utf-8", ""
        except UnicodeDecodeError:
            return data, "latin-1", f"MSH-18 says {name}, but the bytes are not"
    if name and name not in _SINGLE_BYTE:
        raise HL7Error("charset", "MSH-18 names a character set that is not known here; send UNICODE UTF-8", code=103,
                       location="MSH^1^18", reject=True)  # fmt: skip
    # Empty means ASCII by table 0211, but monitors send names in UTF-8 or Latin-1 without saying so.
    encoding = _SINGLE_BYTE[name] if name else "utf-8"
    if data.isascii():
        return data, encoding, ""
    for candidate in dict.fromkeys((encoding, "utf-8")):
        try:
            data.decode(candidate)
        except UnicodeDecodeError:
            continue
        fault = "" if candidate == encoding else f"MSH-18 says {name}, but the bytes are UTF-8"
        return data, candidate, fault
    return data, "latin-1", f"MSH-18 says {name or 'nothing'}, but the bytes are not UTF-8; read as 8859/1"
