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
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.core.ecg import Alert, Encounter, Phase, Priority
from agent.core.errors import DeepECGError
from agent.core.hl7.alarm import EVENT, INACTIVATION, MDC_EVT_ACTIVE, PHASE, PRIORITY, SOURCE, STATE, TYPE, Facet
from agent.core.hl7.message import Fields, HL7Error, components, dtm, escape, from_component_form, parse, write
from agent.core.hl7.segments import ERR, MSA, MSH, OBR, OBX, PID, PV1
from agent.core.labels import index_of
from agent.core.nomenclature import ECG_ELEC_POTL, SOURCES

PRIVATE_BASE = 258048
"""ISO/IEEE 11073-10101 leaves the terms from 0xF000 of every partition to private use; partition 3 holds events. A
label of the table is ``PRIVATE_BASE`` + its position; any other is `PRIVATE_OTHER`, told by its text."""
PRIVATE_OTHER = PRIVATE_BASE + 0xFFF

_MDS: Final = components("69965", "MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS", "MDC")
_SECONDS: Final = components("264320", "MDC_DIM_X_SEC", "MDC", "s", "s", "UCUM")
_DEVICE: Final = "1.0.0.0"
_CHANNEL: Final = "1.1.1.1"
_PROBABILITY: Final = 8
_CONFIRM_TIMEOUT: Final = 8
_CODES: Final = frozenset({"AA", "AE", "AR", "CA", "CE", "CR"})


class Hl7AlertSettings(BaseModel):
    """What our messages call themselves and what they ask of the receiver. Fields of several components: ``a^b^c``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    if alert.technical:
        kind, priority = "ST", alert.priority
    elif settings.advisory or alert.priority is Priority.NONE:
        kind, priority = "SA", Priority.NONE
    else:
        kind, priority = "SP", alert.priority
    event, source = _event(alert, settings), _source(alert.source_code)
    rows = _Observations(components(alert.device, alert.bed))
    rows.add("", _MDS, _DEVICE, status="X")
    said: Fields = {
        OBX.FLAGS: f"{'A' if alert.active else 'N'}~{priority}~{kind}".encode(),
        OBX.TIME: dtm(alert.time),
    }
    if alert.technical:
        # CWE: the condition's own code, and in the ninth component the original text.
        value = components(*event, *[""] * (8 - len(event)), alert.text)
        rows.add("CWE", _coded(EVENT), f"{_CHANNEL}.{EVENT.number}", value, said)
        rows.add("CWE", _coded(SOURCE), f"{_CHANNEL}.{SOURCE.number}", source)
    else:
        rows.add("ST", components(*event), f"{_CHANNEL}.{EVENT.number}", escape(alert.text), said)
        rows.add("NM", source, f"{_CHANNEL}.{SOURCE.number}")  # the network measures nothing, so there is no value
    rows.facets(_CHANNEL, alert.phase, active=alert.active, priority=priority, kind=kind)
    if alert.probability is not None:
        model = components("0", "DEEPECG_PROBABILITY", "99DEEPECG", alert.model, alert.label, "99DEEPECG")
        limit = None if alert.threshold is None else f"<{alert.threshold:.4f}".encode()
        value = f"{alert.probability:.4f}".encode()
        rows.add("NM", model, f"{_CHANNEL}.{_PROBABILITY}", value, {OBX.RANGE: limit})
    return write(
        [
            (MSH, _header(alert.message_id, alert.created, settings)),
            (PID, _patient(alert.encounter or Encounter())),
            (PV1, _visit(alert.encounter or Encounter(), alert.bed)),
            (OBR, _order(alert.alert_id, alert.message_id, alert.phase, alert.created, settings)),
            *rows.segments,
        ]
    )


def watchdog_message(
    message_id: str, watchdog_id: str, phase: Phase, created: float, timeout: float, settings: Hl7AlertSettings
) -> bytes:
    """The agent's sign of life (258047 MDC_EVT_ACTIVE, priority PN); phase ``end`` is the last one of a planned stop.

    ``timeout`` seconds is how long the sender waits for each acknowledgement (67860 MDC_ATTR_CONFIRM_TIMEOUT);
    ``watchdog_id`` is the id of the first message of this life of the agent.
    """
    rows = _Observations(from_component_form(settings.sending_application))
    rows.add("", _MDS, _DEVICE, status="X")
    active = components(str(MDC_EVT_ACTIVE), "MDC_EVT_ACTIVE", "MDC")
    text = b"Advisory ECG agent watchdog"
    rows.add("ST", active, f"{_DEVICE}.{EVENT.number}", text, {OBX.TIME: dtm(created)})
    rows.add("ST", _coded(SOURCE), f"{_DEVICE}.{SOURCE.number}")
    rows.facets(_DEVICE, phase, active=phase is not Phase.END, priority=Priority.NONE, kind="SA")
    confirm = components("67860", "MDC_ATTR_CONFIRM_TIMEOUT", "MDC")
    rows.add("NM", confirm, f"{_DEVICE}.{_CONFIRM_TIMEOUT}", f"{timeout:g}".encode(), {OBX.UNITS: _SECONDS})
    return write(
        [
            (MSH, _header(message_id, created, settings)),
            (OBR, _order(watchdog_id, message_id, phase, created, settings)),
            *rows.segments,
        ]
    )


def parse_acknowledgement(message: bytes) -> Acknowledgement:
    """Read ACK, ACK^R40, ORA^R41 or whatever else carries an MSA; CR, LF or both between segments.

    Raises:
        AcknowledgementError: no MSH, no MSA, or an MSA-1 that HL7 does not know.
    """
    try:
        # Whatever an answer's set and line ends are, its codes are ASCII and its texts have no lines.
        parsed = parse(message.replace(b"\n", b"\r"), any_charset=True)
    except HL7Error as error:
        raise AcknowledgementError(f"what came is not HL7: {error}; look at the receiver's port") from None
    answer, error_row = parsed.first(b"MSA"), parsed.first(b"ERR")
    if answer is None or len(answer.fields) <= MSA.CONTROL_ID:
        raise AcknowledgementError("the answer has no MSA segment with two fields; is the port an alert receiver's?")
    code = parsed.text(answer.raw(MSA.CODE))
    if code not in _CODES:
        raise AcknowledgementError(
            "the answer's MSA-1 is none of AA, AE, AR, CA, CE, CR; look at the receiver's set-up"
        )
    named = parsed.component(error_row, ERR.CODE) if error_row else ""
    texts = [parsed.text(error_row.raw(field)) for field in (ERR.USER_MESSAGE, ERR.DIAGNOSTIC)] if error_row else []
    return Acknowledgement(
        code=code,
        message_id=parsed.text(answer.raw(MSA.CONTROL_ID)),
        error=named if named.isascii() and named.isalnum() and len(named) <= 8 else "",
        text=next(filter(None, [*texts, parsed.text(answer.raw(MSA.TEXT))]), ""),
    )


class _Observations:
    """OBX segments, numbered."""

    def __init__(self, equipment: bytes) -> None:
        self._equipment = equipment
        self.segments: list[tuple[type[OBX], Fields]] = []

    def add(
        self,
        kind: str,
        identifier: bytes,
        sub_id: str,
        value: bytes | None = None,
        more: Fields | None = None,
        *,
        status: str = "R",
    ) -> None:
        """One row; the device (``X``) and what has a time of its own also name the equipment."""
        fields: Fields = {
            OBX.SET_ID: str(len(self.segments) + 1).encode(),
            OBX.VALUE_TYPE: kind.encode(),
            OBX.OBSERVATION: identifier,
            OBX.SUB_ID: sub_id.encode(),
            OBX.VALUE: value,
            OBX.STATUS: status.encode(),
        } | (more or {})
        if status == "X" or fields.get(OBX.TIME):
            fields[OBX.EQUIPMENT] = self._equipment
        self.segments.append((OBX, {number: value for number, value in fields.items() if value}))

    def facets(self, path: str, phase: Phase, *, active: bool, priority: Priority, kind: str) -> None:
        for facet, value in (
            (PHASE, phase.value),
            (STATE, "active" if active else "inactive"),
            (INACTIVATION, "enabled"),
            (PRIORITY, priority.value),
            (TYPE, kind),
        ):
            self.add("ST", _coded(facet), f"{path}.{facet.number}", value.encode())


def _coded(facet: Facet) -> bytes:
    return components(str(facet.code), facet.ref_id, "MDC")


def _header(message_id: str, created: float, s: Hl7AlertSettings) -> Fields:
    return {
        MSH.SENDING_APPLICATION: _configured(s.sending_application),
        MSH.SENDING_FACILITY: _configured(s.sending_facility),
        MSH.RECEIVING_APPLICATION: _configured(s.receiving_application),
        MSH.RECEIVING_FACILITY: _configured(s.receiving_facility),
        MSH.TIME: dtm(created),
        MSH.TYPE: components("ORU", "R40", "ORU_R40"),
        MSH.CONTROL_ID: escape(message_id),
        MSH.PROCESSING_ID: s.processing_id.encode(),
        MSH.VERSION: b"2.6",
        MSH.ACCEPT_ACKNOWLEDGEMENT: s.accept_acknowledgement.encode(),
        MSH.APPLICATION_ACKNOWLEDGEMENT: s.application_acknowledgement.encode(),
        MSH.CHARACTER_SET: b"UNICODE UTF-8",
        MSH.PROFILE: _configured(s.profile),
    }


def _configured(text: str) -> bytes:
    """A field as it stands in the configuration: components, and perhaps repetitions."""
    return b"~".join(from_component_form(one) for one in text.split("~"))


def _patient(who: Encounter) -> Fields:
    """PID. An unknown patient has no PID-3 and the name type U."""
    known = bool(who.family_name or who.given_name)
    name = (who.family_name, who.given_name, "", "", "", "", "L" if known else "U")
    return {
        PID.SET_ID: b"1",
        PID.IDENTIFIERS: b"~".join(map(from_component_form, who.patient_ids)),
        PID.NAME: components(*name),
        PID.BIRTH_TIME: escape(who.birth_date) or None,
        PID.SEX: escape(who.sex) or None,
    }


def _visit(who: Encounter, bed: str) -> Fields:
    """PV1; where the hospital's own location is not known, the agent's bed id ``site/unit/bed`` stands for it."""
    match bed.split("/"):
        case [site, unit, *rest] if rest:
            place = components(unit, "", "/".join(rest), site)
        case _:
            place = components("", "", bed)
    return {
        PV1.SET_ID: b"1",
        PV1.PATIENT_CLASS: b"U",
        PV1.LOCATION: from_component_form(who.location) or place,
        PV1.VISIT_NUMBER: escape(who.visit) or None,
    }


def _order(first_id: str, message_id: str, phase: Phase, created: float, s: Hl7AlertSettings) -> Fields:
    """OBR: the first message's id in OBR-3, and in later messages in OBR-29 beside their own in OBR-3."""
    reporter = _configured(s.sending_application)
    first = phase is Phase.START
    # OBR-29 is of type EIP: the parent's filler number is its second component, an EI of subcomponents.
    parent = b"^" + escape(first_id) + b"&" + reporter.replace(b"^", b"&")
    return {
        OBR.SET_ID: b"1",
        OBR.PLACER: reporter,
        OBR.FILLER: escape(first_id if first else message_id) + b"^" + reporter,
        OBR.SERVICE: _coded(EVENT),
        OBR.TIME: dtm(created),
        OBR.PARENT: None if first else parent,
    }


def _event(alert: Alert, settings: Hl7AlertSettings) -> tuple[str, ...]:
    """Components of the event's code."""
    if alert.code:
        return str(alert.code), alert.ref_id, "MDC"
    try:
        code = PRIVATE_BASE + index_of(alert.label)
    except KeyError:
        code = PRIVATE_OTHER
    system = f"urn:oid:{settings.private_oid}" if settings.private_oid else "99DEEPECG"
    return str(code), f"MDC_PRIVATE_{code}", "MDC", str(code), alert.label, system


def _source(code: int) -> bytes:
    code = code or ECG_ELEC_POTL
    return components(str(code), SOURCES.get(code, ""), "MDC")
