r"""Alerts as HL7: IHE PCD-04 (Report Alert, ORU^R40^ORU_R40, HL7 v2.6), the watchdog, and acknowledgements. Pure.

One message is one event in the life of one alert. Its facets are OBX segments whose OBX-4 ends in ``.1`` to ``.7``:
event, source, phase, state, inactivation, priority, type; ``.8`` is our own, the model's probability.

What is sent as what:

- A finding is of type SP (physiological) with its own priority, so that the receiver shows and sorts it by that; its
  text says that it is advisory. With ``advisory = true`` every finding goes out as SA with priority PN instead, and the
  receiver shows none of them as an alarm. A finding of priority PN is SA in either case (PCD-04: SA goes with PN).
- Lost ECG is of type ST in the technical form: OBX-3 of facet 1 is MDC_EVT_ALARM, the condition stands in OBX-5.
- A finding without a standard code goes out in the private form, in our own code space (`PRIVATE_BASE`).
- A message is the same bytes at every attempt: all its times are the alert's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.core.alerting.technical import TECHNICAL
from agent.core.ecg import Alert, Encounter, Phase, Priority
from agent.core.errors import DeepECGError
from agent.core.labels import index_of

PRIVATE_BASE = 258048
"""ISO/IEEE 11073-10101 leaves the terms from 0xF000 of every partition to private use; partition 3 holds events. A
label of the table is ``PRIVATE_BASE`` + its position; any other is `PRIVATE_OTHER`, told by its text."""
PRIVATE_OTHER = PRIVATE_BASE + 0xFFF

_MDS = "69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC"
_EVENT = "196616^MDC_EVT_ALARM^MDC"
_SECONDS = "264320^MDC_DIM_X_SEC^MDC^s^s^UCUM"
_CHANNEL = "1.1.1.1"
_ST_LEADS = {1: "I", 2: "II", 61: "III", 62: "AVR", 63: "AVL", 64: "AVF"} | {n + 2: f"V{n}" for n in range(1, 7)}
SOURCES = {131328: "MDC_ECG_ELEC_POTL"} | {131840 + n: f"MDC_ECG_AMPL_ST_{lead}" for n, lead in _ST_LEADS.items()}
"""Reference ids of the metrics that our alerts are about: the ECG, and the ST amplitude of a lead."""

_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}


class Hl7AlertSettings(BaseModel):
    """What our messages call themselves and what they ask of the receiver. Fields of several components: ``a^b^c``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    sending_application: str = "DEEPECG"
    """MSH-3, and the reporter in OBR-2 and OBR-3; `name^EUI-64^EUI-64` where you have one."""
    sending_facility: str = ""
    """MSH-4."""
    receiving_application: str = ""
    """MSH-5."""
    receiving_facility: str = ""
    """MSH-6."""
    processing_id: Literal["P", "T", "D"] = "P"
    """MSH-11: production, training or debugging."""
    accept_acknowledgement: Literal["AL", "NE", "ER", "SU"] = "AL"
    """MSH-15; PCD-04 asks for AL."""
    application_acknowledgement: Literal["AL", "NE", "ER", "SU"] = "NE"
    """MSH-16; PCD-04 asks for NE. Delivery needs one acknowledgement: not both NE."""
    profile: str = "IHE_PCD_ACM_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.4.1^ISO"
    """MSH-21. Some receivers want `1.3.6.1.4.1.19376.1.6.4.4` as the third component."""
    private_oid: str = Field(default="", pattern=r"^[0-9.]*$")
    """Your organisation's OID for the codes of findings that the standard has none for; empty: `99DEEPECG`."""
    advisory: bool = False
    """Send every finding as type SA, priority PN, so that the receiver never shows it as an alarm."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What a receiver answered."""

    code: str
    """MSA-1: AA, AE, AR (original mode, or application level), CA, CE, CR (commit level)."""
    message_id: str
    """MSA-2: the MSH-10 that it answers."""
    error: str = ""
    """ERR-3.1, an HL7 table 0357 code as ``207``; empty where none. May be logged."""
    text: str = ""
    """ERR-8, ERR-7 or MSA-3. May repeat patient data: never logged."""

    @property
    def accepted(self) -> bool:
        """AA and CA: the receiver has it (PCD-04 receivers send either)."""
        return self.code in {"AA", "CA"}


class AcknowledgementError(DeepECGError, ValueError):
    """What came back is no acknowledgement; one sentence, free of patient data."""


def message_from_alert(alert: Alert, settings: Hl7AlertSettings) -> bytes:
    """The ORU^R40 of one message of an alert: UTF-8, CR after every segment, no MLLP frame.

    MSH-10 is ``message_id``. OBR-3 is ``alert_id`` in the first message and ``message_id`` in later ones, whose OBR-29
    then names the first: a receiver that goes by MSH-10, by OBR-3, or by OBR-29 finds what belongs together.
    """
    reporter = settings.sending_application
    technical = alert.label in TECHNICAL
    first = alert.phase is Phase.START
    equipment = f"{_escape(alert.device)}^{_escape(alert.bed)}"
    if technical:
        kind, priority = "ST", alert.priority
    elif settings.advisory or alert.priority is Priority.NONE:
        kind, priority = "SA", Priority.NONE
    else:
        kind, priority = "SP", alert.priority
    event, source = _event(alert, settings), _source(alert.source_code)
    time = _time(alert.time)
    body = _Observations(equipment)
    body.add("", _MDS, "1.0.0.0", status="X")
    flags = f"A~{priority}~{kind}" if alert.active else f"N~{priority}~{kind}"
    if technical:
        text = f"{event}{'^' * (8 - event.count('^'))}{_escape(alert.text)}"  # CWE-9, the original text
        body.add("CWE", _EVENT, f"{_CHANNEL}.1", text, flags=flags, time=time)
        body.add("CWE", "68480^MDC_ATTR_ALERT_SOURCE^MDC", f"{_CHANNEL}.2", source)
    else:
        body.add("ST", event, f"{_CHANNEL}.1", _escape(alert.text), flags=flags, time=time)
        body.add("NM", source, f"{_CHANNEL}.2")  # the network measures nothing, so there is no value
    body.facets(_CHANNEL, alert.phase, active=alert.active, priority=priority, kind=kind)
    if alert.probability is not None:
        limit = "" if alert.threshold is None else f"<{alert.threshold:.4f}"
        model = f"0^DEEPECG_PROBABILITY^99DEEPECG^{_escape(alert.model)}^{_escape(alert.label)}^99DEEPECG"
        body.add("NM", model, f"{_CHANNEL}.8", f"{alert.probability:.4f}", limits=limit)
    own = f"{alert.alert_id if first else alert.message_id}^{reporter}"
    segments = [
        _header(alert.message_id, alert.created, settings),
        *_patient(alert.encounter, alert.bed),
        _observation_request(reporter, own, alert.created, "" if first else alert.alert_id),
        *body.segments,
    ]
    return _encode(segments)


def watchdog_message(
    message_id: str, watchdog_id: str, phase: Phase, created: float, timeout: float, settings: Hl7AlertSettings
) -> bytes:
    """The agent's sign of life (258047 MDC_EVT_ACTIVE, priority PN); phase ``end`` is the last one of a planned stop.

    ``timeout`` seconds is how long the sender waits for each acknowledgement (67860 MDC_ATTR_CONFIRM_TIMEOUT);
    ``watchdog_id`` is the id of the first message of this life of the agent.
    """
    reporter = settings.sending_application
    first = phase is Phase.START
    body = _Observations(reporter)
    body.add("", _MDS, "1.0.0.0", status="X")
    body.add("ST", "258047^MDC_EVT_ACTIVE^MDC", "1.0.0.0.1", "Advisory ECG agent watchdog", time=_time(created))
    body.add("ST", "68480^MDC_ATTR_ALERT_SOURCE^MDC", "1.0.0.0.2")
    body.facets("1.0.0.0", phase, active=phase is not Phase.END, priority=Priority.NONE, kind="SA")
    body.add("NM", "67860^MDC_ATTR_CONFIRM_TIMEOUT^MDC", "1.0.0.0.8", f"{timeout:g}", unit=_SECONDS)
    own = f"{watchdog_id if first else message_id}^{reporter}"
    segments = [
        _header(message_id, created, settings),
        _observation_request(reporter, own, created, "" if first else watchdog_id),
        *body.segments,
    ]
    return _encode(segments)


def parse_acknowledgement(message: bytes) -> Acknowledgement:
    """Read ACK, ACK^R40, ORA^R41 or whatever else carries an MSA; CR, LF or both between segments.

    Raises:
        AcknowledgementError: no MSH, no MSA, or an MSA-1 that HL7 does not know.
    """
    segments = segments_from_message(message)
    answer = next((segment for segment in segments if segment[0] == "MSA"), None)
    if answer is None or len(answer) < 3:
        raise AcknowledgementError("the answer has no MSA segment with two fields; is the port an alert receiver's?")
    code = answer[1].strip()
    if code not in {"AA", "AE", "AR", "CA", "CE", "CR"}:
        raise AcknowledgementError(
            "the answer's MSA-1 is none of AA, AE, AR, CA, CE, CR; look at the receiver's set-up"
        )
    error = next((segment for segment in segments if segment[0] == "ERR"), [])
    named = error[3].split("^")[0] if len(error) > 3 else ""
    texts = (*(error[n] for n in (8, 7) if len(error) > n), *answer[3:4])
    return Acknowledgement(
        code=code,
        message_id=answer[2].strip(),
        error=named if named.isascii() and named.isalnum() and len(named) <= 8 else "",
        text=next((text for text in texts if text), ""),
    )


def segments_from_message(message: bytes) -> list[list[str]]:
    """The segments as lists of fields, so that ``segment[n]`` is field n (of MSH too: MSH-1 is its separator).

    For small messages: bad UTF-8 becomes U+FFFD; components are left alone but brought to ``^~\\&`` as delimiters.

    Raises:
        AcknowledgementError: it does not begin with MSH and its delimiters.
    """
    text = message.decode("utf-8", "replace").replace("\r\n", "\r").replace("\n", "\r").lstrip("\r \0")
    if not text.startswith("MSH") or len(text.split("\r", 1)[0]) < 8:
        raise AcknowledgementError("what came is not HL7: it does not begin with MSH; look at the receiver's port")
    separator = text[3]
    encoding = text[4 : text.index(separator, 4)] if separator in text[4:] else text[4:8]
    known = {theirs: ours for theirs, ours in zip(encoding, "^~\\&", strict=False) if theirs != ours}
    out = []
    for line in filter(None, text.split("\r")):
        fields = line.split(separator)
        if known:
            table = str.maketrans(known)
            fields = [fields[0], *(field.translate(table) for field in fields[1:])]
        if fields[0] == "MSH":
            fields.insert(1, separator)
        out.append(fields)
    return out


class _Observations:
    """OBX segments, numbered."""

    def __init__(self, equipment: str) -> None:
        self._equipment = equipment
        self.segments: list[str] = []

    def add(
        self,
        kind: str,
        identifier: str,
        sub_id: str,
        value: str = "",
        *,
        unit: str = "",
        limits: str = "",
        flags: str = "",
        status: str = "R",
        time: str = "",
    ) -> None:
        number = len(self.segments) + 1
        equipment = self._equipment if status == "X" or time else ""
        fields = ["OBX", str(number), kind, identifier, sub_id, value, unit, limits, flags, "", "", status]
        fields += ["", "", time, "", "", "", equipment]
        self.segments.append("|".join(fields).rstrip("|"))

    def facets(self, path: str, phase: Phase, *, active: bool, priority: Priority, kind: str) -> None:
        self.add("ST", "68481^MDC_ATTR_EVENT_PHASE^MDC", f"{path}.3", phase.value)
        self.add("ST", "68482^MDC_ATTR_ALARM_STATE^MDC", f"{path}.4", "active" if active else "inactive")
        self.add("ST", "68483^MDC_ATTR_ALARM_INACTIVATION_STATE^MDC", f"{path}.5", "enabled")
        self.add("ST", "68484^MDC_ATTR_ALARM_PRIORITY^MDC", f"{path}.6", priority.value)
        self.add("ST", "68485^MDC_ATTR_ALERT_TYPE^MDC", f"{path}.7", kind)


def _header(message_id: str, created: float, s: Hl7AlertSettings) -> str:
    return "|".join(
        [
            "MSH",
            "^~\\&",
            s.sending_application,
            s.sending_facility,
            s.receiving_application,
            s.receiving_facility,
            _time(created),
            "",
            "ORU^R40^ORU_R40",
            _escape(message_id),
            s.processing_id,
            "2.6",
            "",
            "",
            s.accept_acknowledgement,
            s.application_acknowledgement,
            "",
            "UNICODE UTF-8",
            "",
            "",
            s.profile,
        ]
    )


def _patient(encounter: Encounter | None, bed: str) -> tuple[str, str]:
    """PID and PV1. An unknown patient has no PID-3 and the name type U; the location is then the agent's own bed id."""
    who = encounter or Encounter()
    name = f"{_escape(who.family_name)}^{_escape(who.given_name)}^^^^^L"
    if not who.family_name and not who.given_name:
        name = "^^^^^^U"
    ids = "~".join(_escape(one, keep="^&") for one in who.patient_ids)
    pid = ["PID", "1", "", ids, "", name, "", _escape(who.birth_date), _escape(who.sex)]
    location = _escape(who.location, keep="^&") or _location(bed)
    pv1 = ["PV1", "1", "U", location, *[""] * 15, _escape(who.visit, keep="^&")]
    return "|".join(pid).rstrip("|"), "|".join(pv1).rstrip("|")


def _location(bed: str) -> str:
    """``site/unit/bed`` as PV1-3, point of care ^ room ^ bed ^ facility."""
    match bed.split("/"):
        case [site, unit, *rest] if rest:
            return f"{_escape(unit)}^^{_escape('/'.join(rest))}^{_escape(site)}"
        case _:
            return f"^^{_escape(bed)}"


def _observation_request(reporter: str, own: str, created: float, first: str) -> str:
    fields = ["OBR", "1", reporter, own, _EVENT, "", "", _time(created)]
    if first:
        # OBR-29 is of type EIP: the parent's filler number is its second component, an EI of subcomponents.
        fields += [*[""] * 21, f"^{first}&{reporter.replace('^', '&')}"]
    return "|".join(fields)


def _event(alert: Alert, settings: Hl7AlertSettings) -> str:
    if alert.code:
        return f"{alert.code}^{alert.ref_id}^MDC"
    try:
        code = PRIVATE_BASE + index_of(alert.label)
    except KeyError:
        code = PRIVATE_OTHER
    system = f"urn:oid:{settings.private_oid}" if settings.private_oid else "99DEEPECG"
    return f"{code}^MDC_PRIVATE_{code}^MDC^{code}^{_escape(alert.label)}^{system}"


def _source(code: int) -> str:
    return f"{code}^{SOURCES[code]}^MDC" if code in SOURCES else f"{code}^^MDC" if code else _source(131328)


def _time(seconds: float) -> str:
    """HL7 DTM with milliseconds and zone, in UTC; empty where a device's clock makes no date."""
    try:
        time = datetime.fromtimestamp(round(seconds, 3), UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return f"{time:%Y%m%d%H%M%S}.{time.microsecond // 1000:03d}+0000" if time.year >= 1000 else ""


def _escape(text: str, keep: str = "") -> str:
    """HL7 escapes for delimiters (but those in ``keep``) and control characters, MLLP's frame bytes among them."""
    out = []
    for c in text:
        if c in _ESCAPES and c not in keep:
            out.append(_ESCAPES[c])
        elif c < " " or c == "\x7f":
            out.append(f"\\X{ord(c):02X}\\")
        else:
            out.append(c)
    return "".join(out)


def _encode(segments: list[str]) -> bytes:
    return ("\r".join(segments) + "\r").encode("utf-8", "replace")
