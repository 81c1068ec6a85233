"""Acknowledgements: which codes a message is due, and the ACK with its ERR segments, spoken as the sender speaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from agent.core.hl7.message import Delimiters, HL7Error, Message, dtm, escape

Verdict = Literal["AA", "AE", "AR"]

# HL7 table 0357.
ERROR_TEXTS: Final = {
    100: "Segment sequence error",
    101: "Required field missing",
    102: "Data type error",
    103: "Table value not found",
    200: "Unsupported message type",
    201: "Unsupported event code",
    203: "Unsupported version id",
    204: "Unknown key identifier",
    207: "Application internal error",
}
_MOST_ERRORS: Final = 16
"""ERR segments in one acknowledgement."""
_LONGEST_ECHO: Final = 512
"""Bytes of a header field that an acknowledgement repeats."""


@dataclass(frozen=True, slots=True)
class Header:
    """What of MSH the acknowledgement and the sender's rights are made of."""

    delimiters: Delimiters
    application: str
    """MSH-3.1."""
    facility: str
    """MSH-4.1."""
    message_type: str
    event: str
    accept: str
    """MSH-15: AL, NE, ER, SU or empty."""
    acknowledge: str
    """MSH-16."""
    version: str
    fields: tuple[bytes, ...]
    """MSH as it came, raw."""

    @property
    def control_id(self) -> bytes:
        """MSH-10, raw."""
        return self.fields[10] if len(self.fields) > 10 else b""

    @property
    def enhanced(self) -> bool:
        """Whether the sender asked for enhanced mode: MSH-15 or MSH-16 is there (2.9.3)."""
        return bool(self.accept or self.acknowledge)


def header_of(message: Message) -> Header:
    """The header's parts as text."""
    msh = message.msh
    return Header(
        delimiters=message.delimiters,
        application=message.component(msh, 3),
        facility=message.component(msh, 4),
        message_type=message.component(msh, 9),
        event=message.component(msh, 9, 2),
        accept=message.component(msh, 15).upper(),
        acknowledge=message.component(msh, 16).upper(),
        version=message.component(msh, 12),
        fields=tuple(msh.fields),
    )


def answers(header: Header, verdict: Verdict) -> tuple[str, ...]:
    """The MSA-1 codes to send, in order: one in original mode; commit and application codes in enhanced mode (2.9.3).

    A sender that asks for the commit code alone (AL, NE as IHE's device profile says) learns of an error by CE or CR
    there, for it would never learn of it otherwise.
    """
    if not header.enhanced:
        return (verdict,)
    good = verdict == "AA"
    if verdict == "AR":  # refused at the commit: nothing follows it
        if _due(header.accept, good=False):
            return ("CR",)
        return ("AR",) if _due(header.acknowledge, good=False) else ()
    application = (verdict,) if _due(header.acknowledge, good) else ()
    commit = "CA" if good or application else "CE"
    return (*((commit,) if _due(header.accept, commit == "CA") else ()), *application)


def acknowledge(
    header: Header | None, code: str, *, control_id: str, created: float, errors: Sequence[HL7Error] = ()
) -> bytes:
    """The ACK message, in the sender's delimiters and version.

    Args:
        header: of the message that is answered; None where it had none that could be read (MSA-2 is then empty).
        code: MSA-1.
        control_id: MSH-10 of the acknowledgement itself.
        created: epoch seconds.
        errors: one ERR segment each; with AA or CA they are warnings.
    """
    marks = header.delimiters if header else Delimiters()
    fields = header.fields if header else ()
    f, c = marks.field, marks.component

    def msh(number: int) -> bytes:
        return fields[number][:_LONGEST_ECHO] if number < len(fields) else b""

    event = escape(header.event[:16], marks) if header else b""
    kind = c.join((b"ACK", event, b"ACK")) if event else b"ACK"
    version = msh(12) or b"2.6"
    head = [b"MSH", marks.encoding_characters, msh(5), msh(6), msh(3), msh(4), dtm(created), b"", kind,
            escape(control_id, marks), msh(11) or b"P", version]  # fmt: skip
    segments = [f.join(head)]
    modern = not version.startswith((b"2.1", b"2.2", b"2.3", b"2.4"))
    msa = [b"MSA", code.encode(), msh(10)]
    if not modern and errors:
        msa.append(escape(errors[0].text, marks)[:80])  # MSA-3, withdrawn in 2.7
    segments.append(f.join(msa))
    severity = b"W" if code in {"AA", "CA"} else b"E"
    for error in errors[:_MOST_ERRORS]:
        segments.append(_err(error, marks, severity, modern=modern))
    return b"\r".join(segments) + b"\r"


def _err(error: HL7Error, marks: Delimiters, severity: bytes, *, modern: bool) -> bytes:
    f, c, s = marks.field, marks.component, marks.subcomponent
    location = c.join(error.location.encode().split(b"^"))
    number, meaning = str(error.code).encode(), escape(ERROR_TEXTS.get(error.code, ""), marks)
    if modern:  # v2.5 and later: ERR-2 location, ERR-3 code, ERR-4 severity, ERR-8 user message
        code = c.join((number, meaning, b"HL70357"))
        return f.join((b"ERR", b"", location, code, severity, b"", b"", b"", escape(error.text, marks)))
    # until v2.4: ERR-1 is segment^sequence^field^code, the code a CE in subcomponents
    parts = [*error.location.encode().split(b"^"), b"", b"", b""][:3]
    return f.join((b"ERR", c.join((*parts, s.join((number, meaning, b"HL70357"))))))


def _due(condition: str, good: bool) -> bool:
    """Table 0155; an empty condition in enhanced mode is NE."""
    return condition == "AL" or (condition == "SU" and good) or (condition == "ER" and not good)
