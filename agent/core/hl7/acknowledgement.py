"""Acknowledgements: which codes a message is due, and the ACK with its ERR segments, spoken as the sender speaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from agent.core.hl7.message import STANDARD, Delimiters, Fields, HL7Error, Message, components, dtm, escape, write
from agent.core.hl7.segments import ERR, MSA, MSH

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
        return self.raw(MSH.CONTROL_ID)

    def raw(self, field: int) -> bytes:
        """A field of MSH as it came; empty where MSH ends before it."""
        return self.fields[field] if field < len(self.fields) else b""

    @property
    def enhanced(self) -> bool:
        """Whether the sender asked for enhanced mode: MSH-15 or MSH-16 is there (2.9.3)."""
        return bool(self.accept or self.acknowledge)


def header_of(message: Message) -> Header:
    """The header's parts as text."""
    msh = message.msh
    return Header(
        delimiters=message.delimiters,
        application=message.component(msh, MSH.SENDING_APPLICATION),
        facility=message.component(msh, MSH.SENDING_FACILITY),
        message_type=message.component(msh, MSH.TYPE),
        event=message.component(msh, MSH.TYPE, 2),
        accept=message.component(msh, MSH.ACCEPT_ACKNOWLEDGEMENT).upper(),
        acknowledge=message.component(msh, MSH.APPLICATION_ACKNOWLEDGEMENT).upper(),
        version=message.component(msh, MSH.VERSION),
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
    marks = header.delimiters if header else STANDARD

    def echo(field: int) -> bytes:
        return header.raw(field)[:_LONGEST_ECHO] if header else b""

    event = header.event[:16] if header else ""
    version = echo(MSH.VERSION) or b"2.6"
    modern = not version.startswith((b"2.1", b"2.2", b"2.3", b"2.4"))
    msh: Fields = {
        MSH.SENDING_APPLICATION: echo(MSH.RECEIVING_APPLICATION),
        MSH.SENDING_FACILITY: echo(MSH.RECEIVING_FACILITY),
        MSH.RECEIVING_APPLICATION: echo(MSH.SENDING_APPLICATION),
        MSH.RECEIVING_FACILITY: echo(MSH.SENDING_FACILITY),
        MSH.TIME: dtm(created),
        MSH.TYPE: components("ACK", event, "ACK", marks=marks) if event else b"ACK",
        MSH.CONTROL_ID: escape(control_id, marks),
        MSH.PROCESSING_ID: echo(MSH.PROCESSING_ID) or b"P",
        MSH.VERSION: version,
    }
    msa: Fields = {
        MSA.CODE: code.encode(),
        MSA.CONTROL_ID: echo(MSH.CONTROL_ID),
        MSA.TEXT: escape(errors[0].text[:80], marks) if errors and not modern else None,
    }
    severity = b"W" if code in {"AA", "CA"} else b"E"
    err = _err if modern else _err_until_2_4
    return write([(MSH, msh), (MSA, msa), *((ERR, err(e, marks, severity)) for e in errors[:_MOST_ERRORS])], marks)


def _err(error: HL7Error, marks: Delimiters, severity: bytes) -> Fields:
    return {
        ERR.LOCATION: components(*error.location.split("^"), marks=marks),
        ERR.CODE: components(str(error.code), ERROR_TEXTS.get(error.code, ""), "HL70357", marks=marks),
        ERR.SEVERITY: severity,
        ERR.USER_MESSAGE: escape(error.text, marks),
    }


def _err_until_2_4(error: HL7Error, marks: Delimiters, _severity: bytes) -> Fields:
    """ERR-1 is segment, sequence, field and code; the code a CE in subcomponents."""
    location = [escape(part, marks) for part in (*error.location.split("^"), "", "", "")[:3]]
    code = [escape(part, marks) for part in (str(error.code), ERROR_TEXTS.get(error.code, ""), "HL70357")]
    return {ERR.CODE_AND_LOCATION: marks.component.join((*location, marks.subcomponent.join(code)))}


def _due(condition: str, good: bool) -> bool:
    """Table 0155; an empty condition in enhanced mode is NE."""
    return condition == "AL" or (condition == "SU" and good) or (condition == "ER" and not good)
